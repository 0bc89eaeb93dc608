//! Who may do what: API keys, and the roles that routes ask for.
//!
//! A request costs one SHA-256 and one look-up in memory, never a round trip:
//! a service reads the usable keys from PostgreSQL every second, so that making
//! and revoking a key acts on every worker within two. What was let in for
//! longer than one answer, a stream of events, ends with its key.
//!
//! Everything fails closed. A route that is not named as open asks for a key; a
//! route that is not known to be less asks for the highest role; a table of
//! keys that is too old lets nobody in; and a database in which a key was ever
//! made asks for one, even when all are revoked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use futures::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::SharedApp;
use super::body::discard;
use super::problem::{Code, Problem};
use crate::store::api_keys::{self, KeyHash, Role, UsableKey};
use crate::store::{Connection, Database, Error, error};

/// Between two readings of the keys.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// A reading that takes longer counts as failed, and its connection as dead.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);
/// What was read is valid for so long without the database. Long enough that a
/// failover of PostgreSQL makes no client believe that its key is bad, where
/// 503 would be the truth; short enough that a worker which alone cannot read
/// the keys does not serve a revoked one for long. After that it answers 503.
const VALID_FOR: Duration = Duration::from_secs(60);
/// The use of a key is noted at most that often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// What is asked of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A key, as soon as one was ever made in this database.
    OnceThereAreKeys,
    /// A key.
    Always,
    /// Nothing: whoever reaches the port may do everything.
    Never,
}

/// The least role that a route asks for; `None` when it is open to everybody.
/// The method is in lower case, the path as the router has it.
pub fn needed(method: &str, path: &str) -> Option<Role> {
    const OPEN: [&str; 7] =
        ["/livez", "/readyz", "/metrics", "/problems/{code}", "/openapi.json", "/docs", "/docs/rapidoc.js"];
    if OPEN.contains(&path) {
        return None;
    }
    let rest = path.strip_prefix("/v1/ledgers/{ledger}/");
    let noun = rest.and_then(|rest| rest.split('/').next());
    Some(match (method, noun) {
        ("get", _) if path.starts_with("/v1/") => Role::Read,
        (_, Some("payments" | "transactions" | "import")) => Role::Submit,
        // Opening accounts; what binds those that are there is not for those whom it binds.
        ("post", Some("accounts")) if matches!(rest, Some("accounts" | "accounts/batch")) => Role::Submit,
        _ => Role::Admin,
    })
}

/// In the extensions of a request: what its key may do. Whoever needs no key may do everything.
#[derive(Clone, Copy, Debug)]
struct LetInAs(Role);

/// For what a route asks of some bodies only, beyond what it asks of all: whether
/// the request's key has the role.
///
/// # Errors
/// `forbidden`.
pub fn require(needed: Role, extensions: &Extensions) -> Result<(), Problem> {
    match extensions.get::<LetInAs>() {
        Some(LetInAs(role)) if *role >= needed => Ok(()),
        let_in => Err(forbidden(needed, let_in.map(|LetInAs(role)| *role))),
    }
}

/// What is told to a key with a lesser role.
fn forbidden(needed: Role, role: Option<Role>) -> Problem {
    let has = role.map(|role| format!("; this one has the role {role}")).unwrap_or_default();
    Problem::new(Code::Forbidden, format!("this needs an API key with the role {needed}{has}"))
}

