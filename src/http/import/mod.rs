//! Import: a file of accounts, payments and opening balances, line by line.
//!
//! The body is read as it comes and never held as a whole. Lines are gathered
//! into chunks, a chunk goes to the sequencer as one request, and a few chunks
//! are under way at a time, so that parsing, deciding and writing overlap; when
//! they are, the body is not read on, and TCP tells the client to wait. Chunks
//! are decided in the order of the file ([`Handle::submit_in_order`]), and all
//! that are under way together have one deadline, so that none is given up while
//! a later one goes on. When one comes to nothing, all that are under way are
//! waited for and submitted again from that one on: what had been recorded is
//! found by its key.
//!
//! The answer is NDJSON, written while the body is read: progress, the lines
//! that were refused, and a summary as the last record. Who does not see the
//! summary sends the same again, from the beginning or from behind the last line
//! that a progress record acknowledged.
//!
//! An import leaves room for others: it waits while the queue of the sequencer
//! is half full or the projections are half as far behind as they may be.
//!
//! [`Handle::submit_in_order`]: crate::sequencer::Handle::submit_in_order

pub mod csv;
mod line;
mod lines;

use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::Response;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, stream};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use self::line::{Columns, Defaults, Kind, Refused};
use self::lines::{LINE_BYTES_MAX, Lines, Piece};
use super::access::EndsWithItsKey;
use super::body::discard;
use super::params::{InPath, InQuery};
use super::problem::{self, Code, Problem};
use super::routes::submission::{LAG_EVENTS_MAX, known, rejection};
use super::routes::{account_code_in, ledger};
use super::{SharedApp, idempotency};
use crate::cluster::{Ledger, Status};
use crate::ledger::{Fact, Position};
use crate::sequencer::{Answer, Item, Key, Outcome, QUEUE_ITEMS_MAX, Unavailable, Work};

/// Lines of a chunk, which is a request to the sequencer: a batch's worth.
const CHUNK_LINES_MAX: usize = 5_000;
/// Bytes of a chunk's lines.
const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Chunks under way: one that is written, one that becomes durable, one that waits for them.
const CHUNKS_MAX: usize = 3;
/// Items that may wait in the sequencer's queue before an import adds to them: the
/// other half is for everybody else.
const QUEUE_ITEMS_SHARE: usize = QUEUE_ITEMS_MAX / 2;
/// Events that the projections may be behind before an import waits for them: payments
/// are refused at twice that.
const LAG_EVENTS_SHARE: u64 = LAG_EVENTS_MAX / 2;
/// How long the chunks under way may take together: a failover and a slow disk.
const CHUNKS_DEADLINE: Duration = Duration::from_secs(60);
/// From when on no chunk joins those under way, so that the deadline is a new one soon.
const CHUNKS_JOIN: Duration = Duration::from_secs(20);
/// How long an import goes on without a chunk being recorded.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Before a chunk is submitted again that came to nothing.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Between looks at whether there is room again.
const ROOM_PAUSE: Duration = Duration::from_millis(10);
/// Lines that came wait so long for more to make a chunk.
const GATHER_PAUSE: Duration = Duration::from_millis(50);
/// Between looks at all else.
const TICK: Duration = Duration::from_millis(250);
/// Between two progress records.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// After which there is one even if nothing moved, so that a client knows that it is waited for.
const PROGRESS_AT_LEAST_EVERY: Duration = Duration::from_secs(5);
/// Bytes of records that are not put off.
const OUT_BYTES: usize = 16 * 1024;
/// A client that sends nothing for so long is gone.
const BODY_IDLE_MAX: Duration = Duration::from_secs(60);
/// Malformed lines in a row after which it is the wrong file.
const MALFORMED_MAX: u64 = 1_000;
/// Characters of an import's id, so that a key has room for the line's number.
const ID_BYTES_MAX: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportQuery {
    id: Option<String>,
    equity: Option<String>,
    first_line: Option<u64>,
}

