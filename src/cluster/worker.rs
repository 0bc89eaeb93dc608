//! One running process: its session, its ledgers, its status.

use std::fmt;
use std::sync::Arc;

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::forward::Routes;
use super::ledgers::Shared;
use super::peer::{Internal, Peers, WARM_UP_TIMEOUT};
use super::session::Session;
use super::{Ledgers, Renewals};
use crate::clock::Clock;
use crate::ledger::LedgerName;
use crate::projector::service::ShardClaims;
use crate::store::claims::Registration;
use crate::store::{self, Database, Error};

/// How long a worker that stops waits for the others to take over: for them to read
/// ahead what a peak has deferred, and then some. Without a peak they need a tenth of a second.
const HAND_OVER_MAX: Duration = WARM_UP_TIMEOUT.saturating_add(Duration::from_secs(2));

/// What the worker is doing, as `/readyz` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not there yet, and why.
    Starting(String),
    /// Every ledger can be reached: here, or by forwarding.
    Serving,
    /// Stopping: finishing what was accepted.
    Draining,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(why) => write!(f, "starting: {why}"),
            Self::Serving => f.write_str("serving"),
            Self::Draining => f.write_str("draining"),
        }
    }
}

/// What a worker is started with.
pub struct Options {
    pub database: Database,
    /// Where clients reach this worker.
    pub address: String,
    /// Where other workers reach it: the address of the internal listener.
    pub internal_url: Option<String>,
    /// What workers prove to each other with; the database's own by default.
    pub secret: Option<String>,
    /// Its weight against other workers.
    pub capacity: i32,
    pub roles: Roles,
    /// Accounts that one ledger's sequencer keeps in memory.
    pub accounts_max: usize,
    pub clock: Arc<dyn Clock>,
}

/// What a worker takes part in beside serving the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub sequencer: bool,
    pub projector: bool,
}

impl Default for Roles {
    fn default() -> Self {
        Self { sequencer: true, projector: true }
    }
}

impl Options {
    /// A worker that takes part in everything.
    pub fn new(database: Database, address: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            database,
            address,
            internal_url: None,
            secret: None,
            capacity: 1,
            roles: Roles::default(),
            accounts_max: crate::config::ACCOUNTS_IN_MEMORY_DEFAULT,
            clock,
        }
    }
}

/// A running worker.
pub struct Worker {
    pub database: Database,
    pub ledgers: Arc<Ledgers>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<Status>,
    secret: Arc<str>,
    look_again: Arc<Notify>,
    handed_over: watch::Receiver<bool>,
    stop: CancellationToken,
    session: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts on a database whose schema is current; makes the ledger `main`.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let Options { database, address, internal_url, secret, capacity, roles, accounts_max, clock } = options;
        let mut conn = database.connect_serving().await?;
        let shard_count = store::ledgers::shard_count(&mut conn).await?;
        if let Ok(main) = LedgerName::new("main") {
            store::ledgers::create(&mut conn, &main).await?;
        }
        let secret = match secret {
            Some(secret) => secret,
            None => store::ledgers::cluster_secret(&mut conn).await?,
        };
        let peers = Peers::new(&secret).map_err(|error| Error::Refused(sqlx::Error::Configuration(Box::new(error))))?;
        let look_again = Arc::new(Notify::new());
        let (routes, routes_of_ledgers) = watch::channel(Routes::default());
        let (handed_over_of_session, handed_over) = watch::channel(false);
        let (renewals, renewals_of_session) = Renewals::new();
        let (shard_claims, shard_claims_of_ledgers) = watch::channel(ShardClaims::default());
        let ledgers = Arc::new(Ledgers::new(Shared {
            database: database.clone(),
            shard_count,
            accounts_max,
            clock: Arc::clone(&clock),
            renewals,
            shard_claims: shard_claims_of_ledgers,
            routes: routes_of_ledgers,
            peers: peers.clone(),
            look_again: Arc::clone(&look_again),
        }));
        for row in store::ledgers::list(&mut conn).await? {
            ledgers.ensure(&row);
        }
        let status = watch::Sender::new(Status::Starting("joining".to_owned()));
        let stop = CancellationToken::new();
        let session = Session {
            database: database.clone(),
            registration: Registration {
                address,
                internal_url,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                capacity,
                sequencer: roles.sequencer,
                projector: roles.projector,
            },
            ledgers: Arc::clone(&ledgers),
            shard_claims,
            routes,
            status: status.clone(),
            renewals: renewals_of_session,
            peers,
            look_again: Arc::clone(&look_again),
            handed_over: handed_over_of_session,
            stop: stop.clone(),
        };
        let session = tokio::sync::Mutex::new(Some(tokio::spawn(session.run())));
        Ok(Self { database, ledgers, clock, status, secret: secret.into(), look_again, handed_over, stop, session })
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The time, by the worker's clock.
    pub fn now(&self) -> chrono::DateTime<chrono::Utc> {
        self.clock.now()
    }

    /// Milliseconds since `then`, by the worker's clock.
    pub fn age_ms(&self, then: chrono::DateTime<chrono::Utc>) -> u64 {
        u64::try_from((self.clock.now() - then).num_milliseconds()).unwrap_or(0)
    }

    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// What the internal listener serves to other workers.
    pub fn internal(&self) -> Internal {
        Internal {
            ledgers: Arc::clone(&self.ledgers),
            secret: Arc::clone(&self.secret),
            look_again: Arc::clone(&self.look_again),
        }
    }

    /// Says that no new work is wanted, and begins to hand over to other
    /// workers; goes on with what there is.
    pub fn drain(&self) {
        self.status.send_replace(Status::Draining);
        self.look_again.notify_one();
    }

    /// Waits until the other workers have taken over everything, if there are
    /// any, and no longer than [`HAND_OVER_MAX`].
    pub async fn handed_over(&self) {
        let mut handed_over = self.handed_over.clone();
        _ = tokio::time::timeout(HAND_OVER_MAX, handed_over.wait_for(|done| *done)).await;
    }

    /// Finishes what was accepted, writes the projections, gives the claims
    /// back. Stopping twice is fine.
    pub async fn stop(&self) {
        self.drain();
        self.ledgers.stop().await;
        self.stop.cancel();
        if let Some(session) = self.session.lock().await.take() {
            _ = session.await;
        }
    }
}
