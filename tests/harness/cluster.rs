//! One cluster: an API server with what belongs to it, and the line to it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::Api;

use crate::audit::{self, AuditLog};
use crate::await_condition::eventually;
use crate::control_plane::{Component, Flags};
use crate::error::{Error, Result, asking, at};
use crate::etcd::Etcd;
use crate::kubeconfig::{Credential, Kubeconfig, write_private};
use crate::options::ClusterOptions;
use crate::pki::{self, Authority};
use crate::port::Port;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::run::Run;

const READY: Duration = Duration::from_secs(120);
const ADMINS: &str = "system:masters";

/// A running cluster, the hub or a site. Cheap to clone; all clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cluster").field("options", &self.inner.options).field("directory", &self.inner.directory).finish_non_exhaustive()
    }
}

struct Inner {
    options: ClusterOptions,
    directory: PathBuf,
    authority: Authority,
    admin: Kubeconfig,
    client: Mutex<kube::Client>,
    proxy: Proxy,
    audit: AuditLog,
    components: Mutex<BTreeMap<Component, Process>>,
    etcd: Arc<Etcd>,
    port: Port,
    run: Arc<Run>,
}

/// The data of one cluster at one moment, see [`Cluster::snapshot`].
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) cluster: String,
    pub(crate) directory: PathBuf,
}

impl Cluster {
    /// Makes keys, files and the proxy; starts no process.
    pub(crate) async fn prepare(run: &Arc<Run>, etcd: &Arc<Etcd>, options: ClusterOptions) -> Result<Self> {
        let directory = run.directory().join(&options.name);
        std::fs::create_dir_all(&directory).map_err(at(&directory))?;
        let port = Port::hold()?;
        let authority = Authority::new(&format!("{} authority", options.name))?;
        write_keys(&directory, &authority)?;
        let user = |name: &str, groups: &[&str]| {
            Ok::<_, Error>(Kubeconfig {
                server: format!("https://{}", port.address()),
                authority: authority.certificate(),
                tls_server_name: None,
                credential: Credential::Certificate(authority.client(name, groups, None)?),
            })
        };
        let admin = user(audit::ADMIN_USER, &[ADMINS])?;
        admin.write(&directory.join("admin.kubeconfig"))?;
        user("system:kube-controller-manager", &[])?.write(&directory.join("controller-manager.kubeconfig"))?;
        user("system:kube-scheduler", &[])?.write(&directory.join("scheduler.kubeconfig"))?;
        user(audit::KWOK_USER, &[ADMINS])?.write(&directory.join("kwok.kubeconfig"))?;
        Ok(Self {
            inner: Arc::new(Inner {
                client: Mutex::new(admin.client().await?),
                admin,
                authority,
                proxy: Proxy::start(port.address())?,
                audit: AuditLog::new(directory.join("audit.log")),
                components: Mutex::default(),
                etcd: Arc::clone(etcd),
                port,
                run: Arc::clone(run),
                directory,
                options,
            }),
        })
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// Address of the API server itself, past the proxy.
    pub fn address(&self) -> SocketAddr {
        self.inner.port.address()
    }

    /// The line to the API server; credentials of the operator lead through it.
    pub fn proxy(&self) -> &Proxy {
        &self.inner.proxy
    }

    /// Directory with logs, keys and kubeconfigs of the cluster.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// What the API server was asked.
    pub fn audit(&self) -> &AuditLog {
        &self.inner.audit
    }

    /// A client of the harness's administrator, past the proxy. The product never has this right.
    pub fn admin(&self) -> kube::Client {
        self.inner.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The administrator's kubeconfig, for people who look into a federation.
    pub fn admin_kubeconfig(&self) -> Kubeconfig {
        self.inner.admin.clone()
    }

    /// A kubeconfig for this cluster with the given credential, past the proxy; [`Kubeconfig::at`] leads it elsewhere.
    pub fn kubeconfig(&self, credential: Credential) -> Kubeconfig {
        Kubeconfig { credential, ..self.inner.admin.clone() }
    }

    /// A kubeconfig with a fresh client certificate for a user and at most two groups.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<Kubeconfig> {
        self.kubeconfig_until(user, groups, None)
    }

    /// As [`Cluster::kubeconfig_for`], with a certificate that ends at the given time.
    pub fn kubeconfig_until(&self, user: &str, groups: &[&str], until: Option<SystemTime>) -> Result<Kubeconfig> {
        let identity = self.inner.authority.client(user, groups, until)?;
        Ok(self.kubeconfig(Credential::Certificate(identity)))
    }

    /// A client that is `user`, past the proxy.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Result<kube::Client> {
        self.kubeconfig_for(user, groups)?.client().await
    }

    /// Options the cluster was built with.
    pub(crate) fn options(&self) -> &ClusterOptions {
        &self.inner.options
    }

    pub(crate) fn etcd(&self) -> &Etcd {
        &self.inner.etcd
    }

