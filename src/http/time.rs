//! Times as clients write them, in one form wherever they are.

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};

/// What RFC 3339 has up to the seconds; `d` is a digit.
const DATE_AND_TIME: &[u8] = b"dddd-dd-ddTdd:dd:dd";
const DATE: &[u8] = b"dddd-dd-dd";

/// RFC 3339, with any offset, to the microsecond: further digits are cut. Its leap
/// second (`:60`) is none that a log could keep in order, and years have four
/// digits in UTC too, so that what the log says can be read back.
pub fn time(text: &str) -> Option<DateTime<Utc>> {
    let (date_and_time, rest) = text.as_bytes().split_at_checked(DATE_AND_TIME.len())?;
    let fraction_and_offset = match rest.split_first()? {
        (b'.', fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            &fraction[digits..]
        }
        _ => rest,
    };
    let is_offset = match fraction_and_offset {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', offset @ ..] => has_form(offset, b"dd:dd"),
        _ => false,
    };
    if !is_offset || !has_form(date_and_time, DATE_AND_TIME) || date_and_time.ends_with(b":60") {
        return None;
    }
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    DateTime::from_timestamp_micros(time.timestamp_micros()).filter(|time| (0..=9_999).contains(&time.year()))
}

/// The same, or a date (`2026-01-31`), which is its first moment in UTC.
pub fn time_or_date(text: &str) -> Option<DateTime<Utc>> {
    if !has_form(text.as_bytes(), DATE) {
        return time(text);
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_time(NaiveTime::MIN).and_utc())
}

/// `d` stands for a digit, `T` for either case of it.
fn has_form(text: &[u8], form: &[u8]) -> bool {
    let fits = |(byte, form): (&u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        form => byte.eq_ignore_ascii_case(form),
    };
    text.len() == form.len() && text.iter().zip(form).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(time: Option<DateTime<Utc>>) -> Option<String> {
        time.map(|time| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
    }

    #[test]
    fn a_time_is_rfc_3339_and_cut_to_the_microsecond() {
        for (text, expected) in [
            ("2026-11-24T09:30:00Z", "2026-11-24T09:30:00.000000Z"),
            ("2026-11-24t09:30:00z", "2026-11-24T09:30:00.000000Z"),
            ("2026-11-24T01:30:00.5+02:00", "2026-11-23T23:30:00.500000Z"),
            ("2026-11-24T01:30:00-00:30", "2026-11-24T02:00:00.000000Z"),
            ("2026-12-31T23:59:59.9999999Z", "2026-12-31T23:59:59.999999Z"),
            ("2026-12-31T23:59:59.9999999999999Z", "2026-12-31T23:59:59.999999Z"),
            ("1969-12-31T23:59:59.0000019Z", "1969-12-31T23:59:59.000001Z"),
            ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00.000000Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(shown(time(text)).as_deref(), Some(expected), "{text}");
            assert_eq!(time_or_date(text), time(text), "{text}");
        }
    }

    #[test]
    fn a_date_is_its_first_moment_in_utc() {
        assert_eq!(shown(time_or_date("2026-01-31")).as_deref(), Some("2026-01-31T00:00:00.000000Z"));
        assert_eq!(time("2026-01-31"), None);
    }

    #[test]
    fn nothing_else_is_one() {
        for text in [
            "",
            "now",
            "1764000000",
            "2026-1-1",
            "2026-01-1",
            "2026-1-01",
            "26-01-01",
            "02026-01-01",
            "10000-01-01",
            "+2026-01-01",
            "+10000-01-01",
            "-0001-01-01",
            " -001-01-01",
            "2026-01",
            "2026-01-01 ",
            "2026/01/01",
            "31.01.2026",
            "2026-02-29",
            "2026-13-01",
            "２026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00Z",
            "2026-1-1T00:00:00Z",
            "2026-01-01T0:00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00 02:00",
            "2026-01-01T00:00:00+0200",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00\u{2212}02:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00,5Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T23:60:00Z",
            "2026-12-31T23:59:60Z",
            "2026-12-31T23:59:60.5Z",
            "2016-12-31T23:59:60+00:00",
            "2026-12-31T23:59:61Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
        ] {
            assert_eq!((time(text), time_or_date(text)), (None, None), "{text}");
        }
    }
}