/// `POST /import`
pub async fn import(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ImportQuery>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (parts, mut body) = request.into_parts();
    let format = Format::of(&parts.headers)?;
    let fits = |id: &String| id.len() <= ID_BYTES_MAX && idempotency::is_valid(id);
    if query.id.as_ref().is_some_and(|id| !fits(id)) {
        let detail = format!("an import's id has 1 to {ID_BYTES_MAX} visible ASCII characters");
        return Err(Problem::invalid("/query/id", detail));
    }
    if let Some(code) = &query.equity {
        account_code_in(code, "/query/equity")?;
    }
    if query.first_line == Some(0) {
        return Err(Problem::invalid("/query/first_line", "lines are numbered 1, 2, 3, …"));
    }
    let ledger = ledger(&app, &name).await?;
    let mut lines = Lines::new(format == Format::Csv, 1);
    let mut body_ended = false;
    let columns = match format {
        Format::Ndjson => None,
        Format::Csv => {
            let read = tokio::time::timeout(BODY_IDLE_MAX, header_line(&mut body, &mut lines, &mut body_ended));
            Some(read.await.unwrap_or_else(|_| Err(too_slow()))?)
        }
    };
    if let Some(first_line) = query.first_line {
        lines.renumber(first_line);
    }
    let defaults = Defaults { id: query.id, equity: query.equity, now: app.worker.now() };
    let import = Import::new(app, ledger, body, lines, columns, defaults, body_ended);
    let mut response = Response::new(Body::from_stream(import.records()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response.extensions_mut().insert(EndsWithItsKey);
    Ok(response)
}

/// Names of UTF-8, and of what is a part of it.
const UTF_8: [&str; 4] = ["utf-8", "utf8", "us-ascii", "ascii"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Ndjson,
    Csv,
}

impl Format {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut parts = value.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|part| part.split_once('='));
        let mut charsets = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
        let is_utf_8 = |charset: &str| UTF_8.iter().any(|name| charset.eq_ignore_ascii_case(name));
        if charsets.any(|(_, charset)| !is_utf_8(charset.trim().trim_matches('"'))) {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "an import is in UTF-8; convert the file, and send the header Content-Type without another charset",
            ));
        }
        [("application/x-ndjson", Self::Ndjson), ("text/csv", Self::Csv)]
            .into_iter()
            .find(|(name, _)| essence.eq_ignore_ascii_case(name))
            .map(|(_, format)| format)
            .ok_or_else(|| {
                Problem::new(
                    Code::UnsupportedMediaType,
                    "an import is application/x-ndjson or text/csv; send the header Content-Type",
                )
            })
    }
}

/// The columns that the first line names.
async fn header_line(body: &mut Body, lines: &mut Lines, body_ended: &mut bool) -> Result<Columns, Problem> {
    loop {
        if let Some(Piece { bytes, .. }) = lines.next() {
            let too_long = || Problem::invalid("", format!("the header has more than {LINE_BYTES_MAX} bytes"));
            return Columns::new(bytes.ok_or_else(too_long)?);
        }
        if *body_ended {
            return Err(Problem::invalid("", "a CSV file begins with a header that names its columns"));
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    lines.feed(&data);
                }
            }
            Some(Err(_)) => return Err(Problem::new(Code::MalformedRequest, "the body ended early")),
            None => {
                *body_ended = true;
                lines.end();
            }
        }
    }
}

fn too_slow() -> Problem {
    Problem::new(Code::RequestTimeout, format!("nothing came for {} s", BODY_IDLE_MAX.as_secs()))
}

/// Lines that are submitted together.
#[derive(Default)]
struct Chunk {
    slots: Vec<Slot>,
    /// The lines themselves: what has been submitted is the sequencer's, and is made of them anew where it is
    /// needed once more, which is seldom.
    text: Vec<u8>,
    /// Commands of the lines that are fit, until they are submitted, and how many there are.
    items: Vec<Item>,
    fit: usize,
    /// Number of the last line, and where in the body it ends.
    line: u64,
    end: u64,
}

/// What becomes of a line.
struct Slot {
    line: u64,
    /// Where in the chunk's text it ends.
    end: usize,
    what: What,
}