    /// Starts what does not run yet, and waits until the API server is ready and its controllers work.
    pub async fn start(&self) -> Result<()> {
        self.start_component(Component::ApiServer)?;
        self.await_ready().await?;
        for component in self.inner.options.components() {
            self.start_component(component)?;
        }
        self.await_controllers().await
    }

    /// Kills all processes of the cluster, but not a store that others share. Its ports stay its own.
    pub fn stop(&self) {
        let mut components = self.components();
        for process in components.values_mut() {
            process.kill_soon();
        }
        components.clear();
    }

    /// Starts one process, if it does not run.
    pub fn start_component(&self, component: Component) -> Result<()> {
        let mut components = self.components();
        if components.get_mut(&component).is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let flags = Flags {
            cluster: self.name(),
            directory: &self.inner.directory,
            etcd: self.inner.etcd.url(),
            address: self.address(),
            runs_work: self.inner.options.runs_work(),
            api_server: &self.inner.options.api_server_flags,
        };
        let process = Process::spawn(&self.inner.run, &flags.program(component)?)?;
        components.insert(component, process);
        Ok(())
    }

    /// True while its API server runs.
    pub fn is_running(&self) -> bool {
        let mut components = self.components();
        components.get_mut(&Component::ApiServer).is_some_and(|process| process.exited().is_none())
    }

    /// Kills one process.
    pub fn stop_component(&self, component: Component) {
        self.components().remove(&component);
    }

    /// Process ids of what runs, by component.
    pub fn process_ids(&self) -> BTreeMap<Component, u32> {
        let components = self.components();
        components.iter().map(|(component, process)| (*component, process.id())).collect()
    }

    /// Waits until the API server says that it is ready.
    pub async fn await_ready(&self) -> Result<()> {
        // A fresh client: connections to an API server that is gone would only fail first.
        let client = self.inner.admin.client().await?;
        *self.inner.client.lock().unwrap_or_else(PoisonError::into_inner) = client.clone();
        eventually(READY, format!("{} is ready", self.name()), async || {
            if let Err(ended) = self.check_processes() {
                return Ok(Err(ended));
            }
            let request = http::Request::get("/readyz").body(Vec::new())?;
            client.request_text(request).await?;
            Ok(Ok(()))
        })
        .await?
    }

    /// Waits until the controllers have done what every namespace needs.
    async fn await_controllers(&self) -> Result<()> {
        if !self.inner.options.controller_manager {
            return Ok(());
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin(), "default");
        let maps: Api<ConfigMap> = Api::namespaced(self.admin(), "default");
        eventually(READY, format!("controllers of {} work", self.name()), async || {
            if let Err(ended) = self.check_processes() {
                return Ok(Err(ended));
            }
            accounts.get("default").await?;
            maps.get("kube-root-ca.crt").await?;
            Ok(Ok(()))
        })
        .await?
    }

    fn check_processes(&self) -> Result<()> {
        self.components().values_mut().try_for_each(Process::check)
    }

    fn components(&self) -> MutexGuard<'_, BTreeMap<Component, Process>> {
        self.inner.components.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the cluster's data as it stands, while it runs. Needs a store of its own, see
    /// [`ClusterOptions::own_store`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.owns_store()?;
        let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let directory = self.inner.directory.join(format!("snapshot-{stamp}"));
        self.inner.etcd.copy_to(&directory)?;
        Ok(Snapshot { cluster: self.name().to_owned(), directory })
    }

    /// Puts the cluster back to a snapshot, as a restore of its etcd does: all processes start anew, and what was
    /// written since is gone.
    pub async fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        self.owns_store()?;
        if snapshot.cluster != self.name() {
            return Err(self.unsupported("the snapshot is of another cluster"));
        }
        self.stop();
        self.inner.etcd.restore(&snapshot.directory).await?;
        self.start().await
    }

    fn owns_store(&self) -> Result<()> {
        if self.inner.options.own_store { Ok(()) } else { Err(self.unsupported("shares its store; build it with own_store to take snapshots")) }
    }

    fn unsupported(&self, message: &'static str) -> Error {
        Error::Unsupported { cluster: self.name().to_owned(), message }
    }

    /// Names this cluster in an error.
    pub(crate) fn asking(&self, action: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
        asking(self.name(), action)
    }
}

fn write_keys(directory: &Path, authority: &Authority) -> Result<()> {
    let server = authority.server(&["127.0.0.1", "localhost", "10.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"])?;
    let (private, public) = pki::signing_key()?;
    for (file, text) in [
        ("ca.crt", authority.certificate()),
        ("server.crt", server.certificate),
        ("server.key", server.key),
        ("service-accounts.key", private),
        ("service-accounts.pub", public),
        ("audit-policy.yaml", audit::policy()),
    ] {
        write_private(&directory.join(file), &text)?;
    }
    Ok(())
}
