//! Every setting of the service, with its default, its bound and its environment name.
//!
//! | setting | environment | default |
//! | --- | --- | --- |
//! | `--listen` | `STEELYARD_LISTEN` | `127.0.0.1:8080` |
//! | `--require-keys` | `STEELYARD_REQUIRE_KEYS` | once there are keys; beyond loopback, always |
//! | `--insecure` | `STEELYARD_INSECURE` | no |
//! | `--operations-listen` | `STEELYARD_OPERATIONS_LISTEN` | with the API |
//! | `--database-url` | `DATABASE_URL` | the built-in PostgreSQL |
//! | `--data-dir` | `STEELYARD_DATA_DIR` | `/var/lib/steelyard` for root, else `~/.local/share/steelyard` |
//! | `--accounts-in-memory` | `STEELYARD_ACCOUNTS_IN_MEMORY` | 1,000,000 |
//! | `--internal-listen` | `STEELYARD_INTERNAL_LISTEN` | `127.0.0.1:0`, any free port |
//! | `--advertise-url` | `STEELYARD_ADVERTISE_URL` | `http://` and the internal address |
//! | `--cluster-secret` | `STEELYARD_CLUSTER_SECRET` | one that is kept in the database |
//! | `--capacity` | `STEELYARD_CAPACITY` | 1 |
//! | `--roles` | `STEELYARD_ROLES` | `api,sequencer,projector` |
//! | `--drain-grace` | `STEELYARD_DRAIN_GRACE` | 0 s |
//! | `--claims-database-url` | `STEELYARD_CLAIMS_DATABASE_URL` | none: no pooler |
//! | `--log-format` | `STEELYARD_LOG_FORMAT` | `text` |
//! | | `STEELYARD_PG_BIN_DIR` | found by itself |
//! | | `RUST_LOG` | `info` |

/// Where the API listens.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8080";

/// Accounts that one ledger's sequencer keeps in memory: some 350 bytes each.
pub const ACCOUNTS_IN_MEMORY_DEFAULT: usize = 1_000_000;

/// Fewer could not hold the accounts of one batch of 10,000 payments.
pub const ACCOUNTS_IN_MEMORY_MIN: usize = 50_000;
/// More than slots have numbers for; and 35 GB.
pub const ACCOUNTS_IN_MEMORY_MAX: usize = 100_000_000;

/// Where other workers reach this one: on this machine only, on any free port.
pub const INTERNAL_LISTEN_DEFAULT: &str = "127.0.0.1:0";
/// Weights beyond this say nothing that smaller ones do not.
pub const CAPACITY_MAX: i64 = 1_000;
/// Load balancers look more often than this.
pub const DRAIN_GRACE_MAX_S: u64 = 300;
