//! Commands with what they print, as the README shows them.
//!
//! A line that begins with `$ ` is a command; what follows, up to the next one, is its output, standard error
//! included. What is new in every run (ids, times, API keys) may differ, and a line `…` stands for any number of lines.

/// A line that stands for lines that are left out.
const LEFT_OUT: &str = "…";

/// One command and what it prints.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    pub output: String,
}

/// The commands of a block.
pub fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step { command: command.to_owned(), output: String::new() }),
            None => {
                let step = steps.last_mut().unwrap_or_else(|| panic!("output before the first command:\n{block}"));
                step.output.push_str(line);
                step.output.push('\n');
            }
        }
    }
    steps
}

/// Whether `actual` is what is `shown`.
pub fn agree(shown: &str, actual: &str) -> bool {
    let (shown, actual) = (settled(shown), settled(actual));
    let mut parts = shown.split(|line| line == LEFT_OUT);
    let first = parts.next().unwrap_or_default();
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return first == actual };
    let Some(mut rest) = actual.strip_prefix(first) else { return false };
    for part in middle {
        if part.is_empty() {
            continue;
        }
        let Some(at) = rest.windows(part.len()).position(|lines| lines == *part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The lines without what is new in every run, without spaces at their ends, and without empty ones at the end.
fn settled(text: &str) -> Vec<String> {
    let words = |line: &str| line.trim_end().split(' ').map(blanked).collect::<Vec<_>>().join(" ");
    text.trim_end().lines().map(words).collect()
}

/// A word, or what kind of thing it is if that is new in every run.
fn blanked(word: &str) -> &str {
    let is_uuid = word.len() == 36
        && word
            .char_indices()
            .all(|(at, c)| if [8, 13, 18, 23].contains(&at) { c == '-' } else { c.is_ascii_hexdigit() });
    // To the second or to the microsecond: columns differ in width, so these are two kinds.
    let is_time = |format: &str| chrono::NaiveDateTime::parse_from_str(word, format).is_ok();
    match word.len() {
        _ if is_uuid => "<uuid>",
        20 if is_time("%Y-%m-%dT%H:%M:%SZ") => "<second>",
        27 if is_time("%Y-%m-%dT%H:%M:%S%.6fZ") => "<time>",
        _ if word.starts_with("sy_") => "<key>",
        _ => word,
    }
}

/// A line of the log: its level, its message, and the names of its fields.
pub fn shape(line: &str) -> String {
    let mut words = line.split_whitespace().skip(1);
    let mut shape = words.next().unwrap_or_default().to_owned();
    let mut is_message = true;
    for word in words {
        let name = word.split_once('=').map(|(name, _)| name).filter(|name| !name.contains('"'));
        is_message &= name.is_none();
        if is_message || name.is_some() {
            shape.push(' ');
            shape.push_str(name.map_or(word, |name| name));
        }
    }
    shape
}

#[test]
fn a_log_line_is_what_it_says_and_not_when() {
    let line = "2026-11-22T23:40:48.358760Z  INFO using it version=postgres (PostgreSQL) 15.18 user=\"a b\"";
    assert_eq!(shape(line), "INFO using it version user");
}

#[test]
fn a_block_is_commands_and_their_outputs() {
    let step = |command: &str, output: &str| Step { command: command.to_owned(), output: output.to_owned() };
    assert_eq!(steps("$ a\n$ b c\nd\n\ne"), [step("a", ""), step("b c", "d\n\ne\n")]);
}

#[test]
fn what_is_new_in_every_run_may_differ_and_nothing_else() {
    for (shown, actual, expected) in [
        ("a\nb\n\n", "a\nb\n", true),
        ("a\nb\n", "a\n", false),
        ("a  b", "a b", false),
        ("a\nb", "a \nb", true),
        ("at 2026-11-22T23:40:51.010746Z", "at 2027-01-01T00:00:00.000000Z", true),
        ("at 2026-11-22T23:40:51Z", "at 2027-01-01T00:00:00.000000Z", false),
        ("01a205a2-47c2-7ba8-985e-5f0ae3fde8ad 1", "00000000-0000-0000-0000-000000000000 1", true),
        ("01a205a2-47c2-7ba8-985e-5f0ae3fde8ad 1", "00000000-0000-0000-0000-000000000000 2", false),
        ("key sy_0a4f…", "key sy_ffffffff", true),
        ("a\n…\nd", "a\nb\nc\nd", true),
        ("a\n…\nd", "a\nd", true),
        ("a\n…\nd", "a\nb\nc", false),
        ("a\n…\nc\n…", "a\nb\nc\nd", true),
        ("a\n…\nx\n…", "a\nb\nc\nd", false),
        ("a\n…", "b\na", false),
    ] {
        assert_eq!(agree(shown, actual), expected, "{shown:?} {actual:?}");
    }
}
