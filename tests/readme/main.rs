//! The README, run: its requests against a fresh server and its queries as an analyst, on the built-in PostgreSQL.
//!
//! A block that begins with ```` ```sh ```` and `curl` is a request; a ```` ```json ```` block that follows it is its
//! answer, in which ids and times may differ. A ```` ```sql ```` block is one query; a ```` ```text ```` block that
//! follows it is what `psql` prints. A block that begins with `$ steelyard` is commands and their outputs, and one of log
//! lines is what the server says as it starts (see [`transcript`]). They build on each other, in order.

mod help;
mod readme;
mod server;
mod transcript;

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use readme::Block;
use server::Server;

/// The role that the README's queries are written for.
const ANALYST: &str = "steelyard_analyst";

/// Time for a projection to reach the log: milliseconds, on a machine that has nothing else to do.
const PROJECTED_WAIT: Duration = Duration::from_secs(30);

/// Members of answers that are new in every run.
const VOLATILE: [&str; 6] = ["id", "transaction_id", "opened_at", "recorded_at", "effective_at", "created_at"];

#[tokio::test]
async fn the_readme_does_what_it_says() {
    let server = Server::start();
    let blocks = readme::blocks();
    let mut answer = None;
    let (mut requests, mut answers, mut queries, mut results, mut commands, mut logs) = (0, 0, 0, 0, 0, 0);
    let mut analyst = session(&server, Some(ANALYST)).await;
    let mut owner = session(&server, None).await;
    let mut rows = None;
    for block in &blocks {
        match block {
            Block::Curl(command) => {
                answer = Some(server.curl(command));
                requests += 1;
            }
            Block::Json(expected) => {
                let actual = answer.take().expect("a ```json block follows the request that it answers");
                assert_eq!(settled(parse(&actual)), settled(parse(expected)), "the README shows another answer");
                answers += 1;
            }
            Block::Sql(query) => {
                projected(&mut owner).await;
                let found = sqlx::raw_sql(AssertSqlSafe(query.clone())).fetch_all(&mut analyst).await;
                let found = found.unwrap_or_else(|error| panic!("{error}:\n{query}"));
                assert!(!found.is_empty(), "no rows:\n{query}");
                rows = Some(server.psql(ANALYST, query));
                queries += 1;
            }
            Block::Rows(expected) => {
                let actual = rows.take().expect("rows follow the query that finds them");
                assert!(
                    transcript::agree(expected, &actual),
                    "the README shows\n{expected}\nand these are found:\n{actual}"
                );
                results += 1;
            }
            Block::Log(expected) => {
                // Two tasks log, so the order may differ.
                let actual = server.log_until(|line| line.ends_with("status to=serving"));
                let actual: Vec<_> = actual.iter().map(|line| transcript::shape(line)).collect();
                for line in expected.lines() {
                    assert!(actual.contains(&transcript::shape(line)), "not logged: {line}\nbut {actual:#?}");
                }
                logs += 1;
            }
            Block::Transcript(block) => {
                for step in transcript::steps(block) {
                    let actual = server.run(&step.command);
                    let shown = &step.output;
                    assert!(
                        transcript::agree(shown, &actual),
                        "the README shows\n{shown}\nand this is printed by {}:\n{actual}",
                        step.command
                    );
                    commands += 1;
                }
            }
        }
    }
    let counted = format!(
        "{requests} requests, {answers} answers, {queries} queries, {results} of them with rows, \
         {commands} commands, {logs} logs"
    );
    assert!(requests >= 5 && answers >= 3 && queries >= 5 && results >= 5 && commands >= 5 && logs == 1, "{counted}");

    let (assets, unbalanced): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE net_debit <> 0)
         FROM (SELECT sum(net_debit) AS net_debit FROM reporting.trial_balance GROUP BY ledger, asset) AS totals",
    )
    .fetch_one(&mut analyst)
    .await
    .unwrap();
    assert!(assets > 0 && unbalanced == 0, "the trial balance of {unbalanced} of {assets} assets is not zero");
    analyst.close().await.unwrap();
    owner.close().await.unwrap();
    server.stop();
}

#[tokio::test]
async fn analysts_read_reporting_and_nothing_else() {
    let server = Server::start();
    let mut owner = session(&server, None).await;

    let undocumented: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s.%s', c.relname, coalesce(a.attname, '(itself)'))
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'reporting'
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(undocumented.is_empty(), "without a comment: {undocumented:?}");

    let forbidden: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s on %I.%I', privilege, n.nspname, c.relname)
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname IN ('public', 'reporting')
         CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) AS privilege
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
             AND has_table_privilege($1, c.oid, privilege)
             AND (privilege, n.nspname) <> ('SELECT', 'reporting')",
    )
    .bind(ANALYST)
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(forbidden.is_empty(), "an analyst may: {forbidden:?}");

    let views: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'reporting'
         WHERE c.relkind IN ('r', 'v', 'm')",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(views.len() >= 5, "{views:?}");
    let mut analyst = session(&server, Some(ANALYST)).await;
    for view in views {
        let query = format!("SELECT count(*) FROM reporting.{view}");
        sqlx::raw_sql(AssertSqlSafe(query))
            .execute(&mut analyst)
            .await
            .unwrap_or_else(|error| panic!("{view}: {error}"));
    }
    for statement in [
        "SELECT FROM public.events",
        "INSERT INTO public.ledgers (ledger_id, name) VALUES (9, 'mine')",
        "UPDATE public.balances SET credits_posted = 0",
        "CREATE TABLE public.mine ()",
        "CREATE TABLE reporting.mine ()",
    ] {
        assert_eq!(refusal(&mut analyst, statement).await, "42501", "{statement}");
    }
    analyst.close().await.unwrap();
    owner.close().await.unwrap();
    server.stop();
}

/// Waits until what was acknowledged is in the reports, which come a moment after it.
async fn projected(owner: &mut PgConnection) {
    let began = Instant::now();
    loop {
        let (head, cut): (Option<i64>, Option<i64>) = sqlx::query_as(
            "SELECT (SELECT max(position) FROM events), (SELECT min(position) FROM reporting.consistent_cut)",
        )
        .fetch_one(&mut *owner)
        .await
        .unwrap();
        if head == cut {
            return;
        }
        assert!(began.elapsed() < PROJECTED_WAIT, "the reports reach {cut:?} of {head:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A session on the server's database, as its owner or in a role.
async fn session(server: &Server, role: Option<&str>) -> PgConnection {
    let mut conn = PgConnection::connect(&server.database_url()).await.unwrap();
    if let Some(role) = role {
        sqlx::raw_sql(AssertSqlSafe(format!("SET ROLE {role}"))).execute(&mut conn).await.unwrap();
    }
    conn
}

/// The SQLSTATE with which a statement fails.
async fn refusal(conn: &mut PgConnection, statement: &'static str) -> String {
    let Err(error) = sqlx::raw_sql(statement).execute(conn).await else { return "no error".to_owned() };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.map_or_else(|| error.to_string(), std::borrow::Cow::into_owned)
}

fn parse(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}:\n{json}"))
}

/// The document without what is new in every run.
fn settled(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                *member = if VOLATILE.contains(&name.as_str()) { Value::Null } else { settled(member.take()) };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = settled(item.take())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}
