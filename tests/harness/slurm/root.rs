//! The Debian folder: a directory for each cluster, and the users.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result, at};
use crate::layout;
use crate::run::Run;

const FIRST_UID: u32 = 3000;

/// A cluster's directory in the root. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Home {
    root: PathBuf,
    inside: String,
}

impl Home {
    /// A directory named as the run's, after those of runs that are gone were removed.
    pub(super) fn create(run: &Run) -> Result<Self> {
        let root = layout::slurm_root()?;
        let srv = root.join("srv");
        fs::create_dir_all(&srv).map_err(at(&srv))?;
        for entry in fs::read_dir(&srv).map_err(at(&srv))?.flatten() {
            if !Run::is_known(&entry.file_name()) {
                // Another process may be doing the same.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let name = run.directory().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let home = Self { root, inside: format!("/srv/{name}") };
        for directory in ["", "sql", "state", "slurmd", "gpu"] {
            let path = home.path().join(directory);
            fs::create_dir_all(&path).map_err(at(&path))?;
            home.give_to_slurm(&path)?;
        }
        Ok(home)
    }

    /// The root, as seen from outside.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory, as seen in the root.
    pub(super) fn inside(&self) -> &str {
        &self.inside
    }

    /// The directory, as seen from outside.
    pub(super) fn path(&self) -> PathBuf {
        self.root.join(self.inside.trim_start_matches('/'))
    }

    /// Writes a file of Slurm's; others read it only with `public`.
    pub(super) fn write(&self, name: &str, content: &[u8], public: bool) -> Result<()> {
        let path = self.path().join(name);
        fs::write(&path, content).map_err(at(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(if public { 0o644 } else { 0o600 })).map_err(at(&path))?;
        self.give_to_slurm(&path)
    }

    /// Adds a user to the root, unless it is there.
    pub(super) fn add_user(&self, name: &str) -> Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if self.user(name)?.is_some() {
            return Ok(());
        }
        let passwd = self.root.join("etc/passwd");
        let text = fs::read_to_string(&passwd).map_err(at(&passwd))?;
        let taken = |uid: &u32| text.lines().any(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
        let uid = (FIRST_UID..60_000).find(|uid| !taken(uid)).unwrap_or(FIRST_UID);
        let append = |file: &str, line: String| {
            let path = self.root.join(file);
            let mut file = fs::OpenOptions::new().append(true).open(&path).map_err(at(&path))?;
            file.write_all(line.as_bytes()).map_err(at(&path))
        };
        append("etc/group", format!("{name}:x:{uid}:\n"))?;
        append("etc/passwd", format!("{name}:x:{uid}:{uid}::/tmp:/bin/sh\n"))
    }

    fn user(&self, name: &str) -> Result<Option<u32>> {
        let passwd = self.root.join("etc/passwd");
        let text = fs::read_to_string(&passwd).map_err(at(&passwd))?;
        let mut lines = text.lines().map(|line| line.split(':'));
        let uid = lines.find_map(|mut fields| if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None });
        Ok(uid)
    }

    fn give_to_slurm(&self, path: &Path) -> Result<()> {
        let uid = self
            .user("slurm")?
            .ok_or_else(|| Error::MissingBinary { path: self.root.clone(), hint: "it has no user slurm; run tests/slurm/build" })?;
        chown(path, Some(uid), Some(uid)).map_err(at(path))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::env::var_os("AIFACTORY_KEEP").is_none() {
            let _ = fs::remove_dir_all(self.path());
        }
    }
}