/// The keys, as this worker knows them, and the service that keeps them fresh.
/// Stopping is [`Access::stop`]; dropping it stops too, without waiting.
pub struct Access {
    state: Arc<Shared>,
    stop: CancellationToken,
    service: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Access {
    /// Reads the keys, and goes on reading them. When this returns, what it
    /// says of a key is what the database said a moment ago.
    ///
    /// # Errors
    /// The keys cannot be read.
    pub async fn start(database: &Database, policy: Policy) -> Result<Self, Error> {
        let state = Arc::new(Shared { policy, table: RwLock::new(Table::empty(Instant::now())) });
        let stop = CancellationToken::new();
        if policy == Policy::Never {
            return Ok(Self { state, stop, service: tokio::sync::Mutex::default() });
        }
        let mut service = Service {
            database: database.clone(),
            state: Arc::clone(&state),
            conn: None,
            touched_at: HashMap::new(),
            failing: false,
        };
        service.refresh().await?;
        let handle = tokio::spawn(service.run(stop.clone()));
        Ok(Self { state, stop, service: tokio::sync::Mutex::new(Some(handle)) })
    }

    /// Stops reading the keys. Stopping twice is fine.
    pub async fn stop(&self) {
        self.stop.cancel();
        if let Some(service) = self.service.lock().await.take() {
            _ = service.await;
        }
    }

    /// Whether nobody is ever asked for a key.
    pub fn is_insecure(&self) -> bool {
        self.state.policy == Policy::Never
    }

    /// Whether a key lets somebody in at this moment.
    pub fn has_usable_key(&self) -> bool {
        !self.state.table.read().unwrap_or_else(PoisonError::into_inner).keys.is_empty()
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The handler of a route behind its guard, if the route has one.
pub fn guard(
    app: &SharedApp,
    method: &'static str,
    path: &'static str,
    serve: MethodRouter<SharedApp>,
) -> MethodRouter<SharedApp> {
    let Some(needed) = needed(method, path) else { return serve };
    let guard = Guard { app: Arc::clone(app), needed };
    serve.route_layer(middleware::from_fn_with_state(guard, check))
}

#[derive(Clone)]
struct Guard {
    app: SharedApp,
    needed: Role,
}

async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let admission = match guard.admit(&mut parts).await {
        Ok(admission) => admission,
        Err(problem) => {
            // Who asks first whether to send (`Expect: 100-continue`) is told not to.
            if !parts.headers.contains_key(header::EXPECT) {
                discard(body).await;
            }
            return problem.into_response();
        }
    };
    // The key has done its work: nothing behind this point can log it or pass it on.
    parts.headers.remove(header::AUTHORIZATION);
    let response = next.run(Request::from_parts(parts, body)).await;
    match admission {
        Some(admission) if is_endless(&response) => response.map(|body| until_over(body, &admission)),
        _ => response,
    }
}

/// In the extensions of an answer that goes on for as long as its client likes, and of
/// which the client can tell that it was cut off: it ends with its key.
#[derive(Clone, Copy, Debug)]
pub struct EndsWithItsKey;

fn is_endless(response: &Response) -> bool {
    if response.extensions().get::<EndsWithItsKey>().is_some() {
        return true;
    }
    let content_type = response.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|content_type| content_type.as_bytes().starts_with(b"text/event-stream"))
}

/// The body, until what it was let in for is no more.
fn until_over(body: Body, admission: &Admission) -> Body {
    let over = admission.over.clone().cancelled_owned();
    Body::from_stream(body.into_data_stream().take_until(over))
}

impl Guard {
    /// Lets a request in, and notes as what, or says why not.
    async fn admit(&self, parts: &mut Parts) -> Result<Option<Arc<Admission>>, Problem> {
        let state = &self.app.access.state;
        if state.policy == Policy::Never {
            parts.extensions.insert(LetInAs(Role::Admin));
            return Ok(None);
        }
        let found = {
            let table = state.table.read().unwrap_or_else(PoisonError::into_inner);
            table.find(state.policy, &parts.headers, Instant::now())?
        };
        let key = match found {
            Found::Open(admission) => {
                parts.extensions.insert(LetInAs(Role::Admin));
                return Ok(Some(admission));
            }
            Found::Key(key) => key,
        };
        if key.role < self.needed {
            return Err(forbidden(self.needed, Some(key.role)));
        }
        if let Some(bound) = &key.ledger {
            // Decoded as the handler will see it.
            let params = RawPathParams::from_request_parts(parts, &()).await.ok();
            let within =
                params.is_some_and(|params| params.iter().any(|(name, value)| name == "ledger" && value == &**bound));
            if !within {
                return Err(Problem::new(
                    Code::Forbidden,
                    format!("this API key is good for the ledger {bound} and nothing else"),
                ));
            }
        }
        parts.extensions.insert(LetInAs(key.role));
        Ok(Some(key.admission))
    }
}

/// What requests and the service share.
struct Shared {
    policy: Policy,
    /// Held for a look-up and for a swap, never across an await.
    table: RwLock<Table>,
}

/// All usable keys.
struct Table {
    keys: HashMap<KeyHash, Known>,
    /// Whether a key was ever made, usable or not.
    any: bool,
    /// When the reading of it began.
    as_of: Instant,
    /// What was let in without a key, because there was none.
    without_key: Arc<Admission>,
}

/// A usable key.
#[derive(Clone)]
struct Known {
    key_id: Uuid,
    role: Role,
    ledger: Option<Arc<str>>,
    expires_at: Option<Instant>,
    /// The same in every table from the first that has the key to the last.
    admission: Arc<Admission>,
}

/// What requests were let in by.
#[derive(Default)]
struct Admission {
    /// Since it was last noted.
    used: AtomicBool,
    /// Cancelled when it lets nobody in any more.
    over: CancellationToken,
}

enum Found {
    /// None is asked for.
    Open(Arc<Admission>),
    Key(Known),
}

impl Table {
    fn empty(as_of: Instant) -> Self {
        Self { keys: HashMap::new(), any: false, as_of, without_key: Arc::default() }
    }

