//! Which database a command works on: one that is named, or the built-in one.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::embedded_pg::{EmbeddedPg, default_data_dir};
use crate::store::Database;

#[derive(Clone, Debug, Args)]
pub struct DatabaseArgs {
    /// PostgreSQL to use, as postgres://user:password@host/database; without it the built-in one is.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,

    /// The same database without a pooler before it, for the locks and all that owners do; says that --database-url
    /// leads to a pooler in transaction mode, such as PgBouncer.
    #[arg(
        long,
        env = "STEELYARD_CLAIMS_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        requires = "database_url"
    )]
    pub claims_database_url: Option<String>,

    /// Where the built-in PostgreSQL keeps its data
    /// [default: /var/lib/steelyard for root, else ~/.local/share/steelyard].
    #[arg(long, env = "STEELYARD_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// A database that is running, started by us if need be.
pub struct Opened {
    /// Straight to it.
    pub url: String,
    /// By way of a pooler, where there is one.
    pooler_url: Option<String>,
    pub embedded: Option<EmbeddedPg>,
}

/// What becomes of a data directory that holds no database.
#[derive(Clone, Copy, Debug)]
enum Missing {
    Make,
    Refuse,
}

impl DatabaseArgs {
    /// Finds the database, and starts the built-in one if that is meant and it
    /// does not run yet; makes it the first time.
    pub async fn open(&self) -> anyhow::Result<Opened> {
        self.open_with(Missing::Make).await
    }

    /// The same, for commands that need what is in it: a data directory that holds none is refused.
    pub async fn open_existing(&self) -> anyhow::Result<Opened> {
        self.open_with(Missing::Refuse).await
    }

    async fn open_with(&self, missing: Missing) -> anyhow::Result<Opened> {
        if let Some(url) = self.database_url.clone() {
            return Ok(match self.claims_database_url.clone() {
                Some(direct) if direct != url => Opened { url: direct, pooler_url: Some(url), embedded: None },
                _ => Opened { url, pooler_url: None, embedded: None },
            });
        }
        let data_dir = match &self.data_dir {
            Some(data_dir) => data_dir.clone(),
            None => default_data_dir()?,
        };
        let embedded = match missing {
            Missing::Make => EmbeddedPg::open(&data_dir).await,
            Missing::Refuse => EmbeddedPg::open_existing(&data_dir).await,
        };
        let embedded = embedded.context("the built-in PostgreSQL could not be used")?;
        Ok(Opened { url: embedded.url(), pooler_url: None, embedded: Some(embedded) })
    }
}

impl Opened {
    /// Connections to it, with the schema brought up to this release.
    pub async fn migrated(&self) -> anyhow::Result<Database> {
        let database = Database::new(&self.url).context("the database URL is not valid")?;
        if !database.is_direct().await.context("the database cannot be reached")? {
            anyhow::bail!(
                "a pooler lies before the database; say with --claims-database-url \
                 (STEELYARD_CLAIMS_DATABASE_URL) how it is reached without"
            );
        }
        database.migrate().await.context("the database's schema could not be brought up to date")?;
        match &self.pooler_url {
            Some(url) => database.through_pooler(url).context("the pooler's URL is not valid"),
            None => Ok(database),
        }
    }

    /// Stops the built-in PostgreSQL, unless another process uses it.
    pub async fn close(self) -> anyhow::Result<()> {
        if let Some(embedded) = self.embedded {
            embedded.close().await?;
        }
        Ok(())
    }
}
