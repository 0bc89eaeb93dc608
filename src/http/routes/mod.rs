//! One file per noun.

pub mod account_changes;
pub mod accounts;
pub mod balances;
mod batch;
pub mod events;
pub mod ledgers;
pub mod operations;
pub mod payments;
pub mod periods;
pub mod rules;
pub mod statements;
pub mod submission;
pub mod transactions;

use std::sync::Arc;

use super::problem::{Code, Problem};
use super::{App, wire};
use crate::cluster::Ledger;
use crate::ledger::{AccountCode, LedgerName};
use crate::store;

/// The ledger of a path; one that another worker has just made counts too.
pub async fn ledger(app: &App, name: &str) -> Result<Arc<Ledger>, Problem> {
    if let Some(ledger) = app.worker.ledgers.get(name) {
        return Ok(ledger);
    }
    let unknown = || Problem::new(Code::LedgerNotFound, "there is no such ledger");
    LedgerName::new(name).map_err(|error| Problem::invalid("/path/ledger", error.to_string()))?;
    let rows = store::ledgers::list(app.worker.database.pool()).await?;
    let row = rows.iter().find(|row| row.name.as_str() == name).ok_or_else(unknown)?;
    Ok(app.worker.ledgers.ensure(row))
}

/// The account code of a path.
fn account_code(text: &str) -> Result<AccountCode, Problem> {
    account_code_in(text, "/path/code")
}

/// The account code of another part of the request.
pub fn account_code_in(text: &str, pointer: &str) -> Result<AccountCode, Problem> {
    wire::account_code(text).map_err(|detail| Problem::invalid(pointer, detail))
}
