//! Talking to other workers, and being talked to: HTTP/2 on an internal
//! listener, where every request proves that it comes from a worker of the same
//! database by a shared secret.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use axum::{Router, response::IntoResponse, response::Response};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Ledgers;
use super::wire::{
    Answered, LogPage, LogRequest, LoggedEvent, Malformed, Reply, Request, Submitted, ToAnswer, ToLog, ToSubmit,
    UnavailableForm, VERSION,
};
use crate::ledger::{AccountCode, Event};
use crate::projector::fold::concerns;
use crate::sequencer::{Answer, Unavailable};
use crate::shard::shard_of;
use crate::store::LedgerId;

/// Time for a connection to another worker; it is near, or it is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A worker that does not answer a ping on a connection for so long is not asked there again.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Between pings while requests are under way.
const PING_EVERY: Duration = Duration::from_secs(1);
/// The log in another worker's memory is near; the one in the database is always there.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);
/// A word that something has changed is worth no longer a wait.
const NUDGE_TIMEOUT: Duration = Duration::from_millis(500);
/// What a peak has deferred is read in four seconds, or in ten on a machine that has the peak's work to do as well.
/// The other serves meanwhile, but is not to wait for ever.
pub const WARM_UP_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of one frame: a batch of 10,000 payments with everything in it.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

const SUBMIT: &str = "/internal/v1/submit";
const LOG: &str = "/internal/v1/log";
const NUDGE: &str = "/internal/v1/nudge";
const WARM_UP: &str = "/internal/v1/ledgers/{ledger_id}/warm-up";

/// Why a worker gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the worker cannot be reached: {0}")]
    Unreachable(#[source] reqwest::Error),
    /// It does not sequence the ledger, or is of another release. Nothing was done.
    #[error("the worker does not take it: {0}")]
    Refused(StatusCode),
    #[error("the worker's answer was lost: {0}")]
    Lost(String),
}

impl PeerError {
    /// Whether the request may have been carried out all the same.
    pub const fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

/// The way to all other workers.
#[derive(Clone)]
pub struct Peers {
    http: reqwest::Client,
    secret: Arc<str>,
}

impl Peers {
    /// # Errors
    /// The HTTP client cannot be made, or the secret is not fit for a header.
    pub fn new(secret: &str) -> Result<Self, reqwest::Error> {
        // The client wants one even where it speaks plain HTTP; it fails only where there is one already.
        _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .http2_prior_knowledge()
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_adaptive_window(true)
            .tcp_nodelay(true)
            .no_proxy()
            .build()?;
        Ok(Self { http, secret: Arc::from(secret) })
    }

    /// Sends a frame and waits for its answers.
    ///
    /// # Errors
    /// There is no answer at all; one that cannot be read is an error of its own.
    pub async fn submit(
        &self,
        url: &str,
        request: &Request<ToSubmit<'_>>,
        wait: Duration,
    ) -> Result<Vec<Result<Result<Answer, Malformed>, Unavailable>>, PeerError> {
        let body = self.ask(format!("{url}{SUBMIT}"), request, wait).await?;
        let reply: Reply<Answered> = postcard::from_bytes(&body).map_err(lost)?;
        let answers = reply.answers.into_iter();
        Ok(answers.map(|answer| answer.map(|answered| answered.0).map_err(Unavailable::from)).collect())
    }

    /// What follows on `request.after`, from the memory of the worker that sequences the ledger.
    ///
    /// # Errors
    /// It has it not, or not any more: the log has.
    pub async fn log(&self, url: &str, request: &LogRequest) -> Result<LogPage<Event>, PeerError> {
        let body = self.ask(format!("{url}{LOG}"), request, LOG_TIMEOUT).await?;
        let page: LogPage<LoggedEvent> = postcard::from_bytes(&body).map_err(lost)?;
        let events = page.events.into_iter().map(|event| event.0).collect::<Result<_, _>>().map_err(lost)?;
        Ok(LogPage { to: page.to, events })
    }

    async fn ask(&self, url: String, request: &impl Serialize, wait: Duration) -> Result<Bytes, PeerError> {
        let body = postcard::to_stdvec(request).map_err(lost)?;
        let sent = self.http.post(url).bearer_auth(&self.secret).timeout(wait).body(body).send().await;
        let response =
            sent.map_err(|error| if error.is_connect() { PeerError::Unreachable(error) } else { lost(error) })?;
        if response.status() != StatusCode::OK {
            return Err(PeerError::Refused(response.status()));
        }
        response.bytes().await.map_err(lost)
    }

    /// Asks a worker to read a ledger that it is about to take over, and waits until it has.
    ///
    /// # Errors
    /// It has not: it will have to read more once it holds the claim.
    pub async fn warm_up(&self, url: &str, ledger_id: LedgerId) -> Result<(), PeerError> {
        let url = format!("{url}{}", WARM_UP.replace("{ledger_id}", &ledger_id.to_string()));
        let answer = self.http.post(url).bearer_auth(&self.secret).timeout(WARM_UP_TIMEOUT).send().await;
        match answer.map_err(PeerError::Unreachable)?.status() {
            StatusCode::NO_CONTENT => Ok(()),
            status => Err(PeerError::Refused(status)),
        }
    }

