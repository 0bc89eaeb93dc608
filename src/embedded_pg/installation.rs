//! Where PostgreSQL's programs are on this machine, and which version they are.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::account::ServerAccount;
use super::error::{At, Error};

/// The oldest major version that Steelyard works with.
pub const OLDEST_MAJOR: u32 = 15;

/// The programs without which there is no built-in database.
const NEEDED: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// How long a program may take to say its version. It takes milliseconds; a dead network mount takes for ever.
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// A directory of PostgreSQL programs that can run the built-in database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin_dir: PathBuf,
    version: Version,
}

/// What `postgres --version` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// 17 of `17.2`. Data of one major version cannot be read by another.
    pub major: u32,
    /// The whole line, which also names the package: `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
    pub text: String,
}

impl Installation {
    /// Finds the programs: `STEELYARD_PG_BIN_DIR`, `pg_config --bindir`, the newest of the Debian, Red Hat and Homebrew
    /// directories, then `PATH`.
    ///
    /// A `STEELYARD_PG_BIN_DIR` that does not do is an error: whoever set it wants that one and no other.
    pub async fn find() -> Result<Self, Error> {
        let account = ServerAccount::choose(Path::new("/nonexistent"))?;
        Self::find_for(&account, None, &Surroundings::of_this_process(&account).await).await
    }

    /// The same, as the user that will run the server, and of the cluster's major version where there is a cluster.
    ///
    /// A new PostgreSQL that is installed beside the old one must not keep the old one's data from being opened.
    pub(super) async fn find_for(
        account: &ServerAccount,
        cluster: Option<(&Path, &str)>,
        surroundings: &Surroundings,
    ) -> Result<Self, Error> {
        let mut tried = Vec::new();
        let mut other_majors: Vec<u32> = Vec::new();
        for bin_dir in surroundings.candidates() {
            let found = match Self::at(account, &bin_dir).await {
                Ok(found) => found,
                Err(reason) if surroundings.bin_dir.is_some() => {
                    return Err(Error::BinDir { dir: bin_dir, reason });
                }
                Err(reason) => {
                    tried.push(format!("{}: {reason}", bin_dir.display()));
                    continue;
                }
            };
            match cluster {
                Some((_, major)) if major != found.version.major.to_string() => {
                    other_majors.push(found.version.major);
                }
                _ => return Ok(found),
            }
        }
        match cluster {
            Some((cluster, major)) if !other_majors.is_empty() => {
                other_majors.sort_unstable();
                other_majors.dedup();
                let installed: Vec<String> = other_majors.iter().map(u32::to_string).collect();
                Err(Error::MajorVersion {
                    cluster: cluster.to_owned(),
                    cluster_major: major.to_owned(),
                    installed: installed.join(" and "),
                })
            }
            _ => Err(Error::NoInstallation { tried }),
        }
    }

    /// Looks at one directory; the error is the reason why it does not do.
    async fn at(account: &ServerAccount, bin_dir: &Path) -> Result<Self, String> {
        if let Some(missing) = NEEDED.iter().find(|name| !bin_dir.join(name).is_file()) {
            return Err(format!("{missing} is not there"));
        }
        // Asked as the user that will run the server, who may be unable to get there although we are.
        let text = account
            .run(&bin_dir.join("postgres"), ["--version"], VERSION_WAIT)
            .await
            .map_err(|error| format!("as user `{}`, {error}", account.name()))?;
        let version = Version::parse(&text).ok_or_else(|| format!("cannot read a version in {:?}", text.trim()))?;
        if version.major < OLDEST_MAJOR {
            return Err(format!("{} is too old, {OLDEST_MAJOR} is needed", version.text));
        }
        Ok(Self { bin_dir: bin_dir.to_owned(), version })
    }

    /// The directory of the programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The path of a program, such as `psql`, or `None` where this installation lacks it.
    /// `initdb`, `pg_ctl` and `postgres` are always there.
    pub fn bin(&self, name: &str) -> Option<PathBuf> {
        Some(self.bin_dir.join(name)).filter(|path| path.is_file())
    }
}