enum What {
    /// The next outcome.
    Submitted(Kind),
    Refused(Box<Refused>),
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.slots.len() >= CHUNK_LINES_MAX || self.text.len() >= CHUNK_BYTES_MAX
    }

    /// The command of a line, made once more.
    fn item(&self, index: usize, columns: Option<&Columns>, defaults: &Defaults) -> Option<Item> {
        let Slot { line, end, what } = self.slots.get(index)?;
        let What::Submitted(_) = what else { return None };
        let start = index.checked_sub(1).map_or(0, |before| self.slots[before].end);
        let parsed = line::parse(&self.text[start..*end], columns, *line, defaults);
        parsed.ok().map(|(_, item)| item)
    }
}

/// A chunk under way.
struct Flight {
    chunk: Chunk,
    answer: BoxFuture<'static, Result<Answer, Unavailable>>,
}

/// What has been done; every record says it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Counts {
    /// Number of the last line that is done.
    line: u64,
    /// Bytes of the body up to its end.
    bytes: u64,
    /// Lines that are done, without empty ones.
    lines: u64,
    recorded: u64,
    replayed: u64,
    refused: u64,
    /// The last position that they reflect.
    position: Position,
}

#[derive(Serialize)]
struct RefusedRecord<'a> {
    line: u64,
    key: Option<&'a str>,
    problem: problem::Body<'a>,
}

#[derive(Serialize)]
struct Summary<'a> {
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<problem::Body<'a>>,
    #[serde(flatten)]
    counts: Counts,
}

/// An import under way.
struct Import {
    app: SharedApp,
    ledger: Arc<Ledger>,
    body: Body,
    body_ended: bool,
    lines: Lines,
    /// Of CSV.
    columns: Option<Columns>,
    defaults: Defaults,
    gathering: Chunk,
    /// When the first of the lines that are being gathered came.
    gathering_since: Instant,
    /// To be submitted before what is being gathered.
    again: VecDeque<Chunk>,
    not_before: Instant,
    flights: VecDeque<Flight>,
    /// Of all flights.
    deadline: Instant,
    /// When something was last recorded, and when bytes last came.
    moved_at: Instant,
    fed_at: Instant,
    malformed_in_a_row: u64,
    counts: Counts,
    /// Those that the last record said.
    said: Counts,
    said_at: Instant,
    out: Vec<u8>,
    ended: bool,
}

impl Import {
    fn new(
        app: SharedApp,
        ledger: Arc<Ledger>,
        body: Body,
        lines: Lines,
        columns: Option<Columns>,
        defaults: Defaults,
        body_ended: bool,
    ) -> Self {
        let now = Instant::now();
        let counts = Counts { line: lines.number() - 1, ..Counts::default() };
        Self {
            app,
            ledger,
            body,
            body_ended,
            lines,
            columns,
            defaults,
            gathering: Chunk::default(),
            gathering_since: now,
            again: VecDeque::new(),
            not_before: now,
            flights: VecDeque::new(),
            deadline: now,
            moved_at: now,
            fed_at: now,
            malformed_in_a_row: 0,
            counts,
            said: counts,
            said_at: now,
            out: Vec::new(),
            ended: false,
        }
    }

    /// The answer's body, which does the work as it is read.
    fn records(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        // Polled when the request's span is left, and what is logged then belongs to it all the same.
        let span = tracing::Span::current();
        stream::unfold(self, move |mut import| {
            async move {
                let records = import.next_records().await?;
                Some((Ok(records), import))
            }
            .instrument(span.clone())
        })
    }

    /// Works until there is something to say; `None` when all has been said.
    async fn next_records(&mut self) -> Option<Bytes> {
        while !self.ended {
            self.gather();
            self.submit();
            self.finish();
            self.say_progress();
            if self.ended || self.out.len() >= OUT_BYTES || (!self.out.is_empty() && self.is_time_to_say()) {
                break;
            }
            self.wait().await;
        }
        if self.out.is_empty() {
            // Who is still sending has the summary by now, and sees it.
            discard(take(&mut self.body)).await;
            return None;
        }
        self.said_at = Instant::now();
        Some(take(&mut self.out).into())
    }

