//! The namespaces of one cluster, and running things in them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::await_condition::eventually;
use crate::error::{Error, Result};
use crate::process::{Process, Program};
use crate::run::Run;

use super::root::Home;

const SCRIPT: &str = include_str!("namespace.sh");
const READY: Duration = Duration::from_secs(20);

/// A mount and a pid namespace. Dropping it kills all that runs in it.
#[derive(Debug)]
pub(super) struct Namespace {
    run: Arc<Run>,
    root: PathBuf,
    init: i32,
    // Nobody but drop needs it again.
    _process: Mutex<Process>,
}

impl Namespace {
    pub(super) async fn start(run: &Arc<Run>, home: &Home) -> Result<Self> {
        let ready = run.directory().join("namespace-ready");
        let mut arguments: Vec<OsString> =
            ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "slurm-namespace"].map(Into::into).into();
        arguments.extend([home.root().into(), ready.clone().into()]);
        let process = Process::spawn(
            run,
            &Program {
                name: "unshare".to_owned(),
                binary: "unshare".into(),
                arguments,
                environment: Vec::new(),
                log: run.directory().join("namespace.log"),
            },
        )?;
        let process = Mutex::new(process);
        let init = eventually(READY, "the namespaces of a Slurm cluster", async || {
            let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(ended) = process.check() {
                return Ok(Err(ended));
            }
            match process.children().first() {
                Some(init) if ready.exists() => Ok(Ok(*init)),
                _ => Err("not ready".into()),
            }
        })
        .await??;
        Ok(Self { run: Arc::clone(run), root: home.root().to_owned(), init, _process: process })
    }

    /// Starts a program that goes on.
    pub(super) fn spawn(&self, name: &str, user: &str, environment: &[(&str, String)], command: &[String]) -> Result<Process> {
        Process::spawn(
            &self.run,
            &Program {
                name: name.to_owned(),
                binary: "nsenter".into(),
                arguments: self.arguments(user, environment, command),
                environment: Vec::new(),
                log: self.run.directory().join(format!("{name}.log")),
            },
        )
    }

    /// Runs a program to its end and returns what it wrote.
    pub(super) async fn output(&self, user: &str, environment: &[(&str, String)], command: &[String]) -> Result<String> {
        let failed = |status: String, output: String| Error::Command { command: command.join(" "), status, output };
        let output = tokio::process::Command::new("nsenter")
            .args(self.arguments(user, environment, command))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| failed("not started".to_owned(), error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(failed(output.status.to_string(), text + &String::from_utf8_lossy(&output.stderr))) }
    }

    /// A shell script that runs its arguments in the namespaces.
    pub(super) fn script(&self, user: &str, environment: &[(&str, String)]) -> String {
        let quoted = |word: OsString| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
        let words: Vec<String> = self.arguments(user, environment, &[]).into_iter().map(quoted).collect();
        format!("exec nsenter {} \"$@\"\n", words.join(" "))
    }

    fn arguments(&self, user: &str, environment: &[(&str, String)], command: &[String]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        arguments.extend(["--target".to_owned(), self.init.to_string()].map(Into::into));
        arguments.extend(["--mount", "--pid", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"].map(Into::into));
        arguments.extend(environment.iter().map(|(key, value)| format!("{key}={value}").into()));
        arguments.extend(["chroot".into(), format!("--userspec={user}").into(), self.root.clone().into_os_string()]);
        arguments.extend(command.iter().map(Into::into));
        arguments
    }
}
