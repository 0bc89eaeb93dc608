//! Every metric's name, in one place, with what it means.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Payments and other commands waiting for an answer, per ledger.
pub const QUEUE_DEPTH: &str = "steelyard_queue_depth";
/// Events per append.
pub const BATCH_EVENTS: &str = "steelyard_batch_events";
/// Time of one append, from sending the statement to its commit.
pub const APPEND_SECONDS: &str = "steelyard_append_duration_seconds";
/// Time of one projector flush.
pub const FLUSH_SECONDS: &str = "steelyard_flush_duration_seconds";
/// Events per flush.
pub const FLUSH_EVENTS: &str = "steelyard_flush_events";
/// Events that a shard's projection is behind the log.
pub const PROJECTION_LAG: &str = "steelyard_projection_lag_events";
/// Seconds since the oldest event that is not projected was recorded; 0 when all are.
pub const PROJECTION_LAG_SECONDS: &str = "steelyard_projection_lag_seconds";
/// Commands decided, by outcome.
pub const DECISIONS: &str = "steelyard_decisions_total";
/// Appends and flushes that a newer epoch refused.
pub const FENCED: &str = "steelyard_fenced_writes_total";
/// Requests answered from what their idempotency key did before.
pub const REPLAYS: &str = "steelyard_idempotent_replays_total";
/// Batches rolled back in memory and decided again, by reason.
pub const REDECIDED: &str = "steelyard_batches_redecided_total";
/// Holds and scheduled transactions that are due and could not be settled.
pub const DUE_SET_ASIDE: &str = "steelyard_due_set_aside_total";
/// Accounts held in memory.
pub const ACCOUNTS_IN_MEMORY: &str = "steelyard_accounts_in_memory";
/// Accounts read from the database because memory did not hold them.
pub const ACCOUNTS_PREFETCHED: &str = "steelyard_accounts_prefetched_total";
/// Position of the last committed event.
pub const LOG_HEAD: &str = "steelyard_log_head";
/// Accounts whose projection has stopped.
pub const PROJECTION_FAULTS: &str = "steelyard_projection_faults";
/// Units of work (sequencers, projectors) that this worker holds.
pub const CLAIMS_HELD: &str = "steelyard_claims_held";
/// Claims lost, by how.
pub const CLAIMS_LOST: &str = "steelyard_claims_lost_total";
/// Units that this worker should hold and could not get, at its last look.
pub const CLAIMS_DENIED: &str = "steelyard_claims_denied";
/// Units that no live worker holds, at this worker's last look.
pub const UNITS_UNOWNED: &str = "steelyard_units_unowned";
/// Workers that live, at this worker's last look.
pub const WORKERS: &str = "steelyard_workers";
/// Requests per frame to the worker that sequences a ledger.
pub const FORWARD_REQUESTS: &str = "steelyard_forward_requests";
/// Frames that came to nothing; their requests are tried again.
pub const FORWARD_FAILURES: &str = "steelyard_forward_failures_total";
/// HTTP answers by route, method and status.
pub const HTTP_REQUESTS: &str = "steelyard_http_requests_total";
/// Time to answer an HTTP request.
pub const HTTP_SECONDS: &str = "steelyard_http_request_duration_seconds";

const SECONDS_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const EVENTS_BUCKETS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];

/// Starts collecting, once a process; the handle renders what Prometheus scrapes.
///
/// # Errors
/// A recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_events".into()), EVENTS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(FORWARD_REQUESTS.into()), EVENTS_BUCKETS)?
        .install_recorder()?;
    describe();
    // There from the start, so that a rate sees the first one.
    for name in [REPLAYS, ACCOUNTS_PREFETCHED, FORWARD_FAILURES, DUE_SET_ASIDE] {
        counter!(name).absolute(0);
    }
    for write in ["append", "flush"] {
        counter!(FENCED, "write" => write).absolute(0);
    }
    for reason in ["known_key", "transient", "exhausted", "refused"] {
        counter!(REDECIDED, "reason" => reason).absolute(0);
    }
    for how in ["stopped", "connection", "deposed"] {
        counter!(CLAIMS_LOST, "how" => how).absolute(0);
    }
    Ok(handle)
}

fn describe() {
    describe_gauge!(QUEUE_DEPTH, Unit::Count, "Commands waiting for an answer, per ledger");
    describe_histogram!(BATCH_EVENTS, Unit::Count, "Events per append");
    describe_histogram!(APPEND_SECONDS, Unit::Seconds, "Time of one append, statement to commit");
    describe_histogram!(FLUSH_SECONDS, Unit::Seconds, "Time of one projector flush");
    describe_histogram!(FLUSH_EVENTS, Unit::Count, "Events per projector flush");
    describe_gauge!(PROJECTION_LAG, Unit::Count, "Events that a shard's projection is behind the log");
    describe_gauge!(PROJECTION_LAG_SECONDS, Unit::Seconds, "Age of the oldest event that is not projected");
    describe_counter!(DECISIONS, Unit::Count, "Commands decided, by outcome");
    describe_counter!(FENCED, Unit::Count, "Writes that a newer epoch refused");
    describe_counter!(REPLAYS, Unit::Count, "Requests answered from what their idempotency key did before");
    describe_counter!(REDECIDED, Unit::Count, "Batches rolled back in memory and decided again, by reason");
    describe_counter!(DUE_SET_ASIDE, Unit::Count, "Due transactions that could not be settled and are left alone");
    describe_gauge!(ACCOUNTS_IN_MEMORY, Unit::Count, "Accounts held in memory, per ledger");
    describe_counter!(ACCOUNTS_PREFETCHED, Unit::Count, "Accounts read from the database on demand");
    describe_gauge!(LOG_HEAD, Unit::Count, "Position of the last committed event, per ledger");
    describe_gauge!(PROJECTION_FAULTS, Unit::Count, "Accounts whose projection has stopped");
    describe_gauge!(CLAIMS_HELD, Unit::Count, "Units of work that this worker holds");
    describe_counter!(CLAIMS_LOST, Unit::Count, "Claims lost, by how");
    describe_gauge!(CLAIMS_DENIED, Unit::Count, "Units that this worker should hold and could not get");
    describe_gauge!(UNITS_UNOWNED, Unit::Count, "Units that no live worker holds");
    describe_gauge!(WORKERS, Unit::Count, "Workers that live");
    describe_histogram!(FORWARD_REQUESTS, Unit::Count, "Requests per frame to the worker that sequences a ledger");
    describe_counter!(FORWARD_FAILURES, Unit::Count, "Frames to another worker that came to nothing");
    describe_counter!(HTTP_REQUESTS, Unit::Count, "HTTP answers by route, method and status");
    describe_histogram!(HTTP_SECONDS, Unit::Seconds, "Time to answer an HTTP request");
}