    /// Waits for whatever comes first: the oldest chunk, more of the body, or time.
    async fn wait(&mut self) {
        let reads = !self.body_ended && !self.gathering.is_full();
        let waits_for_room = !self.again.is_empty() || self.gathering.is_full() || self.body_ended;
        let pause = match self.flights.len() {
            _ if waits_for_room && self.flights.len() < CHUNKS_MAX => ROOM_PAUSE,
            _ if !self.gathering.slots.is_empty() => GATHER_PAUSE,
            _ => TICK,
        };
        let first = async {
            match self.flights.front_mut() {
                Some(first) => (&mut first.answer).await,
                None => std::future::pending().await,
            }
        };
        let landed = tokio::select! {
            biased;
            answer = first => Some(answer),
            frame = self.body.frame(), if reads => {
                self.fed_at = Instant::now();
                match frame {
                    Some(Ok(frame)) => if let Ok(data) = frame.into_data() {
                        self.lines.feed(&data);
                    },
                    Some(Err(_)) => self.stop(&Problem::new(Code::MalformedRequest, "the body ended early")),
                    None => {
                        self.body_ended = true;
                        self.lines.end();
                    }
                }
                None
            }
            () = sleep(pause) => {
                if reads && self.fed_at.elapsed() > BODY_IDLE_MAX {
                    self.stop(&too_slow());
                } else if !reads {
                    // It is we who do not read.
                    self.fed_at = Instant::now();
                }
                None
            }
        };
        if let Some(answer) = landed {
            self.land(answer).await;
        }
    }

