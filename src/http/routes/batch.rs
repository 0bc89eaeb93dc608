//! Batches: many commands in one request, each for itself or all or none.

use std::borrow::Cow;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use smallvec::SmallVec;

use super::super::idempotency::{self, Route};
use super::super::problem::{self, Code, FieldError, Problem, Shape};
use super::super::recorded::Recorded;
use super::super::{SharedApp, answer, answer_of_size};
use super::submission::{known, may_be_replay, no_outcome, rejection, submit};
use crate::cluster::Ledger;
use crate::ledger::{Command, Event, Position, TransactionRequest};
use crate::sequencer::{Item, Key, Outcome, Work};

/// Items that one batch may hold.
pub const BATCH_ITEMS_MAX: usize = 10_000;
/// About the bytes of an item's result.
const RESULT_BYTES: usize = 384;

/// What a batch is of.
pub struct Sort {
    /// The member of the body that has the items.
    pub list: &'static str,
    pub member: Member,
    pub shape: Shape,
    pub item: Route,
    pub atomic: Route,
}

/// The member of a result that has what was recorded.
#[derive(Clone, Copy, Debug)]
pub enum Member {
    Payment,
    Transaction,
}

/// An item: its key and its request, or what is wrong with that.
pub type Read<'a> = (Option<Cow<'a, str>>, Result<TransactionRequest, Vec<FieldError>>);

/// A batch on its way.
pub struct Batch<'a> {
    pub app: &'a SharedApp,
    pub ledger: &'a Ledger,
    pub sort: &'static Sort,
}

#[derive(Serialize)]
struct BatchOutput<'a> {
    results: Vec<BatchResult<'a>>,
}

#[derive(Default, Serialize)]
struct BatchResult<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<Recorded<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<Recorded<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<problem::Body<'a>>,
}

/// What becomes of an item of an independent batch.
enum Slot {
    /// Refused before it got to the ledger.
    Invalid(Problem),
    /// In the answer, at its turn.
    Submitted(Key),
}

