//! `steelyard serve`

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::access::AccessArgs;
use super::database::DatabaseArgs;
use crate::clock::SystemClock;
use crate::cluster::{Worker, peer, worker};
use crate::config::{
    ACCOUNTS_IN_MEMORY_DEFAULT, ACCOUNTS_IN_MEMORY_MAX, ACCOUNTS_IN_MEMORY_MIN, CAPACITY_MAX, DRAIN_GRACE_MAX_S,
    INTERNAL_LISTEN_DEFAULT, LISTEN_DEFAULT,
};
use crate::embedded_pg::EmbeddedPg;
use crate::http::starting::Starting;
use crate::http::{App, router, server};
use crate::telemetry::{logs, metric};

/// How often the built-in PostgreSQL is looked after.
const PATROL: Duration = Duration::from_secs(1);
/// Looks of the patrol between two at the installation's files.
const UPGRADE_PATROLS: u32 = 30;

#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Address and port of the HTTP API.
    #[arg(long, env = "STEELYARD_LISTEN", default_value = LISTEN_DEFAULT, value_name = "ADDRESS")]
    listen: SocketAddr,

    #[command(flatten)]
    access: AccessArgs,

    /// Accounts that one ledger keeps in memory; others are read when they are needed.
    #[arg(
        long,
        env = "STEELYARD_ACCOUNTS_IN_MEMORY",
        default_value_t = ACCOUNTS_IN_MEMORY_DEFAULT,
        value_parser = accounts_in_memory,
        value_name = "N"
    )]
    accounts_in_memory: usize,

    /// Address and port on which other workers reach this one, by HTTP/2. It must be reachable for them, and for
    /// nobody else.
    #[arg(long, env = "STEELYARD_INTERNAL_LISTEN", default_value = INTERNAL_LISTEN_DEFAULT, value_name = "ADDRESS")]
    internal_listen: SocketAddr,

    /// URL of the internal address as other workers see it [default: http:// and the internal address].
    #[arg(long, env = "STEELYARD_ADVERTISE_URL", value_name = "URL")]
    advertise_url: Option<String>,

    /// Secret that workers share [default: one that is kept in their database].
    #[arg(long, env = "STEELYARD_CLUSTER_SECRET", hide_env_values = true, value_name = "SECRET")]
    cluster_secret: Option<String>,

    /// How much of the work this worker takes, against the others' numbers.
    #[arg(
        long,
        env = "STEELYARD_CAPACITY",
        default_value_t = 1,
        value_parser = clap::value_parser!(i32).range(1..=CAPACITY_MAX),
        value_name = "N"
    )]
    capacity: i32,

    /// What this worker does. All answer the API.
    #[arg(
        long,
        env = "STEELYARD_ROLES",
        value_enum,
        value_delimiter = ',',
        default_values = ["api", "sequencer", "projector"],
        value_name = "ROLES"
    )]
    roles: Vec<Role>,

    /// Seconds for which a worker that is told to stop still takes new connections, while `/readyz` says 503.
    #[arg(
        long,
        env = "STEELYARD_DRAIN_GRACE",
        default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=DRAIN_GRACE_MAX_S),
        value_name = "SECONDS"
    )]
    drain_grace: u64,

    /// How log lines look.
    #[arg(long, env = "STEELYARD_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: logs::Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Api,
    Sequencer,
    Projector,
}

fn accounts_in_memory(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(ACCOUNTS_IN_MEMORY_MIN..=ACCOUNTS_IN_MEMORY_MAX).contains(&number) {
        return Err(format!("choose {ACCOUNTS_IN_MEMORY_MIN} to {ACCOUNTS_IN_MEMORY_MAX}"));
    }
    Ok(number)
}

pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    logs::init(args.log_format);
    // Before anything else, so that a signal during the start is not lost.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("{} cannot be listened on; choose another with --listen", args.listen))?;
    let address = listener.local_addr()?;
    let starting = Starting::serve(&listener)?;
    let internal_listener = TcpListener::bind(args.internal_listen).await.with_context(|| {
        format!("{} cannot be listened on; choose another with --internal-listen", args.internal_listen)
    })?;
    let internal_address = internal_listener.local_addr()?;
    if args.advertise_url.is_none() && internal_address.ip().is_unspecified() {
        anyhow::bail!("other workers cannot reach {internal_address}; say with --advertise-url where they do");
    }
    let internal_url = args.advertise_url.unwrap_or_else(|| format!("http://{internal_address}"));
    let operations = args.access.operations().await?;
    let metrics = metric::install().map_err(|error| tracing::warn!(%error, "metrics are not collected")).ok();
    let opened = args.database.open().await?;
    let database = opened.migrated().await?;
    let access = match args.access.start(address, &database).await {
        Ok(access) => access,
        Err(refusal) => {
            database.pool().close().await;
            opened.close().await?;
            return Err(refusal);
        }
    };
    let takes = |role| args.roles.contains(&role);
    let worker = Worker::start(worker::Options {
        address: format!("http://{address}"),
        internal_url: Some(internal_url),
        secret: args.cluster_secret,
        capacity: args.capacity,
        roles: worker::Roles { sequencer: takes(Role::Sequencer), projector: takes(Role::Projector) },
        accounts_max: args.accounts_in_memory,
        database,
        clock: Arc::new(SystemClock),
    })
    .await
    .context("the service could not start on the database")?;
    starting.end().await;
    let app = Arc::new(App { worker, metrics, access, operations_apart: operations.is_some() });
    tracing::info!(%address, internal = %internal_address, "listening");

    let stop = CancellationToken::new();
    let stop_internal = CancellationToken::new();
    let internal = peer::router(app.worker.internal());
    let served_internal = tokio::spawn(server::serve(internal_listener, internal, stop_internal.clone()));
    // Health and metrics are to be had until the end.
    let stop_operations = CancellationToken::new();
    let operations = operations.map(|listener| {
        tokio::spawn(server::serve(listener, router::operations(Arc::clone(&app)), stop_operations.clone()))
    });
    let served = tokio::spawn(server::serve(listener, router::router(Arc::clone(&app)), stop.clone()));
    let signalled = async {
        let name = tokio::select! {
            _ = terminated.recv() => "SIGTERM",
            _ = interrupted.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "draining: finishing what was accepted");
        app.worker.drain();
        // New requests are taken meanwhile, and forwarded to those who take over.
        tokio::join!(app.worker.handed_over(), tokio::time::sleep(Duration::from_secs(args.drain_grace)));
        stop.cancel();
    };
    match &opened.embedded {
        Some(embedded) => _ = tokio::join!(signalled, patrol(embedded, stop.clone())),
        None => signalled.await,
    }
    served.await.context("the server loop failed")?;
    app.worker.stop().await;
    stop_internal.cancel();
    served_internal.await.context("the internal server loop failed")?;
    app.access.stop().await;
    stop_operations.cancel();
    if let Some(operations) = operations {
        operations.await.context("the server loop for operations failed")?;
    }
    app.worker.database.pool().close().await;
    opened.close().await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Keeps the built-in PostgreSQL up: starts it again when it has died, and
/// restarts it when its files were upgraded underneath it, before it tries to
/// load a library that no longer fits.
async fn patrol(embedded: &EmbeddedPg, stop: CancellationToken) {
    let mut patrols = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PATROL) => {}
        }
        patrols += 1;
        if !embedded.is_running() {
            tracing::warn!("the built-in PostgreSQL is not running; starting it");
            let started = tokio::select! {
                () = stop.cancelled() => return,
                started = embedded.start() => started,
            };
            if let Err(error) = started {
                tracing::error!(%error, "the built-in PostgreSQL could not be started");
            }
        } else if patrols % UPGRADE_PATROLS == 0 && embedded.upgraded_underneath().unwrap_or(false) {
            tracing::warn!("PostgreSQL was upgraded underneath the built-in server; restarting it");
            if let Err(error) = embedded.restart().await {
                tracing::error!(%error, "the built-in PostgreSQL could not be restarted");
            }
        }
    }
}
