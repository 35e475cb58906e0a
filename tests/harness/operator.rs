//! The operator as a process, with the rights that it has in production.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use crate::await_condition::eventually;
use crate::error::{Error, Result, at};
use crate::federation::Federation;
use crate::http;
use crate::install::SYSTEM_NAMESPACE;
use crate::kubeconfig::Kubeconfig;
use crate::layout;
use crate::metrics::Metrics;
use crate::port;
use crate::process::{Process, Program};
use crate::run::Run;
use crate::usage::Usage;

const PORT_ATTEMPTS: usize = 5;

/// How an operator is started.
#[derive(Debug, Clone, Default)]
pub struct OperatorOptions {
    name: Option<String>,
    kubeconfig: Option<Kubeconfig>,
    through_proxy: bool,
    site_cidrs: Option<Vec<String>>,
    lease: Option<[String; 3]>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    binary: Option<PathBuf>,
}

impl OperatorOptions {
    /// With the flags of the tests: sites on loopback are allowed, metrics on a port of its own, logs as text.
    pub fn new() -> Self {
        Self::default()
    }

    /// A name, for its log and kubeconfig file; needed when several run at once. `operator` else.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Another kubeconfig for the hub than the one of the operator's ServiceAccount.
    pub fn kubeconfig(mut self, kubeconfig: Kubeconfig) -> Self {
        self.kubeconfig = Some(kubeconfig);
        self
    }

    /// Reaches the hub through its proxy, so that this line can be cut, too.
    pub fn through_proxy(mut self) -> Self {
        self.through_proxy = true;
        self
    }

    /// Ranges that sites may be in, instead of `127.0.0.0/8`.
    pub fn site_cidrs<'a>(mut self, cidrs: impl IntoIterator<Item = &'a str>) -> Self {
        self.site_cidrs = Some(cidrs.into_iter().map(str::to_owned).collect());
        self
    }

    /// `--lease-duration`, `--renew-deadline` and `--renew-interval`, such as `3s`, `2s` and `500ms`.
    pub fn lease(mut self, duration: &str, renew_deadline: &str, renew_interval: &str) -> Self {
        self.lease = Some([duration, renew_deadline, renew_interval].map(str::to_owned));
        self
    }

    /// A further flag.
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// An environment variable, such as `RUST_LOG`.
    pub fn environment(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Another binary than [`layout::operator_binary`](crate::layout::operator_binary) finds.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }
}

/// A running operator. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    name: String,
    binary: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    running: Mutex<Running>,
    run: Arc<Run>,
}

#[derive(Debug)]
struct Running {
    process: Process,
    metrics: SocketAddr,
}

impl Operator {
    /// Starts an operator on the federation's hub. Needs [`Federation::install`] first.
    pub async fn start(federation: &Federation, options: OperatorOptions) -> Result<Self> {
        let name = options.name.unwrap_or_else(|| "operator".to_owned());
        let mut kubeconfig = match options.kubeconfig {
            Some(kubeconfig) => kubeconfig,
            None => federation.hub().hub_kubeconfig().await?,
        };
        if options.through_proxy {
            kubeconfig = kubeconfig.at(federation.hub().proxy().address());
        }
        let directory = federation.directory();
        let file = directory.join(format!("{name}.kubeconfig"));
        kubeconfig.write(&file)?;
        let mut arguments = vec![
            "run".to_owned(),
            format!("--namespace={SYSTEM_NAMESPACE}"),
            format!("--kubeconfig={}", file.display()),
            "--log-format=text".to_owned(),
        ];
        let cidrs = options.site_cidrs.unwrap_or_else(|| vec!["127.0.0.0/8".to_owned()]);
        arguments.extend(cidrs.iter().map(|cidr| format!("--allow-site-cidr={cidr}")));
        if let Some([duration, deadline, interval]) = options.lease {
            arguments.push(format!("--lease-duration={duration}"));
            arguments.push(format!("--renew-deadline={deadline}"));
            arguments.push(format!("--renew-interval={interval}"));
        }
        arguments.extend(options.flags);
        let operator = OperatorProgram {
            binary: match options.binary {
                Some(binary) => binary,
                None => layout::operator_binary()?,
            },
            arguments: arguments.into_iter().map(OsString::from).collect(),
            environment: options.environment,
            log: directory.join(format!("{name}.log")),
            name,
        };
        let running = operator.launch(federation.run()).await?;
        let OperatorProgram { name, binary, arguments, environment, log } = operator;
        Ok(Self { name, binary, arguments, environment, log, running: Mutex::new(running), run: Arc::clone(federation.run()) })
    }

