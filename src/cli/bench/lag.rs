//! How far the projections are behind the log, as `GET /v1/cluster` tells it.

use std::time::{Duration, Instant};

use crate::cli::client::{Client, ClientError, Cluster};

/// Between two looks while waiting: fine enough for a result in hundredths of seconds.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The longest wait for the projections.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(30);

/// The lag of the shard that is furthest behind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Lag {
    pub(super) positions: u64,
    /// Where the server tells it.
    pub(super) ms: Option<f64>,
}

impl Lag {
    /// The larger of both, each measure by itself.
    pub(super) fn or_larger(self, other: Lag) -> Lag {
        let ms = match (self.ms, other.ms) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        Lag { positions: self.positions.max(other.positions), ms }
    }
}

/// The lag when the waiting began, and how long it took until there was none.
#[derive(Debug, Clone, Copy)]
pub(super) struct CatchUp {
    pub(super) at_first: Lag,
    /// `None`: not within [`CATCH_UP_TIME_MAX`].
    pub(super) caught_up_after: Option<Duration>,
}

pub(super) async fn read(client: &Client) -> Result<Lag, ClientError> {
    Ok(largest(&client.cluster().await?, client.ledger()))
}

pub(super) async fn wait_until_caught_up(client: &Client) -> Result<CatchUp, ClientError> {
    let begun = Instant::now();
    let at_first = read(client).await?;
    let mut lag = at_first;
    loop {
        let waited = begun.elapsed();
        if lag.positions == 0 {
            return Ok(CatchUp { at_first, caught_up_after: Some(waited) });
        }
        if waited > CATCH_UP_TIME_MAX {
            return Ok(CatchUp { at_first, caught_up_after: None });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        lag = read(client).await?;
    }
}

fn largest(cluster: &Cluster, ledger: &str) -> Lag {
    cluster
        .shards
        .iter()
        .flat_map(|shard| &shard.checkpoints)
        .filter(|checkpoint| checkpoint.ledger == ledger)
        .map(|checkpoint| Lag { positions: checkpoint.lag, ms: checkpoint.lag_ms })
        .fold(Lag::default(), Lag::or_larger)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_lag_is_that_of_the_shard_furthest_behind() {
        let cluster: Cluster = serde_json::from_value(json!({
            "ledgers": [{"ledger": "main", "head": 123}],
            "shards": [
                {"shard": 0, "worker_id": "w", "epoch": 1,
                 "checkpoints": [{"ledger": "main", "position": 120, "lag": 3, "lag_ms": 7.5},
                                 {"ledger": "other", "position": 1, "lag": 99}]},
                {"shard": 1, "worker_id": null, "epoch": 1,
                 "checkpoints": [{"ledger": "main", "position": 122, "lag": 1, "lag_ms": null}]},
            ],
            "workers": [],
        }))
        .unwrap();
        assert_eq!(largest(&cluster, "main"), Lag { positions: 3, ms: Some(7.5) });
        assert_eq!(largest(&cluster, "empty"), Lag::default());
    }
}
