//! More than the queue takes.

use std::time::{Duration, Instant};

use smallvec::SmallVec;
use steelyard::ledger::{AssetCode, Command};
use steelyard::sequencer::{Answer, Item, QUEUE_ITEMS_MAX, REQUEST_DEADLINE, Unavailable, Work};
use tokio::task::JoinHandle;

use crate::client::{Stall, payment, start_on_database};
use crate::support::{Server, eventually};

/// A queue that takes nothing more until its end.
pub struct FullQueue {
    stall: Stall,
    full: JoinHandle<Result<Answer, Unavailable>>,
}

impl FullQueue {
    pub async fn begin(server: &Server, url: &str) -> Self {
        let handle = server.app.worker.ledgers.get("main").unwrap().handle.clone();
        let stall = Stall::begin(url).await;
        // Decided quickly, and answered only when the stall ends.
        let command = Command::DefineAsset { code: AssetCode::new("EUR").unwrap(), scale: 2 };
        let items: SmallVec<[Item; 1]> = vec![Item { command, key: None }; QUEUE_ITEMS_MAX].into();
        let deadline = Instant::now() + REQUEST_DEADLINE;
        let filling = handle.clone();
        let full = tokio::spawn(async move { filling.submit(Work::Each(items), deadline.into()).await });
        eventually("the queue is full", async || handle.depth() >= QUEUE_ITEMS_MAX).await;
        Self { stall, full }
    }

    /// Everything that waited is answered.
    pub async fn end(self) {
        self.stall.end().await;
        assert_eq!(self.full.await.unwrap().unwrap().outcomes.len(), QUEUE_ITEMS_MAX);
    }
}

#[tokio::test]
async fn a_full_queue_is_503_at_once_and_nothing_is_recorded() {
    let (server, client, url) = start_on_database().await;
    let head = client.head().await;
    let full = FullQueue::begin(&server, &url).await;
    // Answered after what filled the queue has been decided, which takes this machine longer than a refusal.
    client.get("//livez").await.is(200);

    let request = payment("alice", "bob", 1);
    let mut quickest = Duration::MAX;
    for _ in 0..10 {
        let began = Instant::now();
        let refused = client.pay("k", &request).await.is_problem(503, "overloaded");
        quickest = quickest.min(began.elapsed());
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    let batch = serde_json::json!({"payments": [{
        "idempotency_key": "k", "from": "alice", "to": "bob", "amount": 1, "asset": "EUR",
    }]});
    client.post("/payments/batch", &batch).await.is_problem(503, "overloaded");
    client.post("/accounts", &serde_json::json!({"code": "x", "asset": "EUR"})).await.is_problem(503, "overloaded");
    client.get("/accounts/alice").await.is_problem(503, "overloaded");

    full.end().await;
    assert_eq!(client.head().await, head, "nothing was recorded");
    assert!(!client.pay("k", &request).await.is(201).is_replay(), "the key is free");
    assert_eq!(client.head().await, head + 1);
}
