//! Payments, alone and in batches.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use metrics::counter;
use serde::Serialize;
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use super::super::idempotency::{self, Route};
use super::super::problem::{self, Code, FieldError, Problem, Shape};
use super::super::wire::{self, PaymentBatchInput, PaymentInput, PaymentOutput};
use super::super::{SharedApp, answer, answer_of_size, body, params::InPath};
use super::accounts::canonical_metadata;
use super::ledger;
use crate::cluster::Ledger;
use crate::ledger::{Command, Event, Fact, Position, TransactionRequest};
use crate::sequencer::{Answer, Item, Key, Outcome, REQUEST_DEADLINE, Unavailable, Work};
use crate::store::events::KeyRow;
use crate::store::{self, Database};
use crate::telemetry::metric;

/// Payments that one batch may hold.
const BATCH_ITEMS_MAX: usize = 10_000;
/// About the bytes of an item's result.
const RESULT_BYTES: usize = 384;
/// Bytes of a reference: an invoice number, an end-to-end id.
pub const REFERENCE_BYTES_MAX: usize = 255;
/// Bytes of a description: a line on a statement.
const DESCRIPTION_BYTES_MAX: usize = 1_024;
/// Events that the projections may be behind the log; past it payments are
/// refused, so that a lag stays bounded whatever the load.
pub const LAG_EVENTS_MAX: u64 = 5_000_000;

/// `POST /payments`
pub async fn pay(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let key = idempotency::from_headers(request.headers()).map(str::to_owned);
    let bytes = body::read(request).await?;
    let key = key?;
    let input: PaymentInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let request = transaction(input).map_err(Problem::validation)?;
    let key = idempotency::key(&key, Route::Payment, [&request]);
    let item = Item { command: Command::Transact(request), key: Some(key.clone()) };
    let done = submit(&ledger, Work::Each(smallvec![item])).await?;
    match done.outcomes.first() {
        Some(Outcome::Recorded { index, .. }) => match done.batch.events.get(*index) {
            Some(event) => payment(event, done.position, false),
            None => Err(no_outcome()),
        },
        Some(Outcome::KeyUsed) => {
            let known = known(&app.worker.database, &ledger, &[&key], done.position).await?;
            payment(known.made_by(&key)?.first().ok_or_else(no_outcome)?, done.position, true)
        }
        Some(Outcome::Refused { refusal, .. }) => Err(Problem::refused(refusal, Shape::Payment, "", done.position)),
        _ => Err(no_outcome()),
    }
}

async fn submit(ledger: &Ledger, work: Work) -> Result<Answer, Problem> {
    if ledger.lag() > LAG_EVENTS_MAX {
        return Err(Unavailable::ProjectionsBehind.into());
    }
    Ok(ledger.handle.submit(work, Instant::now() + REQUEST_DEADLINE).await?)
}

fn no_outcome() -> Problem {
    Problem::new(Code::InternalError, "the payment has no outcome")
}

/// The answer that an event stands for, for ever.
fn payment(event: &Event, position: Position, replayed: bool) -> Result<Response, Problem> {
    if let Some(output) = PaymentOutput::new(event) {
        return Ok(answer(StatusCode::CREATED, &output, Some(position), replayed));
    }
    Err(Problem { replayed, ..rejection(event) }.as_of(position))
}

