//! Starting, stopping and freezing the daemons of a cluster.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::await_condition::eventually;
use crate::error::Result;

use super::cluster::{Cluster, READY};
use super::daemon::Daemon;

const STOP: Duration = Duration::from_secs(30);

impl Cluster {
    /// Starts a daemon, unless it runs, and waits until it listens.
    pub async fn start_daemon(&self, daemon: Daemon) -> Result<()> {
        if self.processes().get_mut(&daemon).is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let mut environment = vec![("SLURM_CONF", format!("{}/slurm.conf", self.home.inside()))];
        if daemon == Daemon::Rest {
            environment.push(("SLURM_JWT", "daemon".to_owned()));
        }
        let (command, address) = self.command(&daemon);
        let process = self.namespace.spawn(&daemon.name(), daemon.user(), &environment, &command)?;
        self.processes().insert(daemon.clone(), process);
        eventually(READY, format!("{} of Slurm cluster {} listens", daemon.name(), self.cluster_name()), async || {
            if let Some(Err(ended)) = self.processes().get_mut(&daemon).map(|process| process.check()) {
                return Ok(Err(ended));
            }
            TcpStream::connect(address).await?;
            Ok(Ok(()))
        })
        .await?
    }

    /// Stops a daemon in good order, so that it keeps its state, and waits until it is gone.
    pub async fn stop(&self, daemon: Daemon) -> Result<()> {
        if let Some(process) = self.processes().get_mut(&daemon) {
            process.signal_children(Signal::TERM)?;
        }
        eventually(STOP, format!("{} of Slurm cluster {} ends", daemon.name(), self.cluster_name()), async || {
            match self.processes().get_mut(&daemon).map(|process| process.exited()) {
                Some(None) => Err("it runs".into()),
                _ => Ok(()),
            }
        })
        .await?;
        self.processes().remove(&daemon);
        Ok(())
    }

    /// Halts a daemon: its connections stay open and nothing is answered.
    pub async fn freeze(&self, daemon: Daemon) -> Result<()> {
        self.processes().get_mut(&daemon).map_or(Ok(()), |process| process.signal_children(Signal::STOP))
    }

    /// Lets a frozen daemon go on.
    pub async fn thaw(&self, daemon: Daemon) -> Result<()> {
        self.processes().get_mut(&daemon).map_or(Ok(()), |process| {
            // The wrapper halts itself when its child is halted.
            process.signal(Signal::CONT)?;
            process.signal_children(Signal::CONT)
        })
    }

    /// The ids of the processes that keep the daemons.
    pub fn process_ids(&self) -> Vec<u32> {
        self.processes().values().map(|process| process.id()).collect()
    }

    fn command(&self, daemon: &Daemon) -> (Vec<String>, SocketAddr) {
        let sql = format!("{}/sql", self.home.inside());
        let ports = &self.ports;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match daemon {
            Daemon::Database => {
                let mut command = words(&["mariadbd", "--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
                command.extend(words(&["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", "--innodb-snapshot-isolation=OFF"]));
                command.extend([
                    format!("--datadir={sql}/data"),
                    format!("--tmpdir={sql}"),
                    format!("--socket={sql}/s.sock"),
                    format!("--port={}", ports.database.port()),
                ]);
                (command, ports.database)
            }
            Daemon::Slurmdbd => (words(&["slurmdbd", "-D", "-s"]), ports.slurmdbd),
            Daemon::Slurmctld => (words(&["slurmctld", "-D", "-s"]), ports.slurmctld),
            Daemon::Slurmd(node) => {
                let place = self.options.nodes.iter().position(|known| known.name == *node).unwrap_or_default();
                (words(&["slurmd", "-D", "-s", "-N", node]), ports.nodes.get(place).copied().unwrap_or(ports.slurmctld))
            }
            Daemon::Rest => {
                let mut command = words(&["slurmrestd", "-a", "rest_auth/jwt", "-s", "slurmctld,slurmdbd", "-d", "v0.0.44"]);
                command.push(ports.rest.to_string());
                (command, ports.rest)
            }
        }
    }
}
