//! The settings of the built-in PostgreSQL, each with its reason, which is also written beside it in the file.
//!
//! Two kinds. What makes the server ours and the money safe goes on the command line, where no file and no
//! `ALTER SYSTEM` reaches it. What only makes it fast goes into `steelyard.conf`, which `postgresql.conf` includes, so
//! that an operator overrules it with `ALTER SYSTEM`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The name of the included file in the cluster's directory.
pub(super) const FILE_NAME: &str = "steelyard.conf";

/// The port, which on a Unix socket is only a part of the file's name. Fixed, so that `PGPORT` has no say in it.
pub(super) const PORT: u16 = 5432;

const MIB: u64 = 1024 * 1024;

/// The least for `shared_buffers`: PostgreSQL's own default.
const SHARED_BUFFERS_MIN_BYTES: u64 = 128 * MIB;

/// The most for `shared_buffers`. A ledger's hot set is the end of its log and its balances; beyond 2 GiB the
/// operating system's cache does as well, and every checkpoint walks through less.
const SHARED_BUFFERS_MAX_BYTES: u64 = 2048 * MIB;

/// What goes on the server's command line, as `name=value`.
pub(super) fn fixed(socket_dir: &str) -> Vec<String> {
    // A directory in this list is quoted like an SQL identifier, because a comma would end it.
    let socket_dir = socket_dir.replace('"', "\"\"");
    vec![
        // No TCP port: who may enter the socket's directory may log in, and nobody else gets that far.
        "listen_addresses=".into(),
        format!("port={PORT}"),
        format!("unix_socket_directories=\"{socket_dir}\""),
        // The second belt, should somebody open the directory.
        "unix_socket_permissions=0700".into(),
        // An acknowledged payment is durable. These are PostgreSQL's defaults, and nobody turns them off in a file.
        "fsync=on".into(),
        "full_page_writes=on".into(),
        "synchronous_commit=on".into(),
    ]
}

/// The text of `steelyard.conf` for a machine with this much memory.
pub(super) fn file(memory_bytes: Option<u64>) -> String {
    let shared_buffers = format!("{}MB", shared_buffers_bytes(memory_bytes) / MIB);
    let settings: &[(&str, &str, &str)] = &[
        ("shared_buffers", &shared_buffers, "A quarter of the memory, from 128 MB to 2 GB."),
        (
            "huge_pages",
            "try",
            "Fewer page-table misses where the machine has set huge pages aside; no harm where it has not.",
        ),
        ("max_connections", "200", "Several Steelyard processes with their pools, and analysts beside them."),
        (
            "max_wal_size",
            "8GB",
            "A peak writes WAL faster than 1 GB a minute; checkpoints should come by the clock, not by volume, \
             because after each one every page is logged in full once more.",
        ),
        (
            "min_wal_size",
            "1GB",
            "WAL files are reused instead of made anew, which would slow the commits of the next peak.",
        ),
        (
            "checkpoint_timeout",
            "15min",
            "The same: fewer full-page images. Recovery after a crash stays within minutes.",
        ),
        (
            "checkpoint_completion_target",
            "0.9",
            "A checkpoint's writes are spread out, so that commits do not queue behind them.",
        ),
        (
            "wal_compression",
            "off",
            "The processor is the bottleneck, not the volume of WAL. On slow disks try lz4, \
             where this PostgreSQL was built with it (pglz costs too much).",
        ),
        ("jit", "off", "The statements are short; compiling them would take longer than running them."),
        (
            "autovacuum_vacuum_scale_factor",
            "0.05",
            "Balances are updated in place all the time: clean up early, so that updates stay within their page.",
        ),
        (
            "autovacuum_vacuum_insert_scale_factor",
            "0.05",
            "The log only grows: freeze it in small portions, not all at once when transaction ids run short.",
        ),
        (
            "autovacuum_analyze_scale_factor",
            "0.02",
            "Positions only rise: the planner must know the end of a table that has just grown.",
        ),
        ("autovacuum_naptime", "15s", "At thousands of payments a second, a minute is a long time without a look."),
        (
            "autovacuum_vacuum_cost_limit",
            "2000",
            "The default of 200 is for spinning disks; vacuum would fall behind the peak.",
        ),
        (
            "client_connection_check_interval",
            "5s",
            "A statement whose client has died ends by itself, and with it its locks.",
        ),
        ("timezone", "'UTC'", "Analysts see the same times on every machine."),
        ("log_timezone", "'UTC'", "So do the readers of the log."),
        ("log_min_messages", "warning", "PostgreSQL's default; its file is read only when something is wrong."),
        ("log_line_prefix", "'%m [%p] %q%a@%d '", "Time, process, and who it was."),
        ("logging_collector", "off", "The server's output already goes to the log file, which each start rotates."),
    ];
    let mut text = String::from(
        "# Written by Steelyard at every start of its built-in PostgreSQL; changes made here are lost.\n\
         # Overrule a setting with ALTER SYSTEM SET, or below the include in postgresql.conf.\n",
    );
    for (name, value, reason) in settings {
        // Writing to a String does not fail.
        let _ = write!(text, "\n# {reason}\n{name} = {value}\n");
    }
    text
}

fn shared_buffers_bytes(memory_bytes: Option<u64>) -> u64 {
    // Where the memory is not known, the least is never wrong.
    (memory_bytes.unwrap_or(0) / 4).clamp(SHARED_BUFFERS_MIN_BYTES, SHARED_BUFFERS_MAX_BYTES)
}

/// The memory that this process may use: the machine's, or its control group's limit where that is lower.
/// `None` on systems without `/proc`.
pub(super) fn memory_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()?;
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // Every group up to the root may have a limit; the word `max` for none does not parse.
    let limits = Path::new(group).ancestors().filter_map(|group| {
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        fs::read_to_string(file).ok()?.trim().parse().ok()
    });
    // Version 1 of control groups, which older container hosts still use.
    let version_1 = fs::read_to_string("/sys/fs/cgroup/memory/memory.limit_in_bytes")
        .ok()
        .and_then(|limit| limit.trim().parse().ok());
    limits.chain(version_1).chain([kib * 1024]).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_buffers_are_a_quarter_of_the_memory_within_bounds() {
        let check = |memory_bytes: Option<u64>, expected: &str| {
            let line = format!("\nshared_buffers = {expected}\n");
            let text = file(memory_bytes);
            assert!(text.contains(&line), "{line:?} is not in\n{text}");
        };
        check(None, "128MB");
        check(Some(256 * MIB), "128MB");
        check(Some(4096 * MIB), "1024MB");
        check(Some(1024 * 1024 * MIB), "2048MB");
    }

    #[test]
    fn durability_is_out_of_reach_of_the_files() {
        let fixed = fixed("/tmp/with \"quotes\", and a comma");
        for setting in ["fsync=on", "full_page_writes=on", "synchronous_commit=on"] {
            assert!(fixed.iter().any(|found| found == setting), "{setting}");
        }
        assert!(fixed.contains(&"unix_socket_directories=\"/tmp/with \"\"quotes\"\", and a comma\"".to_owned()));
        assert!(!file(None).contains("fsync"));
    }
}
