//! Commands on their way to the ledger, and what became of them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use metrics::counter;
use smallvec::smallvec;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::idempotency::{self, Route};
use super::super::problem::{Code, Problem, Shape};
use super::super::recorded::Recorded;
use super::super::{SharedApp, answer, body};
use super::ledger;
use crate::cluster::Ledger;
use crate::ledger::{Command, Event, Fact, Part, Position, Refusal};
use crate::sequencer::{Answer, Item, Key, Outcome, REQUEST_DEADLINE, Unavailable, Work};
use crate::store::events::KeyRow;
use crate::store::{self, Database};
use crate::telemetry::metric;

/// Events that the projections may be behind the log; past it payments are
/// refused, so that a lag stays bounded whatever the load.
pub const LAG_EVENTS_MAX: u64 = 5_000_000;

/// Submits one command and answers what it recorded, now or at the key's first use.
pub async fn record(
    database: &Database,
    ledger: &Ledger,
    command: Command,
    key: Key,
    shape: Shape,
) -> Result<Response, Problem> {
    let item = Item { command, key: Some(key.clone()) };
    let done = submit(ledger, Work::Each(smallvec![item])).await?;
    match done.outcomes.first() {
        Some(Outcome::Recorded { index, .. }) => match done.batch.events.get(*index) {
            Some(event) => recorded(event, done.position, false),
            None => Err(no_outcome()),
        },
        Some(Outcome::KeyUsed) => {
            let known = known(database, ledger, &[&key], done.position).await?;
            recorded(known.made_by(&key)?.first().ok_or_else(no_outcome)?, done.position, true)
        }
        Some(Outcome::Refused { refusal, .. }) => {
            let keys = [&key];
            let asked = if may_be_replay(refusal) { &keys[..] } else { &keys[..0] };
            let known = known(database, ledger, asked, done.position).await?;
            match known.replayed(&key).and_then(<[Event]>::first) {
                Some(event) => recorded(event, done.position, true),
                None => Err(Problem::refused(refusal, shape, "", done.position)),
            }
        }
        _ => Err(no_outcome()),
    }
}

/// The same for a command about the transaction that the path names, `read` from
/// its id and the body.
pub async fn record_about(
    app: &SharedApp,
    (name, id): (String, String),
    request: Request<Body>,
    route: Route,
    read: impl FnOnce(Uuid, &[u8]) -> Result<Command, Problem>,
) -> Result<Response, Problem> {
    let key = idempotency::from_headers(request.headers()).map(str::to_owned);
    let bytes = body::read(request).await?;
    let key = key?;
    let id = Uuid::try_parse(&id).ok();
    let command = read(id.unwrap_or_default(), &bytes)?;
    let ledger = ledger(app, &name).await?;
    if id.is_none() {
        return Err(no_transaction(ledger.tail.head()));
    }
    let key = idempotency::key(&key, route, [&command]);
    let shape = match &command {
        Command::Reverse(reverse) if matches!(reverse.part, Part::Legs(_)) => Shape::Legs,
        _ => Shape::Path,
    };
    record(&app.worker.database, &ledger, command, key, shape).await
}

/// What there is no transaction of, as of a position.
pub fn no_transaction(position: Position) -> Problem {
    Problem::new(Code::TransactionNotFound, "there is no such transaction in this ledger").as_of(position)
}

/// The answer that an event stands for, for ever.
fn recorded(event: &Event, position: Position, replayed: bool) -> Result<Response, Problem> {
    if let Some(output) = Recorded::new(event) {
        return Ok(answer(output.status(), &output, Some(position), replayed));
    }
    Err(Problem { replayed, ..rejection(event, "") }.as_of(position))
}

/// Whether what is refused now may have been recorded once, under a key that the
/// sequencer's memory has forgotten: a time that has passed since, a transaction that
/// this very request has withdrawn. No append asks the index of keys about a refusal.
/// All others stay what they are, however often they are asked.
pub const fn may_be_replay(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Invalid { .. } | Refusal::NotScheduled(_) | Refusal::TooManyWaiting)
}

pub async fn submit(ledger: &Ledger, work: Work) -> Result<Answer, Problem> {
    if ledger.lag() > LAG_EVENTS_MAX {
        return Err(Unavailable::ProjectionsBehind.into());
    }
    Ok(ledger.handle.submit(work, Instant::now() + REQUEST_DEADLINE).await?)
}

