//! Statements for people: as CSV (RFC 4180) and as a page to print.
//!
//! Pure: an opening balance, lines and a closing balance in, text out. Whatever
//! came from a client is escaped, and a cell of a spreadsheet is never a formula.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::ledger::{Amount, Side};
use crate::store::as_of::LineRow;

/// What a statement is of.
#[derive(Clone, Debug)]
pub struct Heading {
    pub ledger: String,
    pub account: String,
    pub asset: String,
    /// Decimals of the asset.
    pub scale: u8,
    pub normal: Side,
    /// The period: from then on, and before then.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub opening: Amount,
    pub closing: Amount,
    /// The position of the log that it is as of, at least.
    pub position: u64,
}

/// A line with the balance after it, on the normal side.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub row: &'a LineRow,
    pub balance: Amount,
}

/// How a statement is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Csv,
    Html,
}

impl Form {
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Html => "text/html; charset=utf-8",
        }
    }

    pub fn begin(self, heading: &Heading, out: &mut String) {
        match self {
            Self::Csv => csv_begin(heading, out),
            Self::Html => html_begin(heading, out),
        }
    }

    pub fn line(self, heading: &Heading, line: Line<'_>, out: &mut String) {
        match self {
            Self::Csv => csv_line(heading, line, out),
            Self::Html => html_line(heading, line, out),
        }
    }

    pub fn end(self, heading: &Heading, out: &mut String) {
        match self {
            Self::Csv => csv_balance(heading, "closing_balance", heading.to, heading.closing, out),
            Self::Html => html_end(heading, out),
        }
    }
}

/// A file name for a statement: what every system takes.
pub fn file_name(account: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    format!("statement-{}.csv", account.chars().map(plain).collect::<String>())
}