    /// The key of a request.
    ///
    /// # Errors
    /// `unauthenticated` without a usable key, `unavailable` when this table is too old to say.
    fn find(&self, policy: Policy, headers: &HeaderMap, now: Instant) -> Result<Found, Problem> {
        if now.saturating_duration_since(self.as_of) > VALID_FOR {
            return Err(Problem::new(Code::Unavailable, "the API keys cannot be read at the moment"));
        }
        if policy == Policy::OnceThereAreKeys && !self.any {
            return Ok(Found::Open(Arc::clone(&self.without_key)));
        }
        let known = api_keys::hash(bearer(headers)?).and_then(|hash| self.keys.get(&hash));
        let known = known.filter(|known| known.expires_at.is_none_or(|expires_at| now < expires_at));
        let known = known.ok_or_else(|| unauthenticated("the API key is unknown, has expired or was revoked"))?;
        // Looked at first: a store by every request would pass the cache line around.
        if !known.admission.used.load(Ordering::Relaxed) {
            known.admission.used.store(true, Ordering::Relaxed);
        }
        Ok(Found::Key(known.clone()))
    }

    /// The table that follows, of what was read at `as_of`; what is over is ended.
    fn follow(&mut self, read: Vec<UsableKey>, any: bool, as_of: Instant) {
        let mut before = std::mem::take(&mut self.keys);
        for key in read {
            let expires_at = key.expires_in_s.and_then(|seconds| {
                // Too far away to be counted is never.
                as_of.checked_add(Duration::try_from_secs_f64(seconds.max(0.0)).ok()?)
            });
            let admission = before.remove(&key.key_hash).map(|known| known.admission).unwrap_or_default();
            let ledger = key.ledger.map(Arc::from);
            let known = Known { key_id: key.key_id, role: key.role, ledger, expires_at, admission };
            self.keys.insert(key.key_hash, known);
        }
        for known in before.into_values() {
            known.admission.over.cancel();
        }
        if any {
            self.without_key.over.cancel();
        }
        self.any |= any;
        self.as_of = as_of;
    }

    /// Ends everything that was let in, when nobody knows any more whether it should be.
    fn expire(&mut self, now: Instant) {
        if now.saturating_duration_since(self.as_of) > VALID_FOR {
            for known in std::mem::take(&mut self.keys).into_values() {
                known.admission.over.cancel();
            }
        }
    }
}

/// The key in the `Authorization` header (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values
        .next()
        .ok_or_else(|| unauthenticated("this needs an API key, in the header Authorization: Bearer <key>"))?;
    if values.next().is_some() {
        return Err(unauthenticated("there is more than one Authorization header"));
    }
    let credentials = value.to_str().ok().and_then(|text| text.split_once(' '));
    match credentials {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim_matches(' ')),
        _ => Err(unauthenticated("the Authorization header is not of the form Bearer <key>")),
    }
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new(Code::Unauthenticated, detail)
}

/// Reads the keys, and notes their use. It has a connection of its own, so
/// that a revocation does not queue behind reads in a peak.
struct Service {
    database: Database,
    state: Arc<Shared>,
    conn: Option<Connection>,
    /// When the use of a key was noted last.
    touched_at: HashMap<Uuid, Instant>,
    failing: bool,
}

