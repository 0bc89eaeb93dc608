//! One running process: its session, its ledgers, its status.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::ledgers::Shared;
use super::session::Session;
use super::{Ledgers, Renewals};
use crate::clock::Clock;
use crate::ledger::LedgerName;
use crate::projector::service::ShardClaims;
use crate::store::{self, Database, Error};

/// What the worker is doing, as `/readyz` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not there yet, and why.
    Starting(String),
    /// Another worker holds the claims.
    Standby,
    Serving,
    /// Stopping: finishing what was accepted.
    Draining,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(why) => write!(f, "starting: {why}"),
            Self::Standby => f.write_str("standby"),
            Self::Serving => f.write_str("serving"),
            Self::Draining => f.write_str("draining"),
        }
    }
}

/// What a worker is started with.
pub struct Options {
    pub database: Database,
    /// Where others reach this worker.
    pub address: String,
    /// Accounts that one ledger's sequencer keeps in memory.
    pub accounts_max: usize,
    pub clock: Arc<dyn Clock>,
}

/// A running worker.
pub struct Worker {
    pub database: Database,
    pub ledgers: Arc<Ledgers>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<Status>,
    stop: CancellationToken,
    session: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts on a database whose schema is current; makes the ledger `main`.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let Options { database, address, accounts_max, clock } = options;
        let mut conn = database.connect_serving().await?;
        let shard_count = store::ledgers::shard_count(&mut conn).await?;
        if let Ok(main) = LedgerName::new("main") {
            store::ledgers::create(&mut conn, &main).await?;
        }
        let (renewals, renewals_of_session) = Renewals::new();
        let (shard_claims, shard_claims_of_ledgers) = watch::channel(ShardClaims::default());
        let ledgers = Arc::new(Ledgers::new(Shared {
            database: database.clone(),
            shard_count,
            accounts_max,
            clock: Arc::clone(&clock),
            renewals,
            shard_claims: shard_claims_of_ledgers,
        }));
        for row in store::ledgers::list(&mut conn).await? {
            ledgers.ensure(&row);
        }
        let status = watch::Sender::new(Status::Starting("joining".to_owned()));
        let stop = CancellationToken::new();
        let session = Session {
            database: database.clone(),
            address,
            ledgers: Arc::clone(&ledgers),
            shard_claims,
            status: status.clone(),
            renewals: renewals_of_session,
            stop: stop.clone(),
        };
        let session = tokio::sync::Mutex::new(Some(tokio::spawn(session.run())));
        Ok(Self { database, ledgers, clock, status, stop, session })
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Milliseconds since `then`, by the worker's clock.
    pub fn age_ms(&self, then: chrono::DateTime<chrono::Utc>) -> u64 {
        u64::try_from((self.clock.now() - then).num_milliseconds()).unwrap_or(0)
    }

    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Says that no new work is wanted; goes on with what there is.
    pub fn drain(&self) {
        self.status.send_replace(Status::Draining);
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
