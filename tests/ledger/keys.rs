//! Idempotency keys where memory does not know them: the index has the last word.

use smallvec::smallvec;
use steelyard::sequencer::{Outcome, Work};
use tokio::time::Instant;

use super::{PATIENCE, main_ledger, open_accounts, payment, submit, worker};
use crate::support::Postgres;

#[tokio::test]
async fn a_key_that_memory_forgot_is_found_by_the_index_and_the_rest_is_decided_again() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut conn = worker.database.connect_owner().await.unwrap();
    // A key of long ago, as another sequencer left it.
    sqlx::query("INSERT INTO idempotency_keys VALUES (1, $1, $2, 1, 1)")
        .bind(steelyard::store::keys::hash("old").as_slice())
        .bind([7_u8; 16].as_slice())
        .execute(&mut conn)
        .await
        .unwrap();
    let items =
        smallvec![payment("bank", "a", 10, "new-1"), payment("bank", "a", 10, "old"), payment("a", "b", 10, "new-2"),];
    let answer = ledger.handle.submit(Work::Each(items), Instant::now() + PATIENCE).await.unwrap();
    assert!(matches!(answer.outcomes[0], Outcome::Recorded { .. }), "{answer:?}");
    assert!(matches!(answer.outcomes[1], Outcome::KeyUsed), "{answer:?}");
    assert!(matches!(answer.outcomes[2], Outcome::Recorded { .. }), "{answer:?}");
    let keys: Vec<String> =
        sqlx::query_scalar("SELECT idempotency_key FROM events WHERE idempotency_key IS NOT NULL ORDER BY position")
            .fetch_all(&mut conn)
            .await
            .unwrap();
    assert_eq!(keys, ["new-1", "new-2"]);
    // Nothing was decided on the payment that was taken back: a has 10 - 10.
    let declined = submit(&ledger, payment("a", "b", 1, "new-3")).await.unwrap();
    let Outcome::Recorded { index, .. } = declined.outcomes[0] else { panic!("{declined:?}") };
    assert_eq!(declined.batch.events[index].fact.type_name(), "transaction_rejected");
    worker.stop().await;
}

#[tokio::test]
async fn a_request_that_postgresql_refuses_fails_alone() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut conn = worker.database.connect_owner().await.unwrap();
    sqlx::query("ALTER TABLE events ADD CONSTRAINT poison CHECK (idempotency_key <> 'poison')")
        .execute(&mut conn)
        .await
        .unwrap();
    let requests = ["k1", "poison", "k2", "k3"].map(|key| submit(&ledger, payment("bank", "a", 1, key)));
    let answers = futures::future::join_all(requests).await;
    assert!(answers[1].is_err(), "{answers:?}");
    for index in [0, 2, 3] {
        assert!(matches!(answers[index].as_ref().unwrap().outcomes[0], Outcome::Recorded { .. }), "{answers:?}");
    }
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE idempotency_key LIKE 'k_'")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(stored, 3);
    worker.stop().await;
}

/// A full disk is nobody's fault: nothing is refused for good, and nobody waits
/// longer than they said.
#[tokio::test]
async fn what_postgresql_has_no_means_for_is_tried_again_within_the_deadline() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut conn = worker.database.connect_owner().await.unwrap();
    for code in ["53100", "53200", "58030", "57014"] {
        let outage = format!(
            "CREATE OR REPLACE FUNCTION outage() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'an outage' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER outage BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION outage();"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(outage)).execute(&mut conn).await.unwrap();
        let asked = Instant::now();
        let ask = |key: &str, deadline| {
            ledger.handle.submit(Work::Each(smallvec![payment("bank", "a", 1, &format!("{code}-{key}"))]), deadline)
        };
        let (hasty, patient, ()) = tokio::join!(
            ask("hasty", asked + std::time::Duration::from_millis(600)),
            ask("patient", asked + PATIENCE),
            async {
                tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
                sqlx::query("DROP TRIGGER outage ON events").execute(&mut conn).await.unwrap();
            }
        );
        assert!(matches!(hasty, Err(steelyard::sequencer::Unavailable::TimedOut)), "{code}: {hasty:?}");
        assert!(matches!(patient.unwrap().outcomes[0], Outcome::Recorded { .. }), "{code}");
    }
    let keys: Vec<String> =
        sqlx::query_scalar("SELECT idempotency_key FROM events WHERE idempotency_key IS NOT NULL ORDER BY position")
            .fetch_all(&mut conn)
            .await
            .unwrap();
    assert_eq!(keys, ["53100-patient", "53200-patient", "58030-patient", "57014-patient"]);
    worker.stop().await;
}
