//! One cluster, from nothing to idle nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::await_condition::eventually;
use crate::error::{Result, at};
use crate::process::Process;
use crate::proxy::Proxy;
use crate::request_log::RequestLog;
use crate::run::Run;

use super::config::{self, Ports};
use super::daemon::Daemon;
use super::namespace::Namespace;
use super::options::Options;
use super::root::Home;
use super::token;

pub(super) const READY: Duration = Duration::from_secs(60);

/// A Slurm cluster that runs. Dropping it ends all its processes and removes its files.
#[derive(Debug)]
pub struct Cluster {
    // Order matters: the daemons end first, the directories go last.
    proxy: Proxy,
    pub(super) processes: Mutex<BTreeMap<Daemon, Process>>,
    pub(super) namespace: Namespace,
    pub(super) home: Home,
    run: Arc<Run>,
    pub(super) options: Options,
    pub(super) ports: Ports,
    keys: Keys,
    /// Whether slurmdbd and its database are another cluster's.
    guest: bool,
    log: Arc<RequestLog>,
    start_time: Duration,
}

/// What clusters of one database have in common.
#[derive(Debug, Clone)]
struct Keys {
    slurm: Vec<u8>,
    jwt: Vec<u8>,
}

impl Cluster {
    /// Starts a cluster and waits until REST answers and all nodes are idle.
    pub async fn start(options: Options) -> Result<Self> {
        let ports = Ports::choose(options.nodes.len())?;
        let keys = Keys { slurm: random(1024)?, jwt: random(32)? };
        Self::with(options, ports, keys, false).await
    }

    /// Starts a cluster that keeps its accounts in the database of another one, through that one's slurmdbd.
    pub async fn start_beside(host: &Self, options: Options) -> Result<Self> {
        let ports = Ports { database: host.ports.database, slurmdbd: host.ports.slurmdbd, ..Ports::choose(options.nodes.len())? };
        Self::with(options, ports, host.keys.clone(), true).await
    }

    async fn with(options: Options, ports: Ports, keys: Keys, guest: bool) -> Result<Self> {
        let started = Instant::now();
        let run = Arc::new(Run::beside(&format!("slurm-{}", options.name)).await?);
        let home = Home::create(&run)?;
        write_files(&home, &options, &ports, &keys)?;
        let namespace = Namespace::start(&run, &home).await?;
        let log = Arc::new(RequestLog::default());
        let proxy = Proxy::logging(ports.rest, Arc::clone(&log))?;
        let mut cluster =
            Self { proxy, processes: Mutex::default(), namespace, home, run, options, ports, keys, guest, log, start_time: Duration::ZERO };
        if let Err(error) = cluster.bring_up().await {
            cluster.run.fail();
            return Err(error);
        }
        cluster.start_time = started.elapsed();
        Ok(cluster)
    }

    async fn bring_up(&self) -> Result<()> {
        if !self.guest {
            self.make_database().await?;
            self.start_daemon(Daemon::Slurmdbd).await?;
        }
        self.start_daemon(Daemon::Slurmctld).await?;
        for node in &self.options.nodes {
            self.start_daemon(Daemon::Slurmd(node.name.clone())).await?;
        }
        self.start_daemon(Daemon::Rest).await?;
        self.await_idle().await?;
        let parent = self.options.parent_account.clone();
        self.sacctmgr(&["add", "account", &parent, "parent=root", &format!("cluster={}", self.options.name)]).await.map(drop)
    }

    async fn make_database(&self) -> Result<()> {
        let sql = format!("{}/sql", self.home.inside());
        let install = [
            "mariadb-install-db".to_owned(),
            "--no-defaults".to_owned(),
            format!("--datadir={sql}/data"),
            // Process ids repeat from cluster to cluster, and names of temporary files with them.
            format!("--tmpdir={sql}"),
            "--auth-root-authentication-method=normal".to_owned(),
            "--skip-test-db".to_owned(),
        ];
        self.namespace.output("slurm:slurm", &[], &install).await?;
        self.start_daemon(Daemon::Database).await?;
        // slurmdbd dies after it has made its database itself, so it finds one.
        let statement = format!(
            "create user slurm@'127.0.0.1' identified by '{}'; grant all on `slurm\\_%`.* to slurm@'127.0.0.1'; create database {}",
            config::PASSWORD,
            config::database(&self.options)
        );
        let client = ["mariadb".to_owned(), "--no-defaults".to_owned(), "-uroot".to_owned(), format!("-S{sql}/s.sock"), format!("-e{statement}")];
        self.namespace.output("slurm:slurm", &[], &client).await?;
        Ok(())
    }