pub fn no_outcome() -> Problem {
    Problem::new(Code::InternalError, "the request has no outcome")
}

/// The problem that an event stands for, if it declined something; `list` is the
/// member of an atomic batch's body that has its items.
pub fn rejection(event: &Event, list: &str) -> Problem {
    match &event.fact {
        Fact::TransactionRejected(rejected) => Problem::rejected(rejected, event.transaction_id, event.position),
        Fact::BatchRejected { item, rejected } => {
            let problem = Problem::rejected(rejected, event.transaction_id, event.position);
            problem.at(format!("/{list}/{item}"))
        }
        _ => no_outcome(),
    }
}

/// What used keys did, by their hash: the fingerprint of the request, and the events.
pub struct Known {
    by_key: HashMap<[u8; 16], ([u8; 16], Vec<Event>)>,
    /// As of which this is known.
    position: Position,
    /// Keys of those asked for that were used for the same request.
    pub replays: usize,
}

impl Known {
    /// The events that `key` made, if it made them for the same request.
    pub fn made_by(&self, key: &Key) -> Result<&[Event], Problem> {
        let (fingerprint, made) = self.by_key.get(&key.hash).ok_or_else(no_outcome)?;
        if *fingerprint == key.fingerprint { Ok(made) } else { Err(reused(made.first()).as_of(self.position)) }
    }

    /// The same, for a key that may not have been used at all.
    pub fn replayed(&self, key: &Key) -> Option<&[Event]> {
        self.made_by(key).ok()
    }
}

/// Asks the store what `keys` did; they were used as of `position`.
pub async fn known(database: &Database, ledger: &Ledger, keys: &[&Key], position: Position) -> Result<Known, Problem> {
    if keys.is_empty() {
        return Ok(Known { by_key: HashMap::new(), position, replays: 0 });
    }
    let hashes: Vec<[u8; 16]> = keys.iter().map(|key| key.hash).collect();
    let rows = store::keys::find(database.pool(), ledger.ledger_id, &hashes).await?;
    let asked: HashSet<_> = keys.iter().map(|key| (key.hash, key.fingerprint)).collect();
    let range = |row: &KeyRow| wanted(row, &asked);
    let positions: Vec<i64> = rows.iter().flat_map(range).map(|position| position as i64).collect();
    let events = store::events::at_positions(database.pool(), ledger.ledger_id, &positions).await?;
    let by_position: HashMap<Position, &Event> = events.iter().map(|event| (event.position, event)).collect();
    let made = |row: &KeyRow| range(row).filter_map(|at| by_position.get(&at).map(|event| (*event).clone())).collect();
    let by_key = rows.iter().map(|row| (row.key_hash, (row.fingerprint, made(row)))).collect();
    let mut known = Known { by_key, position, replays: 0 };
    known.replays = keys.iter().filter(|key| known.made_by(key).is_ok()).count();
    counter!(metric::REPLAYS).increment(known.replays as u64);
    Ok(known)
}

/// Positions of the events that answer for a key: all that it made, or the first,
/// if it was used for another request, however many that one made.
fn wanted(row: &KeyRow, asked: &HashSet<([u8; 16], [u8; 16])>) -> Range<Position> {
    let count = if asked.contains(&(row.key_hash, row.fingerprint)) { u64::from(row.event_count) } else { 1 };
    row.position..row.position + count
}

fn reused(first: Option<&Event>) -> Problem {
    let mut problem = Problem::new(
        Code::IdempotencyKeyReused,
        "the idempotency key was used for another request; what it did is at transaction_id",
    );
    problem.transaction_id = first.and_then(|event| event.transaction_id);
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_used_for_another_request_only_the_first_event_is_read() {
        let row = KeyRow { key_hash: [1; 16], fingerprint: [2; 16], position: 40, event_count: 10_000 };
        assert_eq!(wanted(&row, &HashSet::from([([1; 16], [2; 16])])), 40..10_040);
        assert_eq!(wanted(&row, &HashSet::from([([1; 16], [3; 16]), ([3; 16], [2; 16])])), 40..41);
    }
}
