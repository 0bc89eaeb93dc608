//! The lines of a body that comes in pieces, with their numbers and where they end.

use bytes::Bytes;

/// Bytes that one line may have: metadata and texts at their bounds, with every
/// character of the texts as an escape.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// What spreadsheets write before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line, without its line break.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Number of the line, or of the first of those that a quoted record is spread over.
    pub number: u64,
    /// Bytes of the body up to and with its line break.
    pub end: u64,
    /// `None` when it is too long.
    pub bytes: Option<&'a [u8]>,
}

/// Cuts what is fed into it at line breaks.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Where in the buffer the next line begins, and up to where it has been looked at.
    start: usize,
    looked: usize,
    /// Line breaks between double quotes belong to the record (RFC 4180, section 2.6).
    quotes: bool,
    within_quotes: bool,
    /// Line breaks within the record so far.
    breaks: u64,
    /// Number of the line at `start`.
    number: u64,
    /// Bytes of the body before `start`.
    before: u64,
    /// The line that is being read is too long: its bytes are dropped.
    overlong: bool,
    ended: bool,
}

impl Lines {
    /// `number` is the first line's.
    pub const fn new(quotes: bool, number: u64) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            looked: 0,
            quotes,
            within_quotes: false,
            breaks: 0,
            number,
            before: 0,
            overlong: false,
            ended: false,
        }
    }

    /// What follows has another number: the header of a file that is continued counts for nothing.
    pub const fn renumber(&mut self, number: u64) {
        self.number = number;
    }

    pub const fn number(&self) -> u64 {
        self.number
    }

    pub fn feed(&mut self, data: &Bytes) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.looked -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(data);
    }

    /// No more will be fed: what is left is the last line.
    pub const fn end(&mut self) {
        self.ended = true;
    }

    /// The next line that is whole.
    pub fn next(&mut self) -> Option<Piece<'_>> {
        loop {
            let rest = &self.buffer[self.looked..];
            let found = if self.quotes { memchr::memchr2(b'\n', b'"', rest) } else { memchr::memchr(b'\n', rest) };
            let Some(found) = found else {
                self.looked = self.buffer.len();
                if self.ended && (self.start < self.buffer.len() || self.overlong) {
                    return Some(self.take(self.buffer.len(), self.buffer.len()));
                }
                self.drop_overlong();
                return None;
            };
            let at = self.looked + found;
            self.looked = at + 1;
            if self.buffer[at] == b'"' {
                self.within_quotes = !self.within_quotes;
            } else if self.within_quotes && !self.overlong && at - self.start <= LINE_BYTES_MAX {
                self.breaks += 1;
            } else {
                return Some(self.take(at, at + 1));
            }
        }
    }

    fn take(&mut self, end: usize, next: usize) -> Piece<'_> {
        let number = self.number;
        self.number += 1 + self.breaks;
        let start = std::mem::replace(&mut self.start, next);
        self.before += (next - start) as u64;
        let too_long = std::mem::take(&mut self.overlong) || end - start > LINE_BYTES_MAX;
        (self.looked, self.breaks, self.within_quotes) = (next, 0, false);
        let mut bytes = &self.buffer[start..end];
        if number == 1 {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        Piece { number, end: self.before, bytes: (!too_long).then_some(bytes) }
    }

    /// Memory is bounded: of a line that is too long already only the end is looked for.
    fn drop_overlong(&mut self) {
        if self.buffer.len() - self.start > LINE_BYTES_MAX {
            self.overlong = true;
            self.within_quotes = false;
            self.before += (self.buffer.len() - self.start) as u64;
            self.start = self.buffer.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines of a text that comes in pieces of each size; they are the same for every size.
    fn check(quotes: bool, text: &str, expected: &[(u64, u64, Option<&str>)]) {
        for size in [1, 2, 3, 7, 64 * 1024, 1024 * 1024] {
            let mut lines = Lines::new(quotes, 1);
            let mut found = Vec::new();
            let mut take = |lines: &mut Lines| {
                while let Some(Piece { number, end, bytes }) = lines.next() {
                    found.push((number, end, bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())));
                }
            };
            for piece in text.as_bytes().chunks(size) {
                lines.feed(&Bytes::copy_from_slice(piece));
                take(&mut lines);
            }
            lines.end();
            take(&mut lines);
            let found: Vec<_> = found.iter().map(|(number, end, text)| (*number, *end, text.as_deref())).collect();
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn lines_are_cut_at_their_breaks() {
        check(false, "", &[]);
        check(false, "a", &[(1, 1, Some("a"))]);
        check(false, "a\n", &[(1, 2, Some("a"))]);
        check(false, "\u{feff}a\r\n\n\"b\n", &[(1, 6, Some("a")), (2, 7, Some("")), (3, 10, Some("\"b"))]);
    }

    #[test]
    fn a_break_between_quotes_belongs_to_the_record() {
        check(true, "a,\"b\nc\"\"\n\"\nd\n", &[(1, 11, Some("a,\"b\nc\"\"\n\"")), (4, 13, Some("d"))]);
    }

    #[test]
    fn a_line_that_is_too_long_is_none_and_the_next_is_a_line() {
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let end = LINE_BYTES_MAX as u64 + 2;
        check(false, &format!("{long}\nb\n"), &[(1, end, None), (2, end + 2, Some("b"))]);
        check(false, &long, &[(1, end - 1, None)]);
        let most = "x".repeat(LINE_BYTES_MAX);
        check(false, &most, &[(1, end - 2, Some(&most))]);
    }
}