    /// Waits until slurmctld sees every node idle.
    pub async fn await_idle(&self) -> Result<()> {
        eventually(READY, format!("the nodes of Slurm cluster {} are idle", self.options.name), async || {
            self.check_processes()?;
            let nodes = self.rest("GET", "/slurm/v0.0.44/nodes/", None).await?;
            let listed = nodes.pointer("/nodes").and_then(Value::as_array).ok_or_else(|| format!("no list of nodes: {nodes:.400}"))?;
            let states: Vec<String> = listed.iter().filter_map(|node| node.get("state")).map(Value::to_string).collect();
            if states.len() == self.options.nodes.len() && states.iter().all(|state| state == "[\"IDLE\"]") {
                Ok(())
            } else {
                Err(format!("{states:?}").into())
            }
        })
        .await
    }

    /// How long the start took, from nothing to idle nodes.
    pub fn start_time(&self) -> Duration {
        self.start_time
    }

    /// Slurm's `ClusterName`.
    pub fn cluster_name(&self) -> &str {
        &self.options.name
    }

    /// Where clients find slurmrestd: through the proxy, which logs and can be cut.
    pub fn rest_url(&self) -> String {
        format!("http://{}", self.proxy.address())
    }

    /// slurmrestd itself. What the tests ask goes there, past the log.
    pub(super) fn rest_address(&self) -> SocketAddr {
        self.ports.rest
    }

    /// The line to slurmrestd.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// What went over [`Cluster::rest_url`].
    pub fn requests(&self) -> &RequestLog {
        &self.log
    }

    /// The key that tokens are signed with.
    pub fn jwt_key(&self) -> &[u8] {
        &self.keys.jwt
    }

    /// A token of a user, good for `lifetime` from now.
    pub fn token(&self, user: &str, lifetime: Duration) -> String {
        token::sign(&self.keys.jwt, user, SystemTime::now(), lifetime)
    }

    /// A token that was good for an hour and ended an hour ago.
    pub fn expired_token(&self, user: &str) -> String {
        let hour = Duration::from_secs(3600);
        token::sign(&self.keys.jwt, user, SystemTime::now() - 2 * hour, hour)
    }

    /// The directory of the daemons' logs.
    pub fn logs(&self) -> &Path {
        self.run.directory()
    }

    /// The directory of its files in the root.
    pub fn files(&self) -> std::path::PathBuf {
        self.home.path()
    }

    pub(super) fn processes(&self) -> MutexGuard<'_, BTreeMap<Daemon, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_processes(&self) -> Result<()> {
        self.processes().values_mut().try_for_each(Process::check)
    }
}

fn write_files(home: &Home, options: &Options, ports: &Ports, keys: &Keys) -> Result<()> {
    let (gres, gpus) = config::gres(options, home.inside());
    for gpu in gpus {
        home.write(&gpu, b"", true)?;
    }
    home.write("slurm.conf", config::slurm(options, ports, home.inside()).as_bytes(), true)?;
    home.write("gres.conf", gres.as_bytes(), true)?;
    home.write("cgroup.conf", b"CgroupPlugin=disabled\n", true)?;
    home.write("slurmdbd.conf", config::slurmdbd(options, ports, home.inside()).as_bytes(), false)?;
    home.write("slurm.key", &keys.slurm, false)?;
    home.write("jwt.key", &keys.jwt, false)
}

fn random(length: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let path = Path::new("/dev/urandom");
    let mut bytes = vec![0; length];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(at(path))?;
    Ok(bytes)
}
