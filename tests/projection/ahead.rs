//! Shards that are not all as far as each other: each comes from another worker.

use steelyard::projector::fold::Fold;
use steelyard::store;
use steelyard::store::projections::Step;

use crate::fixture::{Scratch, projected};
use crate::speed::{ACCOUNTS, fill_with};

/// More than one flush takes.
const PAYMENTS: u64 = 25_000;
const HEAD: u64 = ACCOUNTS + PAYMENTS;
const SHARDS: i16 = 64;

/// Projects the whole log for shards with an even number, in one flush.
async fn project_even_shards(scratch: &Scratch) {
    let mut conn = scratch.database.connect_serving().await.unwrap();
    let log = store::events::read_events(&mut conn, 1, 0, HEAD as i64).await.unwrap();
    let from: Vec<_> = (0..SHARDS).map(|shard| (shard % 2 == 0).then_some(0)).collect();
    let mut fold = Fold::new(1, SHARDS, &from, 1);
    log.iter().for_each(|event| fold.add(event));
    let steps: Vec<_> = (0..SHARDS).step_by(2).map(|shard| Step { shard, epoch: 0, from: 0 }).collect();
    let flushed = store::projections::flush(&mut conn, 1, &steps, HEAD, &fold.finish()[0]).await.unwrap();
    assert_eq!((flushed.advanced.len(), flushed.faults), (SHARDS as usize / 2, 0));
}

/// Trap: a flush that ends before the place where one of its shards is already. The
/// checkpoint went back there, and what follows was projected twice: an account's
/// projection stopped, or no flush of the shard succeeded any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_a_flush_never_moves_a_shard_back_that_is_ahead_of_the_others() {
    let scratch = Scratch::empty().await;
    fill_with(&scratch.database, PAYMENTS).await;
    project_even_shards(&scratch).await;
    scratch
        .corrupt(
            "CREATE TABLE went_back (shard smallint, before bigint, after bigint);
             CREATE FUNCTION note_step_back() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN
                 INSERT INTO went_back VALUES (OLD.shard, OLD.position, NEW.position);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER note_step_back AFTER UPDATE ON checkpoints
             FOR EACH ROW WHEN (NEW.position < OLD.position) EXECUTE FUNCTION note_step_back()",
        )
        .await;
    let worker = scratch.work().await;
    projected(&worker.ledgers.get("main").unwrap()).await;
    worker.stop().await;
    assert_eq!(scratch.number("SELECT count(*) FROM went_back").await, 0);
    assert_eq!(scratch.number("SELECT count(*) FROM projection_faults").await, 0);
    assert_eq!(scratch.verify().await.unwrap().events, HEAD);
}
