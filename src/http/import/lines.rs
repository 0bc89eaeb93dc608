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
    /// Number of the last of them.
    pub last: u64,
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
    /// Line breaks in quoted fields belong to the record (RFC 4180, section 2.6). A quote that is not at the beginning
    /// of a field opens none, so that one that is out of place costs its own line only.
    quotes: bool,
    within_quotes: bool,
    bytes_max: usize,
    /// Line breaks within the record so far, and where in the body the last of them ends.
    breaks: u64,
    broken_at: u64,
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
            bytes_max: LINE_BYTES_MAX,
            breaks: 0,
            broken_at: 0,
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
            let looks_for_quotes = self.quotes && !self.overlong;
            let found = if looks_for_quotes { memchr::memchr2(b'\n', b'"', rest) } else { memchr::memchr(b'\n', rest) };
            let Some(found) = found else {
                self.looked = self.buffer.len();
                if self.ended && (self.start < self.buffer.len() || self.overlong) {
                    if self.breaks > 0 && self.broken_at == self.before + (self.buffer.len() - self.start) as u64 {
                        // It ends the body's last line, though a quote was not closed.
                        self.breaks -= 1;
                    }
                    return Some(self.take(self.buffer.len(), self.buffer.len()));
                }
                self.drop_overlong();
                return None;
            };
            let at = self.looked + found;
            self.looked = at + 1;
            if self.buffer[at] == b'"' {
                match self.buffer.get(at + 1) {
                    _ if !self.within_quotes => self.within_quotes = self.begins_field(at),
                    Some(b'"') => self.looked = at + 2,
                    // Whether it is half of a quote or the end of the field, the next byte says.
                    None if !self.ended => {
                        self.looked = at;
                        self.drop_overlong();
                        return None;
                    }
                    _ => self.within_quotes = false,
                }
            } else if self.within_quotes && !self.overlong && at - self.start <= self.bytes_max {
                self.breaks += 1;
                self.broken_at = self.before + (at + 1 - self.start) as u64;
            } else {
                return Some(self.take(at, at + 1));
            }
        }
    }

    /// Whether a field begins there, in the line that is being read.
    fn begins_field(&self, at: usize) -> bool {
        match &self.buffer[self.start..at] {
            [] | [.., b','] => true,
            before => self.number == 1 && before == BYTE_ORDER_MARK,
        }
    }

    fn take(&mut self, end: usize, next: usize) -> Piece<'_> {
        let (number, last) = (self.number, self.number + self.breaks);
        self.number = last + 1;
        let start = std::mem::replace(&mut self.start, next);
        self.before += (next - start) as u64;
        let too_long = std::mem::take(&mut self.overlong) || end - start > self.bytes_max;
        (self.looked, self.breaks, self.within_quotes) = (next, 0, false);
        let mut bytes = &self.buffer[start..end];
        if number == 1 {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        Piece { number, last, end: self.before, bytes: (!too_long).then_some(bytes) }
    }

    /// Memory is bounded: of a line that is too long already only the end is looked for.
    fn drop_overlong(&mut self) {
        if self.buffer.len() - self.start > self.bytes_max {
            self.overlong = true;
            self.within_quotes = false;
            self.before += (self.buffer.len() - self.start) as u64;
            self.start = self.buffer.len();
            self.looked = self.start;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All lines of a text that comes in pieces of each size; they are the same for every size.
    fn check(quotes: bool, text: &str, expected: &[(u64, u64, Option<&str>)]) {
        for size in [1, 2, 3, 7, 64 * 1024, 1024 * 1024] {
            let mut lines = Lines::new(quotes, 1);
            let mut found = Vec::new();
            let mut take = |lines: &mut Lines| {
                while let Some(Piece { number, end, bytes, .. }) = lines.next() {
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
        check(true, "\u{feff}\"b\nc\"\nd\n", &[(1, 9, Some("\"b\nc\"")), (3, 11, Some("d"))]);
    }

    #[test]
    fn a_quote_within_a_field_opens_none() {
        check(true, "7\" a,b\nc\n", &[(1, 7, Some("7\" a,b")), (2, 9, Some("c"))]);
        check(true, "\"a\"b\",c\nd", &[(1, 8, Some("\"a\"b\",c")), (2, 9, Some("d"))]);
        check(true, "a,\"\"\nb\n", &[(1, 5, Some("a,\"\"")), (2, 7, Some("b"))]);
    }

    #[test]
    fn a_quoted_field_that_is_not_closed_ends_at_the_limit_and_says_where() {
        let mut lines = Lines { bytes_max: 6, ..Lines::new(true, 1) };
        lines.feed(&Bytes::from_static(b"a\n\"b\nc\nd\ne\nf\n"));
        let pieces: Vec<_> = std::iter::from_fn(|| lines.next().map(|piece| (piece.number, piece.last))).collect();
        assert_eq!(pieces, [(1, 1), (2, 5), (6, 6)]);
    }

    /// Number, last number, end and bytes of a line.
    type Found = (u64, u64, u64, Option<Vec<u8>>);

    /// The same, byte by byte.
    fn naive(quotes: bool, text: &[u8], bytes_max: usize) -> Vec<Found> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            Begins,
            Plain,
            Quoted,
            /// Behind a quote in a quoted field.
            Closes,
        }
        let mut found = Vec::new();
        let (mut state, mut start, mut number, mut breaks) = (State::Begins, 0, 1, 0);
        let mut end = |start: usize, end: usize, next: usize, number: u64, last: u64| {
            let bytes = &text[start..end];
            let fits = bytes.len() <= bytes_max;
            let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            found.push((number, last, next as u64, fits.then(|| bytes.to_vec())));
        };
        for (at, byte) in text.iter().enumerate() {
            state = match (state, byte) {
                (State::Quoted, b'\n') if at - start <= bytes_max => {
                    breaks += 1;
                    State::Quoted
                }
                (_, b'\n') => {
                    end(start, at, at + 1, number, number + breaks);
                    (start, number, breaks) = (at + 1, number + breaks + 1, 0);
                    State::Begins
                }
                (State::Begins | State::Closes, b'"') if quotes => State::Quoted,
                (State::Quoted, b'"') => State::Closes,
                (State::Quoted, _) => State::Quoted,
                (_, b',') => State::Begins,
                _ => State::Plain,
            };
        }
        if start < text.len() {
            let breaks = breaks - u64::from(breaks > 0 && text.ends_with(b"\n"));
            end(start, text.len(), text.len(), number, number + breaks);
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn lines_are_the_same_however_they_come(
            quotes in any::<bool>(),
            pieces in proptest::collection::vec("[a,\"\n\r]{0,6}", 0..16),
            bytes_max in 1_usize..24,
        ) {
            let mut lines = Lines { bytes_max, ..Lines::new(quotes, 1) };
            let mut found = Vec::new();
            let mut take = |lines: &mut Lines| {
                while let Some(Piece { number, last, end, bytes }) = lines.next() {
                    found.push((number, last, end, bytes.map(<[u8]>::to_vec)));
                }
            };
            for piece in &pieces {
                lines.feed(&Bytes::copy_from_slice(piece.as_bytes()));
                take(&mut lines);
            }
            lines.end();
            take(&mut lines);
            prop_assert_eq!(found, naive(quotes, pieces.concat().as_bytes(), bytes_max));
        }
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
