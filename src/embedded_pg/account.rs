//! The operating-system user that PostgreSQL runs as, the directories that this user needs, and its programs.
//!
//! PostgreSQL refuses to run as root. When Steelyard runs as root, which is the rule in a container, the server and all
//! its files belong to `postgres`, or to `nobody` where there is no such user. Otherwise they are our own.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::error::{At, Error};

/// The users that may run the server when we are root, best first.
const SERVER_USERS: [&str; 2] = ["postgres", "nobody"];

/// The most that is kept of a failed program's output in an error: enough for PostgreSQL's message, detail and hint.
const OUTPUT_BYTES_MAX: usize = 4096;

/// Where the data goes unless the operator says otherwise.
///
/// `/var/lib/steelyard` for root, else `$XDG_DATA_HOME/steelyard`, else `~/.local/share/steelyard`.
pub fn default_data_dir() -> Result<PathBuf, Error> {
    if running_as_root() {
        return Ok(PathBuf::from("/var/lib/steelyard"));
    }
    // The XDG specification has relative paths ignored.
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("steelyard"))
        .ok_or(Error::NoHome)
}

/// The user that runs the server and owns its files.
#[derive(Debug, Clone)]
pub(super) struct ServerAccount {
    name: String,
    uid: u32,
    gid: u32,
    /// We are root and become this user for every program.
    switch: bool,
}

impl ServerAccount {
    /// Chooses the user. A cluster that exists keeps its owner, whoever opens it as root.
    pub(super) fn choose(cluster: &Path) -> Result<Self, Error> {
        let owner = match fs::metadata(cluster) {
            Ok(metadata) => Some((metadata.uid(), metadata.gid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).at("look at", cluster),
        };
        if !running_as_root() {
            let uid = rustix::process::geteuid().as_raw();
            let gid = rustix::process::getegid().as_raw();
            if let Some((owner, _)) = owner
                && owner != uid
            {
                return Err(Error::Owner { path: cluster.to_owned(), owner, ours: uid });
            }
            let name = std::env::var("USER").unwrap_or_else(|_| uid.to_string());
            return Ok(Self { name, uid, gid, switch: false });
        }
        let passwd = Path::new("/etc/passwd");
        let users = fs::read_to_string(passwd).at("read", passwd)?;
        if let Some((uid, gid)) = owner
            && uid != 0
        {
            let name = name_of(&users, uid).unwrap_or_else(|| uid.to_string());
            return Ok(Self { name, uid, gid, switch: true });
        }
        SERVER_USERS
            .iter()
            .find_map(|name| {
                let (uid, gid) = ids_of(&users, name)?;
                Some(Self { name: (*name).to_owned(), uid, gid, switch: true })
            })
            .ok_or(Error::NoServerAccount)
    }

    /// The user's name, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the data directory, after making sure that the server's user will be able to enter it, and resolves it.
    pub(super) fn prepare_data_dir(&self, data_dir: &Path) -> Result<PathBuf, Error> {
        let wanted = std::path::absolute(data_dir).at("resolve", data_dir)?;
        let existing = wanted.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        // The checks come before the first directory is made, so that a refusal leaves nothing behind.
        self.check_reach(&wanted, &existing.canonicalize().at("resolve", existing)?)?;
        let missing: Vec<&Path> = wanted.ancestors().take_while(|dir| *dir != existing).collect();
        for dir in missing.into_iter().rev() {
            // As root the server's user must pass through, whatever our umask; otherwise nobody else need come in.
            let mode = if self.switch { 0o755 } else { 0o700 };
            DirBuilder::new().mode(mode).create(dir).at("create", dir)?;
            fs::set_permissions(dir, Permissions::from_mode(mode)).at("set the mode of", dir)?;
        }
        let resolved = wanted.canonicalize().at("resolve", &wanted)?;
        self.check_reach(&wanted, &resolved)?;
        Ok(resolved)
    }

    /// Refuses a place that the server's user cannot get to. `resolved` has no symbolic links left in it.
    fn check_reach(&self, wanted: &Path, resolved: &Path) -> Result<(), Error> {
        if !self.switch {
            return Ok(());
        }
        if resolved.starts_with("/root") || wanted.starts_with("/root") {
            return Err(Error::UnderRoot { dir: wanted.to_owned(), user: self.name.clone() });
        }
        for dir in resolved.ancestors() {
            if !self.may_enter(&fs::metadata(dir).at("look at", dir)?) {
                return Err(Error::NotTraversable {
                    dir: wanted.to_owned(),
                    blocked_at: dir.to_owned(),
                    user: self.name.clone(),
                });
            }
        }
        Ok(())
    }

    fn may_enter(&self, dir: &Metadata) -> bool {
        // The programs run without supplementary groups, so these three bits are the whole truth.
        let execute = if dir.uid() == self.uid {
            0o100
        } else if dir.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        dir.mode() & execute != 0
    }

    /// Makes a directory that only the server's user (and root) can enter, or makes sure that one is there.
    ///
    /// It may be in a directory where everybody can write, so what is found there is not trusted by its name.
    pub(super) fn private_dir(&self, dir: &Path) -> Result<(), Error> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).at("create", dir);
            }
            _ => {}
        }
        let found = fs::symlink_metadata(dir).at("look at", dir)?;
        if !found.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory)).at("use", dir);
        }
        // As root, one of root's is one of ours: made a moment ago, or before a crash.
        if found.uid() != self.uid && !(self.switch && found.uid() == 0) {
            return Err(Error::Owner { path: dir.to_owned(), owner: found.uid(), ours: self.uid });
        }
        fs::set_permissions(dir, Permissions::from_mode(0o700)).at("set the mode of", dir)?;
        self.own(dir)
    }

    /// Gives a file or directory of ours to the server's user.
    pub(super) fn own(&self, path: &Path) -> Result<(), Error> {
        if self.switch {
            chown(path, Some(self.uid), Some(self.gid)).at("change the owner of", path)?;
        }
        Ok(())
    }

    /// Runs a program of PostgreSQL as the server's user and returns what it printed.
    ///
    /// It runs in a process group of its own, so that Ctrl-C in our terminal does not interrupt it halfway.
    pub(super) async fn run<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Result<String, Error> {
        let mut command = Command::new(program);
        command
            .args(args)
            // A directory that every user can enter.
            .current_dir("/")
            // The output is read by us, and by operators in the log: always in English.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        // PGDATA, PGPORT, PGOPTIONS and the like are meant for another server.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        if self.switch {
            // With a uid to become, the standard library drops root's supplementary groups too.
            command.uid(self.uid).gid(self.gid).env("HOME", "/");
        }
        let output = timeout(limit, command.output())
            .await
            .map_err(|_| Error::ProgramTimeout { program: program.to_owned(), limit })?
            .at("run", program)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(printed.into_owned());
        }
        let both = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
        Err(Error::Program {
            program: program.to_owned(),
            status: output.status.to_string(),
            output: last_bytes(both.trim(), OUTPUT_BYTES_MAX).to_owned(),
        })
    }
}

