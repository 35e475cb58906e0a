//! A hub and its sites on this machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::etcd::Etcd;
use crate::options::ClusterOptions;
use crate::run::Run;

/// A step that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What was done.
    pub step: String,
    /// Time since the start of the federation.
    pub elapsed: Duration,
}

type Listener = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Says what a federation shall be made of; see [`Federation::builder`].
#[derive(Clone)]
pub struct FederationBuilder {
    name: String,
    hub: ClusterOptions,
    sites: Vec<ClusterOptions>,
    directory: Option<PathBuf>,
    listener: Listener,
}

impl fmt::Debug for FederationBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, hub, sites, .. } = self;
        formatter.debug_struct("FederationBuilder").field("name", name).field("hub", hub).field("sites", sites).finish_non_exhaustive()
    }
}

impl FederationBuilder {
    /// Part of the directory's name, to distinguish federations.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The hub, when it shall differ from [`ClusterOptions::hub`].
    pub fn hub(mut self, hub: ClusterOptions) -> Self {
        self.hub = hub;
        self
    }

    /// Sites with all that a site can run.
    pub fn sites<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.sites.extend(names.into_iter().map(ClusterOptions::site));
        self
    }

    /// One more site.
    pub fn site(mut self, site: ClusterOptions) -> Self {
        self.sites.push(site);
        self
    }

    /// Whether the sites named so far run KWOK.
    pub fn kwok(self, wanted: bool) -> Self {
        self.each_site(|site| site.kwok(wanted))
    }

    /// Whether the sites named so far run a scheduler.
    pub fn scheduler(self, wanted: bool) -> Self {
        self.each_site(|site| site.scheduler(wanted))
    }

    /// Whether hub and the sites named so far run a controller manager.
    pub fn controller_manager(mut self, wanted: bool) -> Self {
        self.hub = self.hub.controller_manager(wanted);
        self.each_site(|site| site.controller_manager(wanted))
    }

    /// Whether hub and the sites named so far have an etcd each, which snapshots need.
    pub fn own_stores(mut self, wanted: bool) -> Self {
        self.hub = self.hub.own_store(wanted);
        self.each_site(|site| site.own_store(wanted))
    }

    /// Uses a directory of the caller's, which stays when the federation ends, and waits for no slot.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Receives a call for each step.
    pub fn progress(mut self, listener: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    fn each_site(mut self, change: impl Fn(ClusterOptions) -> ClusterOptions) -> Self {
        self.sites = self.sites.into_iter().map(change).collect();
        self
    }

    /// Starts all clusters and waits until they serve. Two federations run at once on a machine; a third one waits
    /// here until one of them ends.
    pub async fn start(self) -> Result<Federation> {
        let run = Arc::new(match &self.directory {
            Some(directory) => Run::at(directory)?,
            None => Run::create(&self.name).await?,
        });
        self.start_in(&run).await.inspect_err(|_| run.fail())
    }

    async fn start_in(&self, run: &Arc<Run>) -> Result<Federation> {
        let started = Instant::now();
        let report_step = |step: String| {
            (self.listener)(&Progress { step, elapsed: started.elapsed() });
        };
        let stores = Stores::new(run);
        let mut clusters = Vec::new();
        for options in std::iter::once(&self.hub).chain(&self.sites) {
            let etcd = stores.of(options).await?;
            clusters.push(Cluster::prepare(run, &etcd, options.clone()).await?);
        }
        report_step("etcd answers".to_owned());
        try_join_all(clusters.iter().filter(|cluster| cluster.options().running).map(async |cluster| {
            cluster.start().await?;
            report_step(format!("cluster {} is ready", cluster.name()));
            Ok::<_, Error>(())
        }))
        .await?;
        let mut clusters = clusters.into_iter();
        let hub = clusters.next().ok_or_else(|| Error::NoSuchSite(self.hub.name.clone()))?;
        Ok(Federation { hub, sites: clusters.collect(), start_time: started.elapsed(), run: Arc::clone(run) })
    }
}

/// One etcd for all that share, started when the first of them comes.
struct Stores<'a> {
    run: &'a Arc<Run>,
    shared: tokio::sync::OnceCell<Arc<Etcd>>,
}

impl<'a> Stores<'a> {
    fn new(run: &'a Arc<Run>) -> Self {
        Self { run, shared: tokio::sync::OnceCell::new() }
    }

    async fn of(&self, options: &ClusterOptions) -> Result<Arc<Etcd>> {
        if options.own_store {
            let name = format!("etcd-{}", options.name);
            return Ok(Arc::new(Etcd::start(self.run, &name).await?));
        }
        let start = async || Ok(Arc::new(Etcd::start(self.run, "etcd").await?));
        self.shared.get_or_try_init(start).await.cloned()
    }
}

/// A running federation. Dropping it kills all its processes and removes its directory; when the test is failing, the
/// directory goes to `target/federation/failed`. With `AIFACTORY_KEEP` set it stays until the next federation starts.
///
/// ```no_run
/// # use aifactory_tests::{Cut, Federation, Result};
/// # async fn example() -> Result<()> {
/// let federation = Federation::builder().sites(["bissen", "bettembourg"]).start().await?;
/// federation.site("bissen")?.proxy().cut(Cut::Refuse).await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Federation {
    hub: Cluster,
    sites: Vec<Cluster>,
    start_time: Duration,
    run: Arc<Run>,
}

impl Federation {
    /// A hub named `hub` and, until told otherwise, no site.
    pub fn builder() -> FederationBuilder {
        FederationBuilder { name: "run".to_owned(), hub: ClusterOptions::hub("hub"), sites: Vec::new(), directory: None, listener: Arc::new(|_| {}) }
    }

    /// The hub.
    pub fn hub(&self) -> &Cluster {
        &self.hub
    }

    /// The sites, in the order in which they were named.
    pub fn sites(&self) -> &[Cluster] {
        &self.sites
    }

    /// The site of that name.
    pub fn site(&self, name: &str) -> Result<&Cluster> {
        self.sites.iter().find(|site| site.name() == name).ok_or_else(|| Error::NoSuchSite(name.to_owned()))
    }

    /// Hub and sites.
    pub fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        std::iter::once(&self.hub).chain(&self.sites)
    }

    /// The directory with everything that the federation writes; `pids` lists its processes.
    pub fn directory(&self) -> &Path {
        self.run.directory()
    }

    /// How long the start took, waiting for a slot not counted.
    pub fn start_time(&self) -> Duration {
        self.start_time
    }

    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }
}

impl Drop for Federation {
    fn drop(&mut self) {
        // Clones of clusters may live on; their processes must not. API servers go before their stores.
        for cluster in self.clusters() {
            cluster.stop();
        }
        for cluster in self.clusters() {
            cluster.etcd().kill();
        }
    }
}
