//! Which moment a read is of: `as_of`, an effective time, and `as_of_position`,
//! what was known at a position of the log.

use chrono::TimeDelta;

use super::App;
use super::params::time;
use super::problem::{Code, Problem};
use super::reads::Freshness;
use crate::ledger::{AccountCode, Position};
use crate::store::as_of::{AsOf, Moment};

/// A time that is not further ahead than this may be the present by another
/// clock: that of the worker that records, or the client's own.
const CLOCKS_DIFFER_MAX: TimeDelta = TimeDelta::minutes(1);

/// The moment that a query names.
///
/// # Errors
/// `validation_failed` for a time that is none, or lies ahead.
pub fn of(app: &App, as_of: Option<&str>, as_of_position: Option<Position>) -> Result<Moment, Problem> {
    let time = as_of.map(|text| time("as_of", text)).transpose()?;
    if time.is_some_and(|time| time > app.worker.now() + CLOCKS_DIFFER_MAX) {
        return Err(Problem::invalid("/query/as_of", "this lies in the future, of which no balance is known"));
    }
    Ok(Moment { position: as_of_position, time })
}

/// A position that is read as of is waited for, as one that the client names.
pub fn freshness(asked: Freshness, position: Option<Position>) -> Freshness {
    Freshness { min_position: asked.min_position.max(position), ..asked }
}

/// # Errors
/// `projection_behind` where the account's projection has stopped before the moment.
pub fn refuse_stale(found: &AsOf, code: &AccountCode) -> Result<(), Problem> {
    if found.is_stale {
        let detail = format!("the projection of account {code} has stopped, and its entries are not complete");
        return Err(Problem::new(Code::ProjectionBehind, detail));
    }
    Ok(())
}