    /// Parses the lines that are there, up to a full chunk.
    fn gather(&mut self) {
        while !self.gathering.is_full() && !self.ended && self.malformed_in_a_row < MALFORMED_MAX {
            if self.gathering.slots.is_empty() {
                self.gathering_since = Instant::now();
                self.defaults.now = self.app.worker.now();
            }
            let Some(Piece { number, last, end, bytes }) = self.lines.next() else { return };
            let chunk = &mut self.gathering;
            // The last: what follows on a record of several lines goes on with the number behind it.
            (chunk.line, chunk.end) = (last, end);
            let (columns, defaults) = (self.columns.as_ref(), &self.defaults);
            let parsed = match bytes {
                None => {
                    let detail =
                        format!("a line has at most {LINE_BYTES_MAX} bytes{}", line::read_as_one(number, last));
                    Err(Refused { key: None, problem: Problem::invalid("", detail), malformed: true })
                }
                Some(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => continue,
                Some(bytes) => {
                    chunk.text.extend_from_slice(bytes);
                    line::parse(bytes, columns, number, defaults)
                }
            };
            let malformed = matches!(&parsed, Err(refused) if refused.malformed);
            self.malformed_in_a_row = if malformed { self.malformed_in_a_row + 1 } else { 0 };
            let what = match parsed {
                Ok((kind, item)) => {
                    if chunk.items.is_empty() {
                        // At once: growing to it would copy them several times.
                        chunk.items.reserve(CHUNK_LINES_MAX);
                    }
                    chunk.items.push(item);
                    chunk.fit += 1;
                    What::Submitted(kind)
                }
                Err(refused) => What::Refused(Box::new(refused)),
            };
            chunk.slots.push(Slot { line: number, end: chunk.text.len(), what });
            if self.malformed_in_a_row >= MALFORMED_MAX {
                // What came before is still done: the file is read no further.
                self.body_ended = true;
                return;
            }
        }
    }

    /// Submits chunks while there is room for them.
    fn submit(&mut self) {
        while !self.ended {
            let is_due = self.gathering.is_full()
                || (self.flights.is_empty() && self.gathering_since.elapsed() >= GATHER_PAUSE)
                || self.body_ended;
            let ready = !self.again.is_empty() || (is_due && !self.gathering.slots.is_empty());
            if !ready || !self.has_room() {
                return;
            }
            let chunk = self.again.pop_front().unwrap_or_else(|| take(&mut self.gathering));
            if self.flights.is_empty() {
                self.deadline = Instant::now() + CHUNKS_DEADLINE;
            }
            if let Some(chunk) = self.fly(chunk) {
                self.again.push_front(chunk);
                self.not_before = Instant::now() + RETRY_PAUSE;
                return;
            }
        }
    }

    fn has_room(&self) -> bool {
        let now = Instant::now();
        // Through another worker chunks might overtake each other on their way.
        let chunks_max = if *self.ledger.serving.borrow() { CHUNKS_MAX } else { 1 };
        now >= self.not_before
            && !self.is_to_stop()
            && self.flights.len() < chunks_max
            && (self.flights.is_empty() || self.deadline - now > CHUNKS_DEADLINE - CHUNKS_JOIN)
            && self.ledger.handle.depth() <= QUEUE_ITEMS_SHARE
            && self.ledger.lag() <= LAG_EVENTS_SHARE
    }

    /// The worker stops: what is under way is finished, and nothing more is begun.
    fn is_to_stop(&self) -> bool {
        self.app.worker.status() == Status::Draining
    }

    /// Puts a chunk into the queue; gives it back when the queue does not take it.
    fn fly(&mut self, mut chunk: Chunk) -> Option<Chunk> {
        let (handle, deadline) = (self.ledger.handle.clone(), self.deadline);
        let mut items = take(&mut chunk.items);
        if items.len() < chunk.fit {
            let item = |index| chunk.item(index, self.columns.as_ref(), &self.defaults);
            items = (0..chunk.slots.len()).filter_map(item).collect();
        }
        let work = Work::Each(SmallVec::from_vec(items));
        let mut answer = async move { handle.submit_in_order(work, deadline).await }.boxed();
        let waker = futures::task::noop_waker();
        match answer.poll_unpin(&mut std::task::Context::from_waker(&waker)) {
            Poll::Ready(Err(Unavailable::Overloaded)) => return Some(chunk),
            Poll::Ready(answer) => self.flights.push_back(Flight { chunk, answer: async { answer }.boxed() }),
            Poll::Pending => self.flights.push_back(Flight { chunk, answer }),
        }
        None
    }

    /// Takes in what became of the oldest chunk.
    async fn land(&mut self, answer: Result<Answer, Unavailable>) {
        let Some(Flight { chunk, .. }) = self.flights.pop_front() else { return };
        let problem = match answer {
            Ok(answer) => match self.settle(&chunk, &answer).await {
                Ok(()) => {
                    self.moved_at = Instant::now();
                    return;
                }
                Err(problem) => problem,
            },
            Err(reason) => reason.into(),
        };
        if problem.code == Code::InternalError || self.moved_at.elapsed() > STALL_MAX {
            return self.stop(&problem);
        }
        tracing::info!(ledger = %self.ledger.name, line = chunk.line, code = problem.code.as_str(), "an import submits a chunk again");
        // Those behind it come after it, whatever became of them.
        self.again.push_back(chunk);
        for Flight { chunk, answer } in take(&mut self.flights) {
            _ = answer.await;
            self.again.push_back(chunk);
        }
        self.not_before = Instant::now() + RETRY_PAUSE;
    }

    /// Counts a chunk's lines, and writes down those that were refused.
    async fn settle(&mut self, chunk: &Chunk, answer: &Answer) -> Result<(), Problem> {
        let no_outcome = || Problem::new(Code::InternalError, "a line has no outcome");
        let (columns, defaults) = (self.columns.as_ref(), &self.defaults);
        let key = |index: usize| chunk.item(index, columns, defaults).and_then(|item| item.key);
        let submitted = || {
            let slots = chunk.slots.iter().enumerate();
            slots.filter(|(_, slot)| matches!(slot.what, What::Submitted(_))).zip(&answer.outcomes)
        };
        let used = submitted().filter(|(_, outcome)| matches!(outcome, Outcome::KeyUsed));
        let used = used.map(|((index, _), _)| key(index).ok_or_else(no_outcome));
        let used = used.collect::<Result<Vec<Key>, Problem>>()?;
        let keys: Vec<&Key> = used.iter().collect();
        let known = known(&self.app.worker.database, &self.ledger, &keys, answer.position).await?;
        let (mut counts, mut out) = (self.counts, Vec::new());
        let (mut outcomes, mut used) = (answer.outcomes.iter(), used.iter());
        for (index, Slot { line, what, .. }) in chunk.slots.iter().enumerate() {
            counts.lines += 1;
            let kind = match what {
                What::Refused(refused) => {
                    refuse(&mut out, &mut counts, *line, refused.key.as_deref(), &refused.problem);
                    continue;
                }
                What::Submitted(kind) => *kind,
            };
            let (event, replayed) = match outcomes.next().ok_or_else(no_outcome)? {
                Outcome::Recorded { index, .. } => (Ok(answer.batch.events.get(*index).ok_or_else(no_outcome)?), false),
                Outcome::KeyUsed => {
                    let made = known.made_by(used.next().ok_or_else(no_outcome)?);
                    (made.map(|made| made.first()).and_then(|first| first.ok_or_else(no_outcome)), true)
                }
                Outcome::Unchanged(_) => {
                    counts.replayed += 1;
                    continue;
                }
                Outcome::Refused { refusal, .. } => {
                    (Err(Problem::refused(refusal, kind.shape(), "", answer.position)), false)
                }
                Outcome::Account(_) | Outcome::Head => return Err(no_outcome()),
            };
            let declined = match event {
                Ok(event) => match &event.fact {
                    Fact::TransactionPosted(_) | Fact::AccountOpened { .. } => None,
                    _ => Some(rejection(event, "")),
                },
                Err(problem) => Some(problem),
            };
            match declined {
                Some(problem) => {
                    let key = key(index);
                    let text = key.as_ref().map(|key| &*key.text);
                    refuse(&mut out, &mut counts, *line, text, &kind.pointing(problem));
                }
                None if replayed => counts.replayed += 1,
                None => counts.recorded += 1,
            }
        }
        (counts.line, counts.bytes) = (chunk.line, chunk.end);
        counts.position = counts.position.max(answer.position);
        self.counts = counts;
        self.out.append(&mut out);
        Ok(())
    }

    /// Ends the import when everything is done, or when it cannot go on.
    fn finish(&mut self) {
        if self.ended {
            return;
        }
        if self.is_to_stop() && self.flights.is_empty() {
            let detail = "this worker stops; send the rest again, it goes to another one";
            return self.stop(&Problem::new(Code::Unavailable, detail));
        }
        let idle = self.flights.is_empty() && self.again.is_empty() && self.gathering.slots.is_empty();
        if !idle {
            if self.flights.is_empty() && self.moved_at.elapsed() > STALL_MAX && !self.has_room() {
                self.stop(&Unavailable::ProjectionsBehind.into());
            }
            return;
        }
        // Time in which there was nothing to do is none without progress.
        self.moved_at = Instant::now();
        if self.malformed_in_a_row >= MALFORMED_MAX {
            let detail = format!("the last {MALFORMED_MAX} lines are malformed: this is another format, or no import");
            return self.stop(&Problem::new(Code::MalformedRequest, detail));
        }
        if self.body_ended {
            // Empty lines at the end are done too.
            self.counts.line = self.counts.line.max(self.gathering.line);
            self.counts.bytes = self.counts.bytes.max(self.gathering.end);
            self.ended = true;
            record(&mut self.out, &Summary { done: true, problem: None, counts: self.counts });
        }
    }

    /// Ends the import with what is done.
    fn stop(&mut self, problem: &Problem) {
        if !self.ended {
            self.ended = true;
            record(&mut self.out, &Summary { done: false, problem: Some(problem.body()), counts: self.counts });
        }
    }

    fn is_time_to_say(&self) -> bool {
        self.said_at.elapsed() >= PROGRESS_EVERY
    }

    /// A record of how far it is, if it is time and there is news.
    fn say_progress(&mut self) {
        let silent_for = self.said_at.elapsed();
        let is_news = self.said != self.counts && silent_for >= PROGRESS_EVERY;
        if !self.ended && (is_news || silent_for >= PROGRESS_AT_LEAST_EVERY) {
            self.said = self.counts;
            record(&mut self.out, &self.counts);
        }
    }
}

fn refuse(out: &mut Vec<u8>, counts: &mut Counts, line: u64, key: Option<&str>, problem: &Problem) {
    counts.refused += 1;
    record(out, &RefusedRecord { line, key, problem: problem.body() });
}

fn record(out: &mut Vec<u8>, record: &impl Serialize) {
    if let Err(error) = serde_json::to_writer(&mut *out, record) {
        tracing::error!(%error, "a record could not be written");
    }
    out.push(b'\n');
}