    /// Tells a worker that claims have changed. Only a hint: it looks by itself too.
    pub async fn nudge(&self, url: &str) {
        let nudge = self.http.post(format!("{url}{NUDGE}")).bearer_auth(&self.secret).timeout(NUDGE_TIMEOUT).send();
        if let Err(error) = nudge.await {
            tracing::debug!(%error, "a worker could not be told of a change");
        }
    }
}

fn lost(error: impl std::fmt::Display) -> PeerError {
    PeerError::Lost(error.to_string())
}

/// What the internal listener serves.
#[derive(Clone)]
pub struct Internal {
    pub ledgers: Arc<Ledgers>,
    pub secret: Arc<str>,
    /// Rung when another worker says that claims have changed.
    pub look_again: Arc<Notify>,
}

pub fn router(internal: Internal) -> Router {
    Router::new()
        .route(SUBMIT, post(submit))
        .route(LOG, post(log))
        .route(NUDGE, post(nudge))
        .route(WARM_UP, post(warm_up))
        .layer(axum::extract::DefaultBodyLimit::max(FRAME_BYTES_MAX))
        .with_state(internal)
}

async fn log(State(internal): State<Internal>, headers: HeaderMap, body: Bytes) -> Response {
    if !internal.admits(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(request) = postcard::from_bytes::<LogRequest>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let ledger = internal.ledgers.all().into_iter().find(|ledger| ledger.ledger_id == request.ledger_id);
    let (Some(ledger), VERSION) = (ledger, request.version) else {
        return StatusCode::CONFLICT.into_response();
    };
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let Some(batches) = ledger.tail.after(request.after, limit) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let shard_count = internal.ledgers.shard_count();
    let wanted = |code: &AccountCode| request.shards.contains(shard_of(request.ledger_id, code.as_str(), shard_count));
    let events = batches.iter().flat_map(|batch| &batch.events);
    let mut page = LogPage { to: request.after, events: Vec::new() };
    for event in events.filter(|event| event.position > request.after).take(limit) {
        // Only who sees every event can tell that one is missing; the database will say so.
        if event.position != page.to + 1 {
            return StatusCode::NOT_FOUND.into_response();
        }
        page.to = event.position;
        if concerns(event, wanted) {
            page.events.push(ToLog(event));
        }
    }
    written(&page)
}

fn written(form: &impl Serialize) -> Response {
    match postcard::to_stdvec(form) {
        Ok(bytes) => Body::from(bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer to another worker could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Answers once the ledger has been read, or could not be.
async fn warm_up(State(internal): State<Internal>, headers: HeaderMap, Path(ledger_id): Path<LedgerId>) -> StatusCode {
    if !internal.admits(&headers) {
        return StatusCode::UNAUTHORIZED;
    }
    let Some(ledger) = internal.ledgers.all().into_iter().find(|ledger| ledger.ledger_id == ledger_id) else {
        return StatusCode::NOT_FOUND;
    };
    match ledger.warm_up.run().await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(error) => {
            tracing::info!(ledger = %ledger.name, %error, "could not be read ahead of a takeover");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

async fn nudge(State(internal): State<Internal>, headers: HeaderMap) -> StatusCode {
    if !internal.admits(&headers) {
        return StatusCode::UNAUTHORIZED;
    }
    internal.look_again.notify_one();
    StatusCode::NO_CONTENT
}

async fn submit(State(internal): State<Internal>, headers: HeaderMap, body: Bytes) -> Response {
    if !internal.admits(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(request) = postcard::from_bytes::<Request<Submitted>>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let ledger = internal.ledgers.all().into_iter().find(|ledger| ledger.ledger_id == request.ledger_id);
    let ledger = ledger.filter(|ledger| *ledger.serving.borrow());
    let (Some(ledger), VERSION) = (ledger, request.version) else {
        return StatusCode::CONFLICT.into_response();
    };
    let now = Instant::now();
    let requests = request.submissions.into_iter().map(|submitted| {
        let work = submitted.work.map_err(|_| Unavailable::Defect)?;
        Ok((work, now + Duration::from_millis(u64::from(submitted.wait_ms))))
    });
    let answers = ledger.handle.submit_forwarded(requests).await;
    let answers = answers.iter().map(|answer| match answer {
        Ok(answer) => Ok(ToAnswer(answer)),
        Err(reason) => Err(UnavailableForm::from(*reason)),
    });
    written(&Reply { answers: answers.collect() })
}

impl Internal {
    /// Compares in constant time, by comparing hashes.
    fn admits(&self, headers: &HeaderMap) -> bool {
        use sha2::{Digest, Sha256};
        let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let said = said.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        Sha256::digest(said.as_bytes()) == Sha256::digest(self.secret.as_bytes())
    }
}
