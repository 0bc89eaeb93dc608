//! The ledgers that this worker knows, each with its services.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::follow::{Follower, Upstream};
use super::forward::{self, Routes};
use super::peer::Peers;
use super::{ClaimState, Renewals};
use crate::clock::Clock;
use crate::ledger::LedgerName;
use crate::projector::{self, Checkpoints};
use crate::sequencer::load::WarmUp;
use crate::sequencer::{self, Handle, Tail};
use crate::store::ledgers::LedgerRow;
use crate::store::{Database, LedgerId, Shard};

/// One ledger, running.
pub struct Ledger {
    pub ledger_id: LedgerId,
    pub name: LedgerName,
    pub created_at: DateTime<Utc>,
    pub handle: Handle,
    pub tail: Arc<Tail>,
    pub checkpoints: Arc<Checkpoints>,
    pub claim: watch::Sender<ClaimState>,
    /// Whether this worker sequences the ledger at this moment.
    pub serving: watch::Receiver<bool>,
    /// Reads the ledger ahead of its being handed over to this worker.
    pub warm_up: Arc<WarmUp>,
    /// The shards that this worker projects at this moment.
    pub projecting: watch::Receiver<projector::service::ShardClaims>,
    /// When the oldest event that is not projected was recorded.
    pub oldest: watch::Receiver<Option<DateTime<Utc>>>,
}

impl Ledger {
    /// Events that the projections are behind the log, as far as this worker knows.
    pub fn lag(&self) -> u64 {
        self.tail.head().saturating_sub(self.checkpoints.lowest())
    }
}

/// What every ledger's services share.
pub struct Shared {
    pub database: Database,
    pub shard_count: Shard,
    pub accounts_max: usize,
    pub clock: Arc<dyn Clock>,
    pub renewals: Renewals,
    pub shard_claims: watch::Receiver<projector::service::ShardClaims>,
    pub routes: watch::Receiver<Routes>,
    pub peers: Peers,
    pub look_again: Arc<Notify>,
}

/// All ledgers, by name.
pub struct Ledgers {
    shared: Shared,
    by_name: RwLock<BTreeMap<Box<str>, Arc<Ledger>>>,
    sequencers: TaskTracker,
    projectors: TaskTracker,
    forwarders: TaskTracker,
    stop_projectors: CancellationToken,
    /// Held while a ledger is started, so that none is started twice.
    starting: Mutex<()>,
}

impl Ledgers {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            by_name: RwLock::default(),
            sequencers: TaskTracker::new(),
            projectors: TaskTracker::new(),
            forwarders: TaskTracker::new(),
            stop_projectors: CancellationToken::new(),
            starting: Mutex::default(),
        }
    }

    pub const fn shard_count(&self) -> Shard {
        self.shared.shard_count
    }

    pub fn get(&self, name: &str) -> Option<Arc<Ledger>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Ledger>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The ledger of a row, its services started if they were not.
    pub fn ensure(&self, row: &LedgerRow) -> Arc<Ledger> {
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.get(row.name.as_str()) {
            return known;
        }
        let ledger = self.start(row);
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        by_name.insert(row.name.as_str().into(), Arc::clone(&ledger));
        ledger
    }

    fn start(&self, row: &LedgerRow) -> Arc<Ledger> {
        let Shared { database, shard_count, accounts_max, clock, renewals, shard_claims, routes, peers, look_again } =
            &self.shared;
        let (handle, queue) = Handle::new();
        let (claim, claim_of_service) = watch::channel(ClaimState::Waiting);
        let (serving_of_service, serving) = watch::channel(false);
        let (loading_of_service, loading) = watch::channel(false);
        let (oldest_of_service, oldest) = watch::channel(None);
        let (acting, projecting) = watch::channel(projector::service::ShardClaims::default());
        let (forward, to_forward) = mpsc::channel(forward::WAITING_MAX);
        let tail = Arc::new(Tail::new());
        let checkpoints = Arc::new(Checkpoints::new(*shard_count));
        let name: Arc<str> = Arc::from(row.name.as_str());
        let warm_up = Arc::new(WarmUp::new(database.clone(), row.ledger_id, *shard_count));
        let sequencer = sequencer::service::Service {
            ledger_id: row.ledger_id,
            ledger: Arc::clone(&name),
            database: database.clone(),
            shard_count: *shard_count,
            accounts_max: *accounts_max,
            tail: Arc::clone(&tail),
            checkpoints: Arc::clone(&checkpoints),
            clock: Arc::clone(clock),
            claim: claim_of_service,
            renewals: renewals.clone(),
            serving: serving_of_service,
            loading: loading_of_service,
            warm_up: Arc::clone(&warm_up),
            due: handle.due(),
            forward,
        };
        let forwarder = forward::Forwarder {
            ledger_id: row.ledger_id,
            ledger: Arc::clone(&name),
            peers: peers.clone(),
            routes: routes.clone(),
            serving: serving.clone(),
            handle: handle.clone(),
            look_again: Arc::clone(look_again),
        };
        let follower = Follower {
            ledger_id: row.ledger_id,
            database: database.clone(),
            shard_count: *shard_count,
            tail: Arc::clone(&tail),
            checkpoints: Arc::clone(&checkpoints),
            serving: serving.clone(),
            claims: shard_claims.clone(),
        };
        let projector = projector::service::Service {
            ledger_id: row.ledger_id,
            ledger: name,
            database: database.clone(),
            shard_count: *shard_count,
            tail: Arc::clone(&tail),
            upstream: Upstream { ledger_id: row.ledger_id, peers: peers.clone(), routes: routes.clone() },
            checkpoints: Arc::clone(&checkpoints),
            claims: shard_claims.clone(),
            loading,
            renewals: renewals.clone(),
            clock: Arc::clone(clock),
            pressure: handle.pressure(),
            acting,
            oldest: oldest_of_service,
        };
        self.sequencers.spawn(sequencer.run(queue));
        self.projectors.spawn(projector.run(self.stop_projectors.clone()));
        self.projectors.spawn(follower.run(self.stop_projectors.clone()));
        self.forwarders.spawn(forwarder.run(to_forward));
        Arc::new(Ledger {
            ledger_id: row.ledger_id,
            name: row.name.clone(),
            created_at: row.created_at,
            handle,
            tail,
            checkpoints,
            claim,
            serving,
            warm_up,
            projecting,
            oldest,
        })
    }

    /// Stops every service: sequencers first, which answer what they accepted,
    /// then what they passed on, then projectors, which write what was committed.
    /// Stopping twice is fine.
    pub async fn stop(&self) {
        for ledger in self.all() {
            let before = ledger.claim.send_replace(ClaimState::Stopped);
            if let ClaimState::Held(claim) = before {
                claim.lost.cancel();
            }
        }
        self.sequencers.close();
        self.sequencers.wait().await;
        self.forwarders.close();
        self.forwarders.wait().await;
        self.stop_projectors.cancel();
        self.projectors.close();
        self.projectors.wait().await;
    }
}