/// The last `bytes_max` bytes of a text, cut at a character.
pub(super) fn last_bytes(text: &str, bytes_max: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes_max);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

fn running_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Finds the uid and gid of a user in the text of `/etc/passwd` (`name:password:uid:gid:…`).
fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (found, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        (found == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
    })
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, found) = (fields.next()?, fields.nth(1)?);
        (found.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        broken line\n\
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
        postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn users_are_read_from_passwd() {
        assert_eq!(ids_of(PASSWD, "postgres"), Some((101, 104)));
        assert_eq!(ids_of(PASSWD, "nobody"), Some((65534, 65534)));
        assert_eq!(ids_of(PASSWD, "steelyard"), None);
        assert_eq!(name_of(PASSWD, 101).as_deref(), Some("postgres"));
        assert_eq!(name_of(PASSWD, 7), None);
    }

    #[test]
    fn the_end_of_a_text_is_cut_at_a_character() {
        assert_eq!(last_bytes("short", 100), "short");
        assert_eq!(last_bytes("naïve", 3), "ve");
    }

    #[test]
    fn root_may_not_keep_the_data_where_the_server_cannot_go() {
        let account = ServerAccount { name: "postgres".into(), uid: 101, gid: 104, switch: true };
        let under_root = Path::new("/root/ledger/data");
        let error = account.check_reach(under_root, Path::new("/")).unwrap_err();
        assert!(matches!(error, Error::UnderRoot { .. }), "{error}");

        let closed = tempfile::tempdir().unwrap();
        fs::set_permissions(closed.path(), Permissions::from_mode(0o700)).unwrap();
        let wanted = closed.path().join("data");
        let error = account.prepare_data_dir(&wanted).unwrap_err();
        assert!(matches!(&error, Error::NotTraversable { blocked_at, .. } if blocked_at == closed.path()), "{error}");
        assert!(!wanted.exists(), "a refusal leaves nothing behind");
    }

    #[test]
    fn a_private_directory_is_not_taken_from_a_stranger() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        let account = ServerAccount {
            name: "us".into(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            switch: false,
        };
        assert!(account.private_dir(&link).is_err());
        let stranger = ServerAccount { uid: account.uid + 1, ..account.clone() };
        let ours = dir.path().join("ours");
        account.private_dir(&ours).unwrap();
        assert!(matches!(stranger.private_dir(&ours), Err(Error::Owner { .. })));
    }
}
