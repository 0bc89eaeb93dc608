//! Forwarding: a ledger's requests to the worker that sequences it.
//!
//! While this worker does not hold the ledger's claim, its sequencer service
//! hands every request to the [`Forwarder`], which sends them on in frames: one
//! request when idle, hundreds when busy, since what arrives while frames are
//! under way gathers for the next. A request whose frame came to nothing, or
//! whose ledger nobody holds at the moment, waits for the next holder until its
//! client's deadline; trying again is safe, because what moves money carries its
//! key, and the rest is idempotent by itself. Nothing is answered from a guess.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use metrics::{counter, histogram};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::peer::Peers;
use super::wire::{Request, ToSubmit, VERSION};
use crate::sequencer::{Handle, Submission, Unavailable};
use crate::store::LedgerId;
use crate::telemetry::metric;

/// Frames under way to the sequencer: enough that the next is on its way while
/// one waits for its commit, few enough that requests gather.
const FRAMES_MAX: usize = 2;
/// Items in one frame; one request's items are never split.
const FRAME_ITEMS_MAX: usize = 2_000;
/// Requests taken from the queue at a time.
const INTAKE_MAX: usize = 256;
/// Between looks at the queue while all frames are under way: who waits there has a deadline.
const INTAKE_PAUSE: Duration = Duration::from_millis(20);
/// Before a request is tried again that found nobody.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Requests that may wait here: as many as may wait for a sequencer.
pub const WAITING_MAX: usize = 16_384;

/// Where a ledger is sequenced, as far as this worker knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub worker_id: Uuid,
    /// Where that worker takes frames.
    pub url: Arc<str>,
}

/// The routes to all ledgers that another worker sequences.
pub type Routes = Arc<BTreeMap<LedgerId, Route>>;

pub struct Forwarder {
    pub ledger_id: LedgerId,
    pub ledger: Arc<str>,
    pub peers: Peers,
    pub routes: watch::Receiver<Routes>,
    /// Whether this worker itself sequences the ledger by now.
    pub serving: watch::Receiver<bool>,
    /// The front of this worker's own sequencer.
    pub handle: Handle,
    /// Rung when a route leads nowhere, so that the session looks again at once.
    pub look_again: Arc<Notify>,
}

/// A frame that has ended.
enum Ended {
    Answered,
    /// Nobody took it, or its answer was lost.
    Failed(Vec<Submission>),
}

impl Forwarder {
    /// Runs until the queue is closed and everything in it is answered.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Submission>) {
        let mut waiting: VecDeque<Submission> = VecDeque::new();
        let mut frames = FuturesUnordered::new();
        // Frames under way may arrive in any order, so ordered requests go one by one.
        let mut ordered_under_way = false;
        let mut arrived = Vec::with_capacity(INTAKE_MAX);
        let mut open = true;
        let mut not_before = Instant::now();
        let mut taken_in = Instant::now();
        loop {
            expire(&mut waiting);
            if not_before <= Instant::now() {
                if *self.serving.borrow() {
                    for submission in waiting.drain(..) {
                        self.handle.give_back(submission);
                    }
                } else {
                    let route = self.routes.borrow_and_update().get(&self.ledger_id).cloned();
                    while let Some(route) = &route
                        && frames.len() < FRAMES_MAX
                    {
                        let frame = next_frame(&mut waiting, ordered_under_way);
                        if frame.is_empty() {
                            break;
                        }
                        let ordered = frame.iter().any(|submission| submission.ordered.is_some());
                        ordered_under_way |= ordered;
                        let sent = self.send(route.clone(), frame);
                        frames.push(async move { (sent.await, ordered) });
                    }
                }
            }
            if !open && waiting.is_empty() && frames.is_empty() {
                return;
            }
            let has_room = open && waiting.len() < WAITING_MAX;
            // A moment, not a pause: whatever else happens meanwhile does not put it off.
            let take_in_at = if frames.len() < FRAMES_MAX { taken_in } else { taken_in + INTAKE_PAUSE };
            tokio::select! {
                Some((ended, ordered)) = frames.next(), if !frames.is_empty() => {
                    ordered_under_way &= !ordered;
                    if let Ended::Failed(submissions) = ended {
                        for submission in submissions.into_iter().rev() {
                            waiting.push_front(submission);
                        }
                        self.look_again.notify_one();
                        not_before = Instant::now() + RETRY_PAUSE;
                    }
                }
                received = take_in(&mut queue, &mut arrived, take_in_at), if has_room => {
                    open = received > 0;
                    taken_in = Instant::now();
                    waiting.extend(arrived.drain(..));
                }
                changed = self.routes.changed() => if changed.is_err() { tokio::time::sleep(RETRY_PAUSE).await },
                changed = self.serving.changed() => if changed.is_err() { tokio::time::sleep(RETRY_PAUSE).await },
                () = tokio::time::sleep(RETRY_PAUSE), if !waiting.is_empty() => {}
            }
        }
    }

    fn send(&self, route: Route, submissions: Vec<Submission>) -> impl Future<Output = Ended> + use<> {
        let peers = self.peers.clone();
        let (ledger_id, ledger) = (self.ledger_id, Arc::clone(&self.ledger));
        async move {
            let now = Instant::now();
            let wait = |submission: &Submission| submission.deadline.saturating_duration_since(now);
            let longest = submissions.iter().map(wait).max().unwrap_or_default();
            let request = Request {
                version: VERSION,
                ledger_id,
                submissions: submissions
                    .iter()
                    .map(|submission| {
                        let wait_ms = u32::try_from(wait(submission).as_millis()).unwrap_or(u32::MAX);
                        ToSubmit { wait_ms, work: &submission.work }
                    })
                    .collect(),
            };
            histogram!(metric::FORWARD_REQUESTS).record(submissions.len() as f64);
            let answers = match peers.submit(&route.url, &request, longest).await {
                Ok(answers) if answers.len() == submissions.len() => answers,
                Ok(_) => return failed(submissions, true),
                Err(error) => {
                    counter!(metric::FORWARD_FAILURES).increment(1);
                    tracing::debug!(%ledger, worker_id = %route.worker_id, %error, "forwarding came to nothing; trying again");
                    return failed(submissions, error.may_have_arrived());
                }
            };
            let mut again = Vec::new();
            for (mut submission, answer) in submissions.into_iter().zip(answers) {
                match answer {
                    Ok(Ok(answer)) => submission.answer(Ok(answer)),
                    Ok(Err(error)) => {
                        tracing::error!(%ledger, %error, "an answer cannot be read");
                        submission.asked = true;
                        again.push(submission);
                    }
                    // It lost the claim before it decided: nothing was recorded.
                    Err(Unavailable::Standby) => again.push(submission),
                    // Whether it was recorded the next holder knows, by its key.
                    Err(Unavailable::OutcomeUnknown | Unavailable::TimedOut) => {
                        submission.asked = true;
                        again.push(submission);
                    }
                    Err(reason) => submission.answer(Err(reason)),
                }
            }
            if again.is_empty() { Ended::Answered } else { Ended::Failed(again) }
        }
    }
}

