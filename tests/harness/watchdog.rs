//! A process that outlives us just long enough to kill what we started, however we end.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::{Error, Result};

const SCRIPT: &str = include_str!("watchdog.sh");

/// Holds the pipe that keeps the watchdog waiting. The system closes it also when this process is killed.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let spawned = || -> io::Result<Self> {
            let mut child = Command::new("/bin/sh")
                .args(["-c", SCRIPT, "aifactory-watchdog"])
                .arg(directory)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // A group of its own: an interrupt from the terminal must not reach it.
                .process_group(0)
                .spawn()?;
            let pipe = child.stdin.take();
            Ok(Self { child, pipe })
        };
        spawned().map_err(|source| Error::Process { name: "watchdog".to_owned(), source })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // It ends by itself; waiting leaves no zombie, and its errors change nothing.
        let _ = self.child.wait();
    }
}
