//! Child processes: each in a group of its own, recorded for the watchdog, its output in a file.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Error, Result, at};
use crate::run::Run;

const LAUNCH: &str = include_str!("launch.sh");
const REAP: Duration = Duration::from_secs(10);
const TAIL: usize = 15;

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) log: PathBuf,
}

/// A child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    status: Option<ExitStatus>,
    // Dropped last, so that the directory outlives its processes.
    _run: Arc<Run>,
}

impl Process {
    pub(crate) fn spawn(run: &Arc<Run>, program: &Program) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&program.log).map_err(at(&program.log))?;
        let errors = log.try_clone().map_err(at(&program.log))?;
        let child = Command::new("/bin/sh")
            .args(["-c", LAUNCH])
            .arg(run.directory())
            .arg(&program.binary)
            .args(&program.arguments)
            .envs(program.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(run.directory())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Process { name: program.name.clone(), source })?;
        Ok(Self { name: program.name.clone(), log: program.log.clone(), child, status: None, _run: Arc::clone(run) })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it has ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// An error that says why, when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.exited() {
            None => Ok(()),
            Some(status) => Err(Error::Ended { name: self.name.clone(), status: status.to_string(), log: self.log.clone(), tail: tail(&self.log) }),
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        // A process that was waited for may have given its id to another.
        if self.exited().is_some() {
            return Ok(());
        }
        let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        match kill_process_group(group, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::Process { name: self.name.clone(), source: error.into() }),
        }
    }

    /// Signals what it forked and waits for, not itself: a wrapper that passes the exit on.
    pub(crate) fn signal_children(&mut self, signal: Signal) -> Result<()> {
        for child in self.children().into_iter().filter_map(Pid::from_raw) {
            match rustix::process::kill_process(child, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(Error::Process { name: self.name.clone(), source: error.into() }),
            }
        }
        Ok(())
    }

    /// The ids of its own children.
    pub(crate) fn children(&mut self) -> Vec<i32> {
        if self.exited().is_some() {
            return Vec::new();
        }
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
    }

    /// Kills it without waiting; what can not be signalled is gone.
    pub(crate) fn kill_soon(&mut self) {
        let _ = self.signal(Signal::KILL);
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.kill_soon();
        let started = Instant::now();
        while self.exited().is_none() && started.elapsed() < REAP {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().rev().take(TAIL).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