/// Takes requests from the queue, not before `at`, so that what arrives one by one
/// while nothing can be sent on does not wake the forwarder each time.
async fn take_in<T>(queue: &mut mpsc::Receiver<T>, arrived: &mut Vec<T>, at: Instant) -> usize {
    if at > Instant::now() {
        tokio::time::sleep_until(at).await;
    }
    queue.recv_many(arrived, INTAKE_MAX).await
}

fn failed(mut submissions: Vec<Submission>, asked: bool) -> Ended {
    for submission in &mut submissions {
        submission.asked |= asked;
    }
    Ended::Failed(submissions)
}

/// What goes next: of ordered requests one, and none while one is under way.
fn next_frame(waiting: &mut VecDeque<Submission>, mut ordered_under_way: bool) -> Vec<Submission> {
    let mut items = 0;
    let mut frame = Vec::new();
    while let Some(submission) = waiting.front() {
        if submission.ordered.is_some() && ordered_under_way {
            break;
        }
        ordered_under_way |= submission.ordered.is_some();
        let more = submission.work.items();
        if !frame.is_empty() && items + more > FRAME_ITEMS_MAX {
            break;
        }
        items += more;
        frame.extend(waiting.pop_front());
    }
    frame
}

/// Answers what has waited too long.
fn expire(waiting: &mut VecDeque<Submission>) {
    let now = Instant::now();
    if waiting.iter().all(|submission| submission.deadline > now) {
        return;
    }
    for submission in std::mem::take(waiting) {
        if submission.deadline > now {
            waiting.push_back(submission);
        } else {
            let reason = if submission.asked { Unavailable::OutcomeUnknown } else { Unavailable::TimedOut };
            submission.answer(Err(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While requests wait, the forwarder looks around every [`RETRY_PAUSE`], which is
    /// sooner than it takes requests in: those in the queue have deadlines all the same.
    #[tokio::test]
    async fn what_is_in_the_queue_is_taken_in_however_often_something_else_happens() {
        let (sender, mut queue) = mpsc::channel(4);
        sender.try_send(7).unwrap();
        let (mut arrived, at) = (Vec::new(), Instant::now() + INTAKE_PAUSE);
        for _ in 0..20 {
            tokio::select! {
                _ = take_in(&mut queue, &mut arrived, at) => break,
                () = tokio::time::sleep(RETRY_PAUSE) => {}
            }
        }
        assert_eq!(arrived, [7]);
    }
}
