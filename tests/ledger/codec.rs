//! Our encodings against the server's own.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::Row;
use steelyard::ledger::Amount;
use steelyard::store::jsonb::Jsonb;

use crate::support::Postgres;

#[tokio::test]
async fn amounts_mean_the_same_to_postgresql() {
    let url = Postgres::shared().await.database().await;
    let database = steelyard::store::Database::new(&url).unwrap();
    let mut conn = database.connect_owner().await.unwrap();
    let mut amounts = vec![Amount::ZERO, Amount::MAX, Amount::MIN, Amount::from(10_000), Amount::from(99_990_000)];
    let magnitude = Amount::MAX.get();
    let mut runner = TestRunner::new(Config::default());
    let any = prop_oneof![-magnitude..=magnitude, -100_000_i128..100_000, (0_u32..38).prop_map(|n| 10_i128.pow(n))];
    for _ in 0..2_000 {
        use proptest::strategy::ValueTree;
        amounts.extend(Amount::new(any.new_tree(&mut runner).unwrap().current()));
    }
    let rows = sqlx::query(
        "SELECT u.n AS number, u.n::text AS text FROM UNNEST($1::numeric(38,0)[]) WITH ORDINALITY u(n, o) ORDER BY o",
    )
    .bind(&amounts)
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(rows.len(), amounts.len());
    for (row, amount) in rows.iter().zip(&amounts) {
        assert_eq!(row.get::<String, _>("text"), amount.to_string());
        assert_eq!(row.get::<Amount, _>("number"), *amount);
    }
}

#[tokio::test]
async fn numbers_that_are_no_amounts_are_refused() {
    let url = Postgres::shared().await.database().await;
    let database = steelyard::store::Database::new(&url).unwrap();
    let mut conn = database.connect_owner().await.unwrap();
    for number in ["1.5", "'NaN'", "'Infinity'", "1e38", "-1e38", "1e100"] {
        let sql = format!("SELECT {number}::numeric");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
        assert!(row.try_get::<Amount, _>(0).is_err(), "{number}");
    }
}

#[tokio::test]
async fn json_goes_in_and_out_as_it_is() {
    let url = Postgres::shared().await.database().await;
    let database = steelyard::store::Database::new(&url).unwrap();
    let mut conn = database.connect_owner().await.unwrap();
    let text = r#"{"a": "ü\n", "b": [1, null, true]}"#;
    let back: Jsonb<Box<str>> =
        sqlx::query_scalar("SELECT $1::jsonb").bind(Jsonb(text)).fetch_one(&mut conn).await.unwrap();
    assert_eq!(&*back.0, text);
}
