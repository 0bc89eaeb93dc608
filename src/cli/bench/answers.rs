//! Counts what the answers say without parsing them: the load generator's time is taken from the server.

use crate::cli::client::BUSINESS_REJECTIONS;

/// What became of the payments of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Posted: 201.
    pub(super) accepted: u64,
    /// Declined and recorded, such as for insufficient funds.
    pub(super) rejected: u64,
    /// Everything else.
    pub(super) failed: u64,
}

/// Finds a text by the algorithm of Horspool (Software: Practice and Experience, 1980): most bytes are never looked at,
/// because a mismatch skips as far as the last byte compared allows.
struct Needle {
    text: &'static [u8],
    skip: [u8; 256],
}

impl Needle {
    const fn new(text: &'static [u8]) -> Needle {
        assert!(!text.is_empty() && text.len() <= u8::MAX as usize);
        let last = text.len() - 1;
        let mut skip = [text.len() as u8; 256];
        let mut index = 0;
        while index < last {
            skip[text[index] as usize] = (last - index) as u8;
            index += 1;
        }
        Needle { text, skip }
    }

    fn count(&self, haystack: &[u8]) -> u64 {
        let length = self.text.len();
        let mut found = 0;
        let mut end = length;
        while end <= haystack.len() {
            if haystack[end - length..end] == *self.text {
                found += 1;
                end += length;
            } else {
                end += usize::from(self.skip[usize::from(haystack[end - 1])]);
            }
        }
        found
    }

    fn find(&self, haystack: &[u8]) -> Option<usize> {
        let length = self.text.len();
        let mut end = length;
        while end <= haystack.len() {
            if haystack[end - length..end] == *self.text {
                return Some(end - length);
            }
            end += usize::from(self.skip[usize::from(haystack[end - 1])]);
        }
        None
    }
}

/// What an item of a batch that was posted begins with. A payment's own status is a word and a problem's is never 201,
/// so nothing else in an answer has these bytes.
static POSTED: Needle = Needle::new(br#""status":201"#);

/// Before the stable code of a problem. Only items that were not posted have a problem.
const CODE_MEMBER: &str = r#""code":""#;

/// Counts the items of the answer to a batch of `payments`.
pub(super) fn count_batch(body: &[u8], payments: u64) -> Counts {
    let accepted = POSTED.count(body).min(payments);
    if accepted == payments {
        return Counts { accepted, rejected: 0, failed: 0 };
    }
    let rejected = count_rejections(body).min(payments - accepted);
    Counts { accepted, rejected, failed: payments - accepted - rejected }
}

/// Whether the problem document is of a payment that was declined and recorded.
pub(super) fn is_rejection(body: &[u8]) -> bool {
    count_rejections(body) > 0
}

fn count_rejections(body: &[u8]) -> u64 {
    static CODES: Needle = Needle::new(CODE_MEMBER.as_bytes());
    let mut rejected = 0;
    let mut rest = body;
    while let Some(at) = CODES.find(rest) {
        rest = &rest[at + CODE_MEMBER.len()..];
        let is_rejection = BUSINESS_REJECTIONS
            .iter()
            .any(|code| rest.strip_prefix(code.as_bytes()).is_some_and(|after| after.first() == Some(&b'"')));
        rejected += u64::from(is_rejection);
    }
    rejected
}

/// From the first problem in the answer to a batch on, for showing it.
pub(super) fn first_problem(body: &[u8]) -> &[u8] {
    static PROBLEM: Needle = Needle::new(br#""problem":"#);
    PROBLEM.find(body).map_or(body, |at| &body[at..])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn posted(n: u32) -> Value {
        json!({"status": 201, "payment": {"id": format!("0193-{n}"), "type": "payment", "status": "posted",
               "amount": "201", "metadata": {}, "position": n}})
    }

    fn refused(status: u16, code: &str) -> Value {
        json!({"status": status, "problem": {"title": "t", "status": status, "code": code, "detail": "201"}})
    }

    fn count(results: Vec<Value>) -> Counts {
        let payments = results.len() as u64;
        count_batch(json!({"results": results}).to_string().as_bytes(), payments)
    }

    #[test]
    fn a_batch_is_counted_by_what_became_of_its_items() {
        let results = vec![
            posted(1),
            refused(422, "insufficient_funds"),
            posted(2),
            refused(422, "account_frozen"),
            refused(404, "account_not_found"),
            refused(422, "validation_failed"),
            posted(3),
        ];
        assert_eq!(count(results), Counts { accepted: 3, rejected: 2, failed: 2 });
    }

    #[test]
    fn a_batch_that_was_all_posted_is_counted_in_one_pass() {
        assert_eq!(count((1..=500).map(posted).collect()), Counts { accepted: 500, rejected: 0, failed: 0 });
    }

    #[test]
    fn an_answer_that_is_cut_off_counts_as_failed_from_there() {
        let cut = br#"{"results":[{"status":201,"payment":{"status":"posted"}},{"stat"#;
        assert_eq!(count_batch(cut, 2), Counts { accepted: 1, rejected: 0, failed: 1 });
        assert_eq!(count_batch(b"", 2), Counts { accepted: 0, rejected: 0, failed: 2 });
    }

    #[test]
    fn only_recorded_codes_are_rejections() {
        assert!(is_rejection(br#"{"title":"t","code":"insufficient_funds"}"#));
        assert!(!is_rejection(br#"{"title":"insufficient_funds","code":"validation_failed"}"#));
        assert!(!is_rejection(br#"{"code":"insufficient_funds_x"}"#));
    }

    #[test]
    fn the_search_agrees_with_the_plain_one() {
        for haystack in ["", "a", "aaaa", "abab", "xaab", "\"status\":20\"status\":201\"status\":201"] {
            for needle in [&b"a"[..], b"ab", b"aa", b"\"status\":201"] {
                let text = std::str::from_utf8(needle).unwrap();
                let found = Needle::new(needle);
                assert_eq!(
                    found.count(haystack.as_bytes()),
                    haystack.matches(text).count() as u64,
                    "{haystack} {text}"
                );
                assert_eq!(found.find(haystack.as_bytes()), haystack.find(text), "{haystack} {text}");
            }
        }
    }
}