/// The problem that an event stands for, if it declined something.
pub fn rejection(event: &Event) -> Problem {
    match &event.fact {
        Fact::TransactionRejected(rejected) => {
            Problem::rejected(&rejected.reason, event.transaction_id, event.position)
        }
        Fact::BatchRejected { item, rejected } => {
            let problem = Problem::rejected(&rejected.reason, event.transaction_id, event.position);
            problem.at(format!("/payments/{item}"))
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
    replays: usize,
}

impl Known {
    /// The events that `key` made, if it made them for the same request.
    pub fn made_by(&self, key: &Key) -> Result<&[Event], Problem> {
        let (fingerprint, made) = self.by_key.get(&key.hash).ok_or_else(no_outcome)?;
        if *fingerprint == key.fingerprint { Ok(made) } else { Err(reused(made.first()).as_of(self.position)) }
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

/// The transaction of a request, or everything that is wrong with it.
pub fn transaction(input: PaymentInput<'_>) -> Result<TransactionRequest, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, detail: String| errors.push(FieldError { pointer: pointer.to_owned(), detail });
    let from = wire::account_code(&input.from).map_err(|detail| wrong("/from", detail)).ok();
    let to = wire::account_code(&input.to).map_err(|detail| wrong("/to", detail)).ok();
    let asset = wire::asset_code(&input.asset).map_err(|detail| wrong("/asset", detail)).ok();
    let amount = match input.amount.0 {
        Ok(amount) if amount.is_positive() => Some(amount),
        Ok(_) => {
            wrong("/amount", "an amount is more than zero".to_owned());
            None
        }
        Err(error) => {
            wrong("/amount", error.to_string());
            None
        }
    };
    let mut note = |pointer: &str, text: Option<std::borrow::Cow<'_, str>>, bytes_max: usize| -> Option<Arc<str>> {
        let text = text?;
        if text.len() > bytes_max {
            wrong(pointer, format!("this has at most {bytes_max} bytes"));
        } else if text.contains('\0') {
            wrong(pointer, "the character U+0000 cannot be stored; leave it out".to_owned());
        }
        Some(Arc::from(&*text))
    };
    let reference = note("/reference", input.reference, REFERENCE_BYTES_MAX);
    let description = note("/description", input.description, DESCRIPTION_BYTES_MAX);
    let metadata = match canonical_metadata(input.metadata) {
        Ok(metadata) => metadata,
        Err(FieldError { pointer, detail }) => {
            wrong(&pointer, detail);
            None
        }
    };
    match (from, to, amount, asset) {
        (Some(from), Some(to), Some(amount), Some(asset)) if errors.is_empty() => Ok(TransactionRequest {
            reference,
            description,
            metadata,
            ..TransactionRequest::payment(from, to, amount, asset)
        }),
        _ => Err(errors),
    }
}

#[derive(Serialize)]
struct BatchOutput<'a> {
    results: Vec<BatchResult<'a>>,
}

#[derive(Serialize)]
struct BatchResult<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<PaymentOutput<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<problem::Body<'a>>,
}

/// `POST /payments/batch`
pub async fn pay_batch(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let key = idempotency::from_headers(request.headers()).map(str::to_owned);
    let bytes = body::read(request).await?;
    let input: PaymentBatchInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    if !(1..=BATCH_ITEMS_MAX).contains(&input.payments.len()) {
        return Err(Problem::invalid("/payments", format!("a batch has 1 to {BATCH_ITEMS_MAX} payments")));
    }
    if input.atomic { atomic(&app, &ledger, input, &key?).await } else { independent(&app, &ledger, input).await }
}

/// What becomes of an item of an independent batch.
enum Slot {
    /// Refused before it got to the ledger.
    Invalid(Problem),
    /// In the answer, at its turn.
    Submitted(Key),
}

async fn independent(app: &SharedApp, ledger: &Ledger, input: PaymentBatchInput<'_>) -> Result<Response, Problem> {
    let mut items: SmallVec<[Item; 1]> = SmallVec::with_capacity(input.payments.len());
    let mut slots = Vec::with_capacity(input.payments.len());
    for (index, payment) in input.payments.into_iter().enumerate() {
        let (key, payment) = payment.0.into_parts();
        slots.push(match item(index, key.as_deref(), payment) {
            Ok((request, key)) => {
                items.push(Item { command: Command::Transact(request), key: Some(key.clone()) });
                Slot::Submitted(key)
            }
            Err(problem) => Slot::Invalid(problem),
        });
    }
    let done = submit(ledger, Work::Each(items)).await?;
    let used: Vec<&Key> = slots
        .iter()
        .filter_map(|slot| match slot {
            Slot::Submitted(key) => Some(key),
            Slot::Invalid(_) => None,
        })
        .zip(&done.outcomes)
        .filter(|(_, outcome)| matches!(outcome, Outcome::KeyUsed))
        .map(|(key, _)| key)
        .collect();
    let known = known(&app.worker.database, ledger, &used, done.position).await?;
    // Items that never got to the ledger have no say in it.
    let replayed = known.replays > 0 && known.replays == done.outcomes.len();
    let mut outcomes = done.outcomes.iter();
    let results: Vec<Result<&Event, Problem>> = slots
        .into_iter()
        .enumerate()
        .map(|(index, slot)| match slot {
            Slot::Invalid(problem) => Err(problem),
            Slot::Submitted(key) => match outcomes.next() {
                Some(Outcome::Recorded { index, .. }) => done.batch.events.get(*index).ok_or_else(no_outcome),
                Some(Outcome::KeyUsed) => known.made_by(&key).and_then(|made| made.first().ok_or_else(no_outcome)),
                Some(Outcome::Refused { refusal, .. }) => {
                    Err(Problem::refused(refusal, Shape::Payment, &format!("/payments/{index}"), done.position))
                }
                _ => Err(no_outcome()),
            },
        })
        .map(|result| match result {
            Ok(event) if PaymentOutput::new(event).is_none() => Err(rejection(event)),
            other => other,
        })
        .collect();
    let results = results.iter().map(|result| match result {
        Ok(event) => BatchResult { status: 201, payment: PaymentOutput::new(event), problem: None },
        Err(problem) => {
            BatchResult { status: problem.code.status().as_u16(), payment: None, problem: Some(problem.body()) }
        }
    });
    let output = BatchOutput { results: results.collect() };
    let bytes = RESULT_BYTES * output.results.len();
    Ok(answer_of_size(bytes, StatusCode::OK, &output, Some(done.position), replayed))
}

/// One item of an independent batch.
fn item(index: usize, key: Option<&str>, payment: PaymentInput<'_>) -> Result<(TransactionRequest, Key), Problem> {
    let place = |mut errors: Vec<FieldError>| {
        for error in &mut errors {
            error.pointer = format!("/payments/{index}{}", error.pointer);
        }
        Problem::validation(errors)
    };
    let key = match key {
        None => {
            let problem = Problem::new(Code::IdempotencyKeyMissing, "every item has an idempotency_key of its own");
            return Err(problem.at(format!("/payments/{index}/idempotency_key")));
        }
        Some(text) if !idempotency::is_valid(text) => {
            let detail = "an idempotency key has 1 to 255 visible ASCII characters".to_owned();
            return Err(place(vec![FieldError { pointer: "/idempotency_key".to_owned(), detail }]));
        }
        Some(text) => text,
    };
    let request = transaction(payment).map_err(place)?;
    let key = idempotency::key(key, Route::BatchItem, [&request]);
    Ok((request, key))
}

async fn atomic(
    app: &SharedApp,
    ledger: &Ledger,
    input: PaymentBatchInput<'_>,
    key: &str,
) -> Result<Response, Problem> {
    let mut requests = Vec::with_capacity(input.payments.len());
    let mut errors = Vec::new();
    for (index, payment) in input.payments.into_iter().enumerate() {
        let (own_key, payment) = payment.0.into_parts();
        let place = |error: FieldError| FieldError { pointer: format!("/payments/{index}{}", error.pointer), ..error };
        if own_key.is_some() {
            let detail = "an atomic batch has one Idempotency-Key header and no keys of its items".to_owned();
            errors.push(place(FieldError { pointer: "/idempotency_key".to_owned(), detail }));
        }
        match transaction(payment) {
            Ok(request) => requests.push(request),
            Err(wrong) => errors.extend(wrong.into_iter().map(place)),
        }
    }
    if !errors.is_empty() {
        return Err(Problem::validation(errors));
    }
    let key = idempotency::key(key, Route::AtomicBatch, &requests);
    let commands = requests.into_iter().map(Command::Transact).collect();
    let done = submit(ledger, Work::Atomic { commands, key: key.clone() }).await?;
    match done.outcomes.first() {
        Some(Outcome::Recorded { index, count }) => {
            let events = done.batch.events.get(*index..index + count).ok_or_else(no_outcome)?;
            atomic_answer(events.iter(), done.position, false)
        }
        Some(Outcome::KeyUsed) => {
            let known = known(&app.worker.database, ledger, &[&key], done.position).await?;
            atomic_answer(known.made_by(&key)?.iter(), done.position, true)
        }
        Some(Outcome::Refused { item, refusal }) => {
            Err(Problem::refused(refusal, Shape::Payment, &format!("/payments/{item}"), done.position))
        }
        _ => Err(no_outcome()),
    }
}

fn atomic_answer<'a>(
    events: impl Iterator<Item = &'a Event>,
    position: Position,
    replayed: bool,
) -> Result<Response, Problem> {
    let mut results = Vec::new();
    for event in events {
        match PaymentOutput::new(event) {
            Some(output) => results.push(BatchResult { status: 201, payment: Some(output), problem: None }),
            None => return Err(Problem { replayed, ..rejection(event) }.as_of(position)),
        }
    }
    Ok(answer(StatusCode::CREATED, &BatchOutput { results }, Some(position), replayed))
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