    /// Kills it if it still runs, and starts it anew with the same flags. The log goes on in the same file.
    pub async fn restart(&self) -> Result<()> {
        self.kill();
        let program = OperatorProgram {
            name: self.name.clone(),
            binary: self.binary.clone(),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            log: self.log.clone(),
        };
        let running = program.launch(&self.run).await?;
        *self.running() = running;
        Ok(())
    }

    /// Kills it at once, without a chance to tidy up (SIGKILL), and waits until it is gone.
    pub fn kill(&self) {
        self.running().process.kill();
    }

    /// Stops it for a while (SIGSTOP): it sleeps in the middle of whatever it does.
    pub fn freeze(&self) -> Result<()> {
        self.running().process.signal(Signal::STOP)
    }

    /// Lets it go on after [`Operator::freeze`] (SIGCONT).
    pub fn thaw(&self) -> Result<()> {
        self.running().process.signal(Signal::CONT)
    }

    /// Asks it to end (SIGTERM) and waits for it.
    pub async fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.running().process.signal(Signal::TERM)?;
        eventually(timeout, format!("{} ends when asked", self.name), async || self.exit_status().ok_or_else(|| "it still runs".into())).await
    }

    /// Its exit status, once it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.running().process.exited()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.running().process.id()
    }

    /// The file of its log.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it has logged.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).map_err(at(&self.log))
    }

    /// Where it serves `/metrics`, `/healthz` and `/readyz`.
    pub fn metrics_address(&self) -> SocketAddr {
        self.running().metrics
    }

    /// Status and body of one of its pages.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(self.metrics_address(), path).await
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Result<Metrics> {
        let (_, text) = self.get("/metrics").await?;
        Ok(Metrics::parse(&text))
    }

    /// Waits until `/readyz` answers 200; fails at once, with the end of its log, when it has ended instead.
    pub async fn await_ready(&self, timeout: Duration) -> Result<()> {
        eventually(timeout, format!("{} is ready", self.name), async || {
            if let Err(ended) = self.running().process.check() {
                return Ok(Err(ended));
            }
            match self.get("/readyz").await? {
                (200, _) => Ok(Ok(())),
                (status, body) => Err(format!("{status} {body}").into()),
            }
        })
        .await?
    }

    /// Memory and CPU time of its process.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.id())
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct OperatorProgram {
    name: String,
    binary: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    log: PathBuf,
}

impl OperatorProgram {
    /// Starts the process; when its port was taken in the last moment, with another one.
    async fn launch(&self, run: &Arc<Run>) -> Result<Running> {
        let mut attempt = 1;
        loop {
            let metrics = port::unshared()?;
            let before = std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
            let mut arguments = self.arguments.clone();
            arguments.push(format!("--metrics-address={metrics}").into());
            let mut process = Process::spawn(
                run,
                &Program {
                    name: self.name.clone(),
                    binary: self.binary.clone(),
                    arguments,
                    environment: self.environment.clone(),
                    log: self.log.clone(),
                },
            )?;
            if attempt == PORT_ATTEMPTS || !self.lost_its_port(&mut process, metrics, before).await? {
                return Ok(Running { process, metrics });
            }
            attempt += 1;
        }
    }

    /// True when the process ended because its port is in use. Returns as soon as it listens or has ended; one that
    /// does neither for some seconds is left to the caller.
    async fn lost_its_port(&self, process: &mut Process, metrics: SocketAddr, before: u64) -> Result<bool> {
        let looked = eventually(Duration::from_secs(5), "listens or ends", async || {
            if process.exited().is_some() {
                return Ok(true);
            }
            tokio::net::TcpStream::connect(metrics).await?;
            Ok(false)
        })
        .await;
        match looked {
            Ok(true) => {
                let log = std::fs::read(&self.log).map_err(at(&self.log))?;
                let fresh = log.get(usize::try_from(before).unwrap_or_default()..).unwrap_or_default();
                Ok(String::from_utf8_lossy(fresh).to_lowercase().contains("address already in use"))
            }
            Ok(false) | Err(Error::Timeout { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
