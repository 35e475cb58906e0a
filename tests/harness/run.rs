//! The directory of one federation, the locks that keep federations apart, and what dead ones left.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Error, Result, at};
use crate::layout;
use crate::watchdog::Watchdog;

/// How many federations run at once on one machine; more wait. Two suites side by side keep one each for all of their tests, and a test that needs one of
/// its own waits for another.
const SLOTS: usize = 4;
const SLOT_PAUSE: Duration = Duration::from_millis(100);
/// Directories of failed tests that are kept for reading.
const KEPT: usize = 4;

/// A directory that belongs to a living federation. The lock on its file `lock` falls when the process ends, however it
/// ends, and tells the next one that the rest may go.
#[derive(Debug)]
pub(crate) struct Run {
    // Order matters: the watchdog ends first, the locks fall last.
    watchdog: Option<Watchdog>,
    directory: PathBuf,
    keep: bool,
    failed: AtomicBool,
    _lock: File,
    _slot: Option<File>,
}

impl Run {
    /// A fresh directory under `target/federation`, once one of the slots is free.
    pub(crate) async fn create(name: &str) -> Result<Self> {
        let base = layout::federations();
        let runs = base.join("runs");
        fs::create_dir_all(&runs).map_err(at(&runs))?;
        let slot = take_slot(&base).await?;
        let guard = lock_blocking(&base.join("guard")).await?;
        remove_dead(&runs)?;
        let random = RandomState::new().hash_one(name) % 0x1_0000_0000;
        let directory = runs.join(format!("{name}-{}-{random:08x}", std::process::id()));
        let run = Self::in_directory(directory, Some(slot));
        drop(guard);
        run
    }

    /// A fresh directory as above, for what stands beside a federation and therefore waits for no slot.
    pub(crate) async fn beside(name: &str) -> Result<Self> {
        let base = layout::federations();
        let runs = base.join("runs");
        fs::create_dir_all(&runs).map_err(at(&runs))?;
        let guard = lock_blocking(&base.join("guard")).await?;
        remove_dead(&runs)?;
        let random = RandomState::new().hash_one(name) % 0x1_0000_0000;
        let run = Self::in_directory(runs.join(format!("{name}-{}-{random:08x}", std::process::id())), None);
        drop(guard);
        run
    }

    /// Whether the directory of this name exists, of a living run or of a dead one that was not cleared yet.
    pub(crate) fn is_known(name: &std::ffi::OsStr) -> bool {
        layout::federations().join("runs").join(name).exists()
    }

    /// A directory that the caller chose, cleared of what a dead federation left in it.
    pub(crate) fn at(directory: &Path) -> Result<Self> {
        if directory.join("lock").exists() && !clear_if_dead(directory)? {
            return Err(Error::InUse(directory.to_owned()));
        }
        let mut run = Self::in_directory(directory.to_owned(), None)?;
        run.keep = true;
        Ok(run)
    }

    fn in_directory(directory: PathBuf, slot: Option<File>) -> Result<Self> {
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        let path = directory.join("lock");
        let lock = open(&path)?;
        lock.try_lock().map_err(|_| Error::InUse(directory.clone()))?;
        Ok(Self {
            watchdog: Some(Watchdog::start(&directory)?),
            directory,
            keep: std::env::var_os("AIFACTORY_KEEP").is_some(),
            failed: AtomicBool::new(false),
            _lock: lock,
            _slot: slot,
        })
    }

    /// Says that the logs will be wanted.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        drop(self.watchdog.take());
        if self.keep {
            return;
        }
        if std::thread::panicking() || self.failed.load(Ordering::SeqCst) {
            keep_for_reading(&self.directory);
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(at(path))
}

async fn take_slot(base: &Path) -> Result<File> {
    loop {
        for slot in 0..SLOTS {
            let path = base.join(format!("slot-{slot}"));
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(at(&path)(source)),
            }
        }
        tokio::time::sleep(SLOT_PAUSE).await;
    }
}

async fn lock_blocking(path: &Path) -> Result<File> {
    let file = open(path)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(SLOT_PAUSE / 10).await,
            Err(TryLockError::Error(source)) => return Err(at(path)(source)),
        }
    }
}

fn remove_dead(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs).map_err(at(runs))?.flatten() {
        clear_if_dead(&entry.path())?;
    }
    Ok(())
}

/// Removes a directory whose owner is gone, with all that still runs from it.
fn clear_if_dead(directory: &Path) -> Result<bool> {
    let lock = open(&directory.join("lock"))?;
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    let pids = fs::read_to_string(directory.join("pids")).unwrap_or_default();
    for line in pids.lines() {
        let mut fields = line.split(' ');
        let (Some(pid), Some(start)) = (fields.next(), fields.next()) else {
            continue;
        };
        if started_at(pid).as_deref() == Some(start)
            && let Some(group) = pid.parse().ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
    fs::remove_dir_all(directory).map_err(at(directory))?;
    Ok(true)
}

/// When a process started, in the system's ticks.
fn started_at(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19).map(str::to_owned)
}

/// Moves the logs of a failed test aside. Errors are left alone: the test's own failure is what counts.
fn keep_for_reading(directory: &Path) {
    let failed = layout::federations().join("failed");
    let (Ok(()), Some(name)) = (fs::create_dir_all(&failed), directory.file_name()) else {
        return;
    };
    let _ = fs::rename(directory, failed.join(name));
    let mut kept: Vec<_> = fs::read_dir(&failed)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT);
    for (_, path) in kept.into_iter().take(surplus) {
        let _ = fs::remove_dir_all(path);
    }
}