/// An amount in the asset's main unit: 1250 with two decimals is 12.50.
pub fn decimal(amount: Amount, scale: u8) -> String {
    let scale = usize::from(scale);
    let sign = if amount.get() < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", amount.get().unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn rfc_3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

const CSV_COLUMNS: &str =
    "kind,account,effective_at,recorded_at,position,transaction_id,reference,side,amount,balance,asset";

fn csv_begin(heading: &Heading, out: &mut String) {
    out.push_str(CSV_COLUMNS);
    out.push_str("\r\n");
    csv_balance(heading, "opening_balance", heading.from, heading.opening, out);
}

fn csv_balance(heading: &Heading, kind: &str, at: DateTime<Utc>, balance: Amount, out: &mut String) {
    let (account, asset) = (cell(&heading.account), cell(&heading.asset));
    let balance = decimal(balance, heading.scale);
    _ = write!(out, "{kind},{account},{},,,,,,,{balance},{asset}\r\n", rfc_3339(at));
}

fn csv_line(heading: &Heading, Line { row, balance }: Line<'_>, out: &mut String) {
    _ = write!(
        out,
        "line,{},{},{},{},{},{},{},{},{},{}\r\n",
        cell(&heading.account),
        rfc_3339(row.effective_at),
        rfc_3339(row.recorded_at),
        row.position,
        row.transaction_id,
        cell(row.reference.as_deref().unwrap_or_default()),
        row.side,
        decimal(row.amount, heading.scale),
        decimal(balance, heading.scale),
        cell(&heading.asset),
    );
}

/// A text as a cell. One that a spreadsheet would take for a formula gets an
/// apostrophe before it (OWASP, "CSV Injection").
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let quoted = formula || text.contains([',', '"', '\r', '\n']);
    let guard = if formula { "'" } else { "" };
    if quoted { format!("\"{guard}{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// The page's own style; nothing is loaded.
const STYLE: &str = "\
body{font:14px/1.45 system-ui,sans-serif;color:#111;background:#fff;max-width:64em;margin:2em auto;padding:0 1em}\
h1{font-size:1.4em;margin:0 0 .6em}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1.2em;margin:0 0 1.4em}dt{color:#555}dd{margin:0}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.3em .6em;border-bottom:1px solid #ddd}\
thead th{border-bottom:2px solid #111}\
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
.t{white-space:nowrap}.r{overflow-wrap:anywhere}.b td{font-weight:600;background:#f4f4f4}\
small{color:#666;overflow-wrap:anywhere}\
@page{size:A4;margin:16mm}\
@media print{body{font-size:10px;max-width:none;margin:0;padding:0}thead{display:table-header-group}\
tr{break-inside:avoid}.b td{background:none}}";

fn html_begin(heading: &Heading, out: &mut String) {
    let Heading { ledger, account, asset, normal, from, to, position, .. } = heading;
    let (account, asset, ledger) = (escape(account), escape(asset), escape(ledger));
    _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Statement of {account}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Statement of {account}</h1>\n<dl>\n\
         <dt>Ledger</dt><dd>{ledger}</dd>\n<dt>Asset</dt><dd>{asset}</dd>\n\
         <dt>Balance counted as</dt><dd>{normal}</dd>\n\
         <dt>From</dt><dd>{}</dd>\n<dt>To, exclusive</dt><dd>{}</dd>\n\
         <dt>As of position</dt><dd>{position}</dd>\n</dl>\n<table>\n<thead>\n<tr><th>Date (UTC)</th>\
         <th>Reference</th><th class=\"n\">Debit</th><th class=\"n\">Credit</th><th class=\"n\">Balance</th></tr>\n\
         </thead>\n<tbody>\n",
        date(*from),
        date(*to),
        normal = normal.as_str(),
    );
    html_balance(heading, "Opening balance", heading.from, heading.opening, out);
}

fn html_balance(heading: &Heading, name: &str, at: DateTime<Utc>, balance: Amount, out: &mut String) {
    _ = writeln!(
        out,
        "<tr class=\"b\"><td class=\"t\">{}</td><td>{name}</td><td></td><td></td><td class=\"n\">{}</td></tr>",
        date(at),
        decimal(balance, heading.scale)
    );
}

fn html_line(heading: &Heading, Line { row, balance }: Line<'_>, out: &mut String) {
    let amount = decimal(row.amount, heading.scale);
    let (debit, credit) = if row.side == Side::Debit.as_str() { (amount.as_str(), "") } else { ("", amount.as_str()) };
    _ = writeln!(
        out,
        "<tr><td class=\"t\">{}</td><td class=\"r\">{}<br><small>{}</small></td>\
         <td class=\"n\">{debit}</td><td class=\"n\">{credit}</td><td class=\"n\">{}</td></tr>",
        date(row.effective_at),
        escape(row.reference.as_deref().unwrap_or_default()),
        row.transaction_id,
        decimal(balance, heading.scale)
    );
}

fn html_end(heading: &Heading, out: &mut String) {
    html_balance(heading, "Closing balance", heading.to, heading.closing, out);
    out.push_str("</tbody>\n</table>\n</body>\n</html>\n");
}

/// To the second, for people.
fn date(time: DateTime<Utc>) -> impl std::fmt::Display {
    time.format("%Y-%m-%d %H:%M:%S")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Direction marks and controls could rearrange what is read.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                escaped.push('\u{fffd}');
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(value: i128) -> Amount {
        Amount::new(value).unwrap()
    }

    #[test]
    fn amounts_have_the_assets_decimals() {
        for (value, scale, text) in [
            (1250, 2, "12.50"),
            (-5, 2, "-0.05"),
            (0, 2, "0.00"),
            (7, 0, "7"),
            (-7, 0, "-7"),
            (1, 18, "0.000000000000000001"),
        ] {
            assert_eq!(decimal(amount(value), scale), text);
        }
        assert_eq!(decimal(Amount::MIN, 37), format!("-9.{}", "9".repeat(37)));
    }

    #[test]
    fn a_cell_is_never_a_formula() {
        for (text, expected) in [
            ("invoice 7", "invoice 7"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "\"'=1+1\""),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("-2", "\"'-2\""),
            ("+49", "\"'+49\""),
            ("\t=1", "\"'\t=1\""),
            ("＝1", "\"'＝1\""),
        ] {
            assert_eq!(cell(text), expected);
        }
    }

    #[test]
    fn a_page_escapes_what_clients_wrote_and_loads_nothing() {
        let heading = Heading {
            ledger: "main".to_owned(),
            account: "wallet:alice".to_owned(),
            asset: "EUR".to_owned(),
            scale: 2,
            normal: Side::Credit,
            from: DateTime::UNIX_EPOCH,
            to: DateTime::UNIX_EPOCH,
            opening: amount(0),
            closing: amount(-105),
            position: 7,
        };
        let row = LineRow {
            version: 1,
            position: 7,
            transaction_id: uuid::Uuid::nil(),
            side: "debit".to_owned(),
            amount: amount(105),
            reference: Some("<script src=\"//x\">alert('1')</script> & \u{202e}more".to_owned()),
            effective_at: DateTime::UNIX_EPOCH,
            recorded_at: DateTime::UNIX_EPOCH,
        };
        let mut page = String::new();
        Form::Html.begin(&heading, &mut page);
        Form::Html.line(&heading, Line { row: &row, balance: amount(-105) }, &mut page);
        Form::Html.end(&heading, &mut page);
        assert!(
            page.contains("&lt;script src=&quot;//x&quot;&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; \u{fffd}more")
        );
        assert!(page.contains("-1.05"));
        for forbidden in ["<script", "http:", "https:", "url(", "@import", "src=\"", "href"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn file_names_are_plain() {
        assert_eq!(file_name("assets:bank/eur@1.x"), "statement-assets-bank-eur-1-x.csv");
    }
}
