//! Who may use what `steelyard serve` serves.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::BoolishValueParser;
use tokio::net::TcpListener;

use crate::http::access::{Access, Policy};
use crate::store::Database;

#[derive(Clone, Debug, Args)]
pub struct AccessArgs {
    /// Ask for API keys before the first one is made, too.
    ///
    /// Without it they are asked for once there are any; beyond this machine, always.
    #[arg(long, env = "STEELYARD_REQUIRE_KEYS", value_parser = BoolishValueParser::new())]
    require_keys: bool,

    /// Ask nobody for an API key, even beyond this machine: whoever reaches the port may do everything.
    #[arg(long, env = "STEELYARD_INSECURE", value_parser = BoolishValueParser::new())]
    insecure: bool,

    /// Address and port for /livez, /readyz and /metrics, which ask for no key; /metrics is nowhere else then.
    #[arg(long, env = "STEELYARD_OPERATIONS_LISTEN", value_name = "ADDRESS")]
    operations_listen: Option<SocketAddr>,
}

impl AccessArgs {
    /// Decides whether keys are asked for, and begins to know them.
    ///
    /// # Errors
    /// The API would be open to other machines, or to nobody.
    pub async fn start(&self, address: SocketAddr, database: &Database) -> anyhow::Result<Access> {
        if self.insecure && self.require_keys {
            bail!(
                "--insecure and --require-keys (or STEELYARD_INSECURE and STEELYARD_REQUIRE_KEYS) contradict each other"
            );
        }
        let beyond = !address.ip().to_canonical().is_loopback();
        let policy = match (self.insecure, beyond || self.require_keys) {
            (true, _) => Policy::Never,
            (false, true) => Policy::Always,
            (false, false) => Policy::OnceThereAreKeys,
        };
        let access = Access::start(database, policy).await.context("the API keys could not be read")?;
        if self.insecure {
            tracing::warn!(%address, "insecure: nobody is asked for an API key, and whoever reaches the address can pay");
        } else if !access.has_usable_key() && beyond {
            access.stop().await;
            bail!(
                "{address} can be reached from other machines, and there is no usable API key\n  \
                 hint: `steelyard keys create --name NAME --role admin`, with the same database, makes one; \
                 or listen on 127.0.0.1; or say --insecure (STEELYARD_INSECURE=true) if whoever reaches the address may pay"
            );
        } else if !access.has_usable_key() && self.require_keys {
            tracing::warn!("there is no usable API key, so nobody is let in; `steelyard keys create` makes one");
        }
        Ok(access)
    }

    /// The listener for operations, if one is wanted.
    pub async fn operations(&self) -> anyhow::Result<Option<TcpListener>> {
        let Some(address) = self.operations_listen else { return Ok(None) };
        let listener = TcpListener::bind(address).await;
        let listener = listener
            .with_context(|| format!("{address} cannot be listened on; choose another with --operations-listen"))?;
        tracing::info!(address = %listener.local_addr()?, "health and metrics have an address of their own");
        Ok(Some(listener))
    }
}