impl Batch<'_> {
    /// Does what `items` ask for; `key` is the request's own, which an atomic batch needs.
    pub async fn answer<'a>(
        self,
        items: impl ExactSizeIterator<Item = Read<'a>>,
        is_atomic: bool,
        key: Result<String, Problem>,
    ) -> Result<Response, Problem> {
        let list = self.sort.list;
        if !(1..=BATCH_ITEMS_MAX).contains(&items.len()) {
            return Err(Problem::invalid(format!("/{list}"), format!("a batch has 1 to {BATCH_ITEMS_MAX} {list}")));
        }
        if is_atomic {
            let key = key?;
            let commands = self.all(items)?;
            self.atomic(commands, &key).await
        } else {
            let (items, slots) = self.each(items);
            self.independent(items, slots).await
        }
    }

    fn pointer(&self, index: usize) -> String {
        format!("/{}/{index}", self.sort.list)
    }

    /// The commands that can be submitted, and what becomes of each item.
    fn each<'a>(&self, items: impl ExactSizeIterator<Item = Read<'a>>) -> (SmallVec<[Item; 1]>, Vec<Slot>) {
        let mut submitted: SmallVec<[Item; 1]> = SmallVec::with_capacity(items.len());
        let mut slots = Vec::with_capacity(items.len());
        for (index, (key, request)) in items.enumerate() {
            slots.push(match self.item(index, key.as_deref(), request) {
                Ok((command, key)) => {
                    submitted.push(Item { command, key: Some(key.clone()) });
                    Slot::Submitted(key)
                }
                Err(problem) => Slot::Invalid(problem),
            });
        }
        (submitted, slots)
    }

    async fn independent(self, items: SmallVec<[Item; 1]>, slots: Vec<Slot>) -> Result<Response, Problem> {
        let done = submit(self.ledger, Work::Each(items)).await?;
        let used: Vec<&Key> = slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Submitted(key) => Some(key),
                Slot::Invalid(_) => None,
            })
            .zip(&done.outcomes)
            .filter(|(_, outcome)| match outcome {
                Outcome::KeyUsed => true,
                Outcome::Refused { refusal, .. } => may_be_replay(refusal),
                _ => false,
            })
            .map(|(key, _)| key)
            .collect();
        let known = known(&self.app.worker.database, self.ledger, &used, done.position).await?;
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
                        let pointer = self.pointer(index);
                        let refused = || Problem::refused(refusal, self.sort.shape, &pointer, done.position);
                        known.replayed(&key).and_then(<[Event]>::first).ok_or_else(refused)
                    }
                    _ => Err(no_outcome()),
                },
            })
            .map(|result| match result {
                Ok(event) if Recorded::new(event).is_none() => Err(rejection(event, self.sort.list)),
                other => other,
            })
            .collect();
        let results = results.iter().map(|result| match result {
            Ok(event) => self.result(Recorded::new(event)),
            Err(problem) => BatchResult {
                status: problem.code.status().as_u16(),
                problem: Some(problem.body()),
                ..BatchResult::default()
            },
        });
        let output = BatchOutput { results: results.collect() };
        let bytes = RESULT_BYTES * output.results.len();
        Ok(answer_of_size(bytes, StatusCode::OK, &output, Some(done.position), replayed))
    }

    fn result<'a>(&self, recorded: Option<Recorded<'a>>) -> BatchResult<'a> {
        let status = StatusCode::CREATED.as_u16();
        match self.sort.member {
            Member::Payment => BatchResult { status, payment: recorded, ..BatchResult::default() },
            Member::Transaction => BatchResult { status, transaction: recorded, ..BatchResult::default() },
        }
    }

    /// One item of an independent batch.
    fn item(
        &self,
        index: usize,
        key: Option<&str>,
        request: Result<TransactionRequest, Vec<FieldError>>,
    ) -> Result<(Command, Key), Problem> {
        let place = |mut errors: Vec<FieldError>| {
            for error in &mut errors {
                error.pointer = format!("{}{}", self.pointer(index), error.pointer);
            }
            Problem::validation(errors)
        };
        let key = match key {
            None => {
                let problem = Problem::new(Code::IdempotencyKeyMissing, "every item has an idempotency_key of its own");
                return Err(problem.at(format!("{}/idempotency_key", self.pointer(index))));
            }
            Some(text) if !idempotency::is_valid(text) => {
                let detail = "an idempotency key has 1 to 255 visible ASCII characters".to_owned();
                return Err(place(vec![FieldError { pointer: "/idempotency_key".to_owned(), detail }]));
            }
            Some(text) => text,
        };
        let command = Command::Transact(request.map_err(place)?);
        let key = idempotency::key(key, self.sort.item, [&command]);
        Ok((command, key))
    }

    /// The commands of an atomic batch.
    fn all<'a>(&self, items: impl ExactSizeIterator<Item = Read<'a>>) -> Result<Vec<Command>, Problem> {
        let mut commands = Vec::with_capacity(items.len());
        let mut errors = Vec::new();
        for (index, (own_key, request)) in items.enumerate() {
            let place = |error: FieldError| FieldError {
                pointer: format!("{}{}", self.pointer(index), error.pointer),
                ..error
            };
            if own_key.is_some() {
                let detail = "an atomic batch has one Idempotency-Key header and no keys of its items".to_owned();
                errors.push(place(FieldError { pointer: "/idempotency_key".to_owned(), detail }));
            }
            match request {
                Ok(request) => commands.push(Command::Transact(request)),
                Err(wrong) => errors.extend(wrong.into_iter().map(place)),
            }
        }
        if errors.is_empty() { Ok(commands) } else { Err(Problem::validation(errors)) }
    }

    async fn atomic(self, commands: Vec<Command>, key: &str) -> Result<Response, Problem> {
        let key = idempotency::key(key, self.sort.atomic, &commands);
        let done = submit(self.ledger, Work::Atomic { commands, key: key.clone() }).await?;
        match done.outcomes.first() {
            Some(Outcome::Recorded { index, count }) => {
                let events = done.batch.events.get(*index..index + count).ok_or_else(no_outcome)?;
                self.atomic_answer(events.iter(), done.position, false)
            }
            Some(Outcome::KeyUsed) => {
                let known = known(&self.app.worker.database, self.ledger, &[&key], done.position).await?;
                self.atomic_answer(known.made_by(&key)?.iter(), done.position, true)
            }
            Some(Outcome::Refused { item, refusal }) => {
                let keys = [&key];
                let asked = if may_be_replay(refusal) { &keys[..] } else { &keys[..0] };
                let known = known(&self.app.worker.database, self.ledger, asked, done.position).await?;
                match known.replayed(&key) {
                    Some(made) => self.atomic_answer(made.iter(), done.position, true),
                    None => Err(Problem::refused(refusal, self.sort.shape, &self.pointer(*item), done.position)),
                }
            }
            _ => Err(no_outcome()),
        }
    }

    fn atomic_answer<'a>(
        &self,
        events: impl Iterator<Item = &'a Event>,
        position: Position,
        replayed: bool,
    ) -> Result<Response, Problem> {
        let mut results = Vec::new();
        for event in events {
            match Recorded::new(event) {
                Some(output) => results.push(self.result(Some(output))),
                None => return Err(Problem { replayed, ..rejection(event, self.sort.list) }.as_of(position)),
            }
        }
        Ok(answer(StatusCode::CREATED, &BatchOutput { results }, Some(position), replayed))
    }
}