impl Version {
    /// Reads `postgres (PostgreSQL) 17.2 (…)`; pre-releases are `18beta1`, `18devel`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let number = text.split_whitespace().nth(2)?;
        let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Self { major: digits.parse().ok()?, text: text.to_owned() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the search for the programs depends on, as a value, so that the order of the search can be tested.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// `STEELYARD_PG_BIN_DIR`
    pub(super) bin_dir: Option<PathBuf>,
    /// The answer of `pg_config --bindir`
    pub(super) pg_config: Option<PathBuf>,
    /// `/`
    pub(super) root: PathBuf,
    /// `PATH`
    pub(super) path: Option<OsString>,
}

impl Surroundings {
    pub(super) async fn of_this_process(account: &ServerAccount) -> Self {
        let asked = account.run(Path::new("pg_config"), ["--bindir"], VERSION_WAIT).await;
        Self {
            bin_dir: std::env::var_os("STEELYARD_PG_BIN_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from),
            pg_config: asked.ok().map(|dir| PathBuf::from(dir.trim())),
            root: PathBuf::from("/"),
            path: std::env::var_os("PATH"),
        }
    }

    /// The directories to look into, best first.
    /// The package managers' directories count only if they are there; `PATH` only where it leads to a server.
    fn candidates(&self) -> Vec<PathBuf> {
        if let Some(only) = &self.bin_dir {
            return vec![only.clone()];
        }
        let mut dirs: Vec<PathBuf> = self.pg_config.iter().cloned().collect();
        let families = [
            ("usr/lib/postgresql", ""),
            ("usr", "pgsql-"),
            ("opt/homebrew/opt", "postgresql"),
            ("usr/local/opt", "postgresql"),
        ];
        for (parent, prefix) in families {
            dirs.extend(newest_first(&self.root.join(parent), prefix));
        }
        let path = self.path.as_deref().unwrap_or_default();
        dirs.extend(std::env::split_paths(path).filter(|dir| dir.join("postgres").is_file()));
        let mut seen = Vec::new();
        dirs.retain(|dir| {
            let new = dir.is_dir() && !seen.contains(dir);
            seen.push(dir.clone());
            new
        });
        dirs
    }
}

/// The `bin` directories of `<parent>/<prefix>*`, the highest version number first: 17 before 9.6.
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let numbers = name
                .strip_prefix(prefix)?
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|digits| digits.parse().ok())
                .collect();
            Some((numbers, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.is_dir())
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// The program that a running server was started from, kept in a file beside the data.
///
/// A package upgrade replaces the programs and libraries under a running server. The server goes on until it loads its
/// next library, which then fails with `undefined symbol`. So each start records what was started, and whoever attaches
/// compares.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StartedFrom {
    version: String,
    binary: PathBuf,
    inode: u64,
    modified_ns: i128,
    bytes: u64,
}

impl StartedFrom {
    pub(super) fn now(installation: &Installation) -> Result<Self, Error> {
        let binary = installation.bin_dir.join("postgres");
        // Follows symbolic links: Homebrew upgrades by pointing one at another directory.
        let metadata = fs::metadata(&binary).at("look at", &binary)?;
        Ok(Self {
            version: installation.version.text.clone(),
            inode: metadata.ino(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            bytes: metadata.len(),
            binary,
        })
    }

    pub(super) fn write(&self, record: &Path) -> Result<(), Error> {
        let Self { version, binary, inode, modified_ns, bytes } = self;
        let text = format!(
            "version={version}\nbinary={}\ninode={inode}\nmodified_ns={modified_ns}\nbytes={bytes}\n",
            binary.display()
        );
        fs::write(record, text).at("write", record)
    }

    /// Reads the record; `None` when there is none, or none that can be read, and so nothing to compare with.
    pub(super) fn read(record: &Path) -> Option<Self> {
        let text = fs::read_to_string(record).ok()?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            version: field("version")?.to_owned(),
            binary: PathBuf::from(field("binary")?),
            inode: field("inode")?.parse().ok()?,
            modified_ns: field("modified_ns")?.parse().ok()?,
            bytes: field("bytes")?.parse().ok()?,
        })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Whether the program on disk is no longer the one that was started.
    ///
    /// It looks at the recorded path: that another process prefers another installation is no upgrade.
    pub(super) fn is_replaced(&self) -> bool {
        fs::metadata(&self.binary).map_or(true, |metadata| {
            let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            (metadata.ino(), modified_ns, metadata.len()) != (self.inode, self.modified_ns, self.bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_packagers_write_them() {
        let check = |text: &str, major: Option<u32>| {
            assert_eq!(Version::parse(text).map(|version| version.major), major, "{text:?}");
        };
        check("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some(15));
        check("postgres (PostgreSQL) 17.2 (Homebrew)", Some(17));
        check("postgres (PostgreSQL) 9.6.24", Some(9));
        check("postgres (PostgreSQL) 18beta1", Some(18));
        check("postgres (PostgreSQL) 19devel", Some(19));
        check("postgres (PostgreSQL)", None);
        check("postgres (PostgreSQL) unknown", None);
        check("", None);
    }

    #[test]
    fn candidates_come_in_the_documented_order() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let dir = root.path().join(path);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("postgres"), "").unwrap();
            dir
        };
        let on_path = make("home/pg/bin");
        let homebrew = make("opt/homebrew/opt/postgresql@16/bin");
        let red_hat = make("usr/pgsql-17/bin");
        let debian_9 = make("usr/lib/postgresql/9.6/bin");
        let debian_15 = make("usr/lib/postgresql/15/bin");
        let debian_17 = make("usr/lib/postgresql/17/bin");
        let asked = make("pg_config/bin");
        fs::create_dir_all(root.path().join("usr/lib/postgresql/18")).unwrap();
        let surroundings = Surroundings {
            bin_dir: None,
            pg_config: Some(asked.clone()),
            root: root.path().to_owned(),
            path: Some(std::env::join_paths([root.path(), &on_path, &debian_15]).unwrap()),
        };
        assert_eq!(surroundings.candidates(), [asked, debian_17, debian_15, debian_9, red_hat, homebrew, on_path]);
        let told = Surroundings { bin_dir: Some(PathBuf::from("/somewhere/else")), ..surroundings };
        assert_eq!(told.candidates(), [PathBuf::from("/somewhere/else")]);
    }

    #[tokio::test]
    async fn a_machine_without_postgresql_is_told_what_to_install() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/pgsql-16/bin")).unwrap();
        let surroundings = Surroundings { root: root.path().to_owned(), ..Surroundings::default() };
        let account = ServerAccount::choose(Path::new("/nonexistent")).unwrap();
        let error = Installation::find_for(&account, None, &surroundings).await.unwrap_err();
        let message = error.to_string();
        for part in [
            "apt-get install postgresql",
            "dnf install postgresql-server",
            "brew install postgresql@17",
            "DATABASE_URL",
            "STEELYARD_PG_BIN_DIR",
            "usr/pgsql-16/bin: initdb is not there",
        ] {
            assert!(message.contains(part), "{part:?} is not in:\n{message}");
        }
    }

    #[tokio::test]
    async fn a_wrong_bin_dir_is_not_passed_over() {
        let surroundings = Surroundings { bin_dir: Some(PathBuf::from("/nonexistent/bin")), ..Surroundings::default() };
        let account = ServerAccount::choose(Path::new("/nonexistent")).unwrap();
        let error = Installation::find_for(&account, None, &surroundings).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "STEELYARD_PG_BIN_DIR is /nonexistent/bin, which does not do: initdb is not there"
        );
    }

    #[test]
    fn a_replaced_program_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("postgres");
        fs::write(&binary, "old").unwrap();
        let installation = Installation {
            bin_dir: dir.path().to_owned(),
            version: Version::parse("postgres (PostgreSQL) 15.1").unwrap(),
        };
        let record = dir.path().join("server.version");
        let started = StartedFrom::now(&installation).unwrap();
        started.write(&record).unwrap();
        assert_eq!(StartedFrom::read(&record).as_ref(), Some(&started));
        assert!(!started.is_replaced());
        // The way of package managers: a new file, renamed over the old one.
        let new = dir.path().join("postgres.dpkg-new");
        fs::write(&new, "new").unwrap();
        fs::rename(&new, &binary).unwrap();
        assert!(started.is_replaced());
        fs::remove_file(&binary).unwrap();
        assert!(started.is_replaced());
    }
}
