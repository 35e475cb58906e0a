//! The store of one or several clusters.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use crate::await_condition::eventually;
use crate::error::{Result, at};
use crate::http;
use crate::layout;
use crate::port::Port;
use crate::process::{Process, Program};
use crate::run::Run;

const READY: Duration = Duration::from_secs(60);

/// An etcd. It never waits for the disk: a federation that loses its machine is not wanted back.
#[derive(Debug)]
pub(crate) struct Etcd {
    run: Arc<Run>,
    directory: PathBuf,
    clients: Port,
    peers: Port,
    process: Mutex<Option<Process>>,
}

impl Etcd {
    pub(crate) async fn start(run: &Arc<Run>, name: &str) -> Result<Self> {
        let directory = run.directory().join(name);
        std::fs::create_dir_all(&directory).map_err(at(&directory))?;
        let etcd = Self { run: Arc::clone(run), directory, clients: Port::hold()?, peers: Port::hold()?, process: Mutex::new(None) };
        etcd.launch().await?;
        Ok(etcd)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.clients.address())
    }

    pub(crate) fn kill(&self) {
        self.process().take();
    }

    /// A copy of the data as it stood at one moment: what a crash then would have left.
    pub(crate) fn copy_to(&self, destination: &Path) -> Result<()> {
        let mut process = self.process();
        if let Some(process) = process.as_mut() {
            process.signal(Signal::STOP)?;
        }
        let copied = copy_directory(&self.data(), destination);
        if let Some(process) = process.as_mut() {
            process.signal(Signal::CONT)?;
        }
        copied
    }

    /// Goes back to a copy.
    pub(crate) async fn restore(&self, copy: &Path) -> Result<()> {
        self.kill();
        let data = self.data();
        if data.exists() {
            std::fs::remove_dir_all(&data).map_err(at(&data))?;
        }
        copy_directory(copy, &data)?;
        self.launch().await
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn launch(&self) -> Result<()> {
        let clients = self.url();
        let peers = format!("http://{}", self.peers.address());
        let arguments = [
            "--name=federation".to_owned(),
            format!("--data-dir={}", self.data().display()),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=federation={peers}"),
            "--socket-reuse-port=true".to_owned(),
            "--unsafe-no-fsync=true".to_owned(),
            "--log-level=warn".to_owned(),
            // A cluster of one need not wait long until it elects itself.
            "--heartbeat-interval=20".to_owned(),
            "--election-timeout=100".to_owned(),
        ];
        let process = Process::spawn(
            &self.run,
            &Program {
                name: "etcd".to_owned(),
                binary: layout::control_plane("etcd")?,
                arguments: arguments.map(Into::into).into(),
                environment: Vec::new(),
                log: self.directory.join("etcd.log"),
            },
        )?;
        *self.process() = Some(process);
        eventually(READY, "etcd answers", async || {
            if let Some(Err(ended)) = self.process().as_mut().map(Process::check) {
                return Ok(Err(ended));
            }
            match http::get(self.clients.address(), "/health").await? {
                (200, _) => Ok(Ok(())),
                (status, body) => Err(format!("{status} {body}").into()),
            }
        })
        .await?
    }
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(at(to))?;
    for entry in std::fs::read_dir(from).map_err(at(from))?.flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_directory(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).map_err(at(&source))?;
        }
    }
    Ok(())
}