impl Service {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(REFRESH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is at once, and `start` has just read.
        ticks.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            // A reading under way is not waited for when the worker stops.
            let read = tokio::select! {
                () = stop.cancelled() => break,
                read = self.refresh() => read,
            };
            match read {
                Ok(()) if self.failing => {
                    self.failing = false;
                    tracing::info!("the API keys can be read again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !self.failing {
                        let valid_for_s = VALID_FOR.as_secs();
                        tracing::warn!(%error, valid_for_s, "the API keys cannot be read; going by those of before");
                    }
                    self.failing = true;
                    self.write_table(|table| table.expire(Instant::now()));
                }
            }
        }
    }

    /// One reading; on failure the connection is given up.
    async fn refresh(&mut self) -> Result<(), Error> {
        tokio::time::timeout(REFRESH_TIMEOUT, self.read())
            .await
            .unwrap_or_else(|_| Err(error::timed_out("reading the API keys took too long")))
    }

    async fn read(&mut self) -> Result<(), Error> {
        // Put back only when all went well.
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.database.connect_serving().await?,
        };
        let as_of = Instant::now();
        let keys = api_keys::usable(&mut conn).await?;
        let any = !keys.is_empty() || api_keys::exist(&mut conn).await?;
        let ids: Vec<Uuid> = keys.iter().map(|key| key.key_id).collect();
        let was_open = self.write_table(|table| {
            let was_open = !table.any;
            table.follow(keys, any, as_of);
            was_open
        });
        if was_open && any {
            tracing::info!("there are API keys: they are asked for");
        }
        self.touched_at.retain(|key_id, _| ids.contains(key_id));
        match self.touch(&mut conn).await {
            Ok(()) => self.conn = Some(conn),
            // A note that is lost is no reason to doubt the keys.
            Err(error) => tracing::debug!(%error, "the use of API keys could not be noted"),
        }
        Ok(())
    }

    /// Notes the use of keys that were used, each once a minute at most.
    async fn touch(&mut self, conn: &mut Connection) -> Result<(), Error> {
        let now = Instant::now();
        let due: Vec<(Uuid, Arc<Admission>)> = {
            let table = self.state.table.read().unwrap_or_else(PoisonError::into_inner);
            let used = table.keys.values().filter(|known| known.admission.used.load(Ordering::Relaxed));
            let due = used.filter(|known| {
                let touched_at = self.touched_at.get(&known.key_id);
                touched_at.is_none_or(|touched_at| now.saturating_duration_since(*touched_at) >= TOUCH_EVERY)
            });
            due.map(|known| (known.key_id, Arc::clone(&known.admission))).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        for (_, admission) in &due {
            admission.used.store(false, Ordering::Relaxed);
        }
        let ids: Vec<Uuid> = due.iter().map(|(key_id, _)| *key_id).collect();
        api_keys::touch(conn, &ids, TOUCH_EVERY.as_secs_f64()).await?;
        // After the statement, so that a minute from here is a minute from what it wrote.
        let touched_at = Instant::now();
        self.touched_at.extend(ids.into_iter().map(|key_id| (key_id, touched_at)));
        Ok(())
    }

    fn write_table<R>(&self, write: impl FnOnce(&mut Table) -> R) -> R {
        write(&mut self.state.table.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const ANY_TIME: Duration = Duration::from_secs(3_600);

    fn key(text: &str, expires_in_s: Option<f64>) -> UsableKey {
        let key_hash = api_keys::hash(text).unwrap();
        UsableKey { key_id: Uuid::from_u128(1), key_hash, role: Role::Read, ledger: None, expires_in_s }
    }

    fn with(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())])
    }

    /// The code with which a request is refused, if it is.
    fn refused(table: &Table, policy: Policy, headers: &HeaderMap, now: Instant) -> Option<Code> {
        table.find(policy, headers, now).err().map(|problem| problem.code)
    }

    #[test]
    fn routes_ask_for_the_highest_role_unless_they_are_known_to_ask_for_less() {
        for (method, path, role) in [
            ("get", "/livez", None),
            ("get", "/v1/cluster", Some(Role::Read)),
            ("get", "/v1/ledgers/{ledger}/anything", Some(Role::Read)),
            ("post", "/v1/ledgers/{ledger}/payments/batch", Some(Role::Submit)),
            ("post", "/v1/ledgers/{ledger}/import", Some(Role::Submit)),
            ("get", "/v1/ledgers/{ledger}/export/journal", Some(Role::Read)),
            ("post", "/v1/ledgers/{ledger}/transactions/{id}/reverse", Some(Role::Submit)),
            ("post", "/v1/ledgers/{ledger}/accounts", Some(Role::Submit)),
            ("post", "/v1/ledgers/{ledger}/accounts/batch", Some(Role::Submit)),
            ("patch", "/v1/ledgers/{ledger}/accounts/batch", Some(Role::Admin)),
            ("post", "/v1/ledgers/{ledger}/accounts/{code}/unfreeze", Some(Role::Admin)),
            ("delete", "/v1/ledgers/{ledger}/velocity-limits/{name}", Some(Role::Admin)),
            ("post", "/v1/ledgers/{ledger}/periods/close", Some(Role::Admin)),
            ("put", "/v1/ledgers/{ledger}", Some(Role::Admin)),
            ("put", "/v1/ledgers/{ledger}/assets/{code}", Some(Role::Admin)),
            ("post", "/v1/cluster/anything", Some(Role::Admin)),
            ("post", "/v1/ledgers/{ledger}/paymentsandmore", Some(Role::Admin)),
            ("get", "/internal", Some(Role::Admin)),
        ] {
            assert_eq!(needed(method, path), role, "{method} {path}");
        }
    }

    #[test]
    fn what_some_bodies_need_is_given_to_nobody_who_was_not_let_in_as_that() {
        let asked = |role: Option<Role>| {
            let mut extensions = Extensions::new();
            role.map(|role| extensions.insert(LetInAs(role)));
            require(Role::Admin, &extensions).err().map(|problem| problem.code)
        };
        assert_eq!(asked(Some(Role::Admin)), None);
        for role in [Some(Role::Submit), Some(Role::Read), None] {
            assert_eq!(asked(role), Some(Code::Forbidden), "{role:?}");
        }
    }

    #[test]
    fn a_key_lets_in_until_it_expires() {
        let now = Instant::now();
        let text = api_keys::generate().unwrap();
        let mut table = Table::empty(now);
        table.follow(vec![key(&text, Some(10.0))], true, now);
        let headers = with(&format!("Bearer {text}"));
        assert_eq!(refused(&table, Policy::Always, &headers, now + Duration::from_secs(9)), None);
        assert_eq!(
            refused(&table, Policy::Always, &headers, now + Duration::from_secs(10)),
            Some(Code::Unauthenticated)
        );
        // Longer than clocks count is for ever.
        table.follow(vec![key(&text, Some(f64::MAX))], true, now);
        assert_eq!(refused(&table, Policy::Always, &headers, now + Duration::from_secs(59)), None);
    }

    #[test]
    fn a_table_that_is_too_old_lets_nobody_in_and_calls_no_key_bad() {
        let now = Instant::now();
        let text = api_keys::generate().unwrap();
        let mut table = Table::empty(now);
        table.follow(vec![key(&text, None)], true, now);
        let admission = Arc::clone(&table.keys.values().next().unwrap().admission);
        let headers = with(&format!("Bearer {text}"));
        for policy in [Policy::Always, Policy::OnceThereAreKeys] {
            assert_eq!(refused(&table, policy, &headers, now + VALID_FOR), None);
            assert_eq!(refused(&table, policy, &headers, now + ANY_TIME), Some(Code::Unavailable));
            assert_eq!(refused(&table, policy, &HeaderMap::new(), now + ANY_TIME), Some(Code::Unavailable));
        }
        table.expire(now + VALID_FOR);
        assert!(!admission.over.is_cancelled());
        table.expire(now + ANY_TIME);
        assert!(admission.over.is_cancelled());
        // It is known again when the database is.
        table.follow(vec![key(&text, None)], true, now + ANY_TIME);
        assert_eq!(refused(&table, Policy::Always, &headers, now + ANY_TIME), None);
    }

    #[test]
    fn what_was_let_in_ends_with_its_key_and_not_before() {
        let now = Instant::now();
        let text = api_keys::generate().unwrap();
        let mut table = Table::empty(now);
        let without_key = Arc::clone(&table.without_key);
        table.follow(Vec::new(), false, now);
        assert!(!without_key.over.is_cancelled());
        table.follow(vec![key(&text, None)], true, now);
        assert!(without_key.over.is_cancelled(), "what needed no key needs one now");
        let admission = Arc::clone(&table.keys.values().next().unwrap().admission);
        table.follow(vec![key(&text, None)], true, now);
        assert!(!admission.over.is_cancelled());
        table.follow(Vec::new(), true, now);
        assert!(admission.over.is_cancelled());
    }

    #[test]
    fn a_database_that_ever_had_a_key_asks_for_one() {
        let now = Instant::now();
        let mut table = Table::empty(now);
        let nothing = HeaderMap::new();
        assert_eq!(refused(&table, Policy::OnceThereAreKeys, &nothing, now), None);
        assert_eq!(refused(&table, Policy::Always, &nothing, now), Some(Code::Unauthenticated));
        table.follow(Vec::new(), true, now);
        assert_eq!(refused(&table, Policy::OnceThereAreKeys, &nothing, now), Some(Code::Unauthenticated));
        // Not even if somebody deletes the rows.
        table.follow(Vec::new(), false, now);
        assert_eq!(refused(&table, Policy::OnceThereAreKeys, &nothing, now), Some(Code::Unauthenticated));
    }

    #[test]
    fn credentials_are_one_bearer_token() {
        for good in ["Bearer x", "bearer x", "BEARER  x "] {
            assert_eq!(bearer(&with(good)).unwrap(), "x", "{good:?}");
        }
        for bad in ["", "Bearer", "x", "Basic x", "Bearerx", "Token x"] {
            assert_eq!(bearer(&with(bad)).unwrap_err().code, Code::Unauthenticated, "{bad:?}");
        }
        let mut two = with("Bearer x");
        two.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(bearer(&two).unwrap_err().code, Code::Unauthenticated);
    }
}
