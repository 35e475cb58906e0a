//! The worker of one site's Slurm: an actor that owns the intents and what was read, decides in one place, and leaves waiting to tasks.
//!
//! Slurm tells nobody what changes, so the worker looks: at what an intent concerns as soon as the hub says it, at everything every [`RESYNC`].

mod driver;
mod reports;
mod session;
mod site_config;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aifactory_api::{OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::usage::EntryKey;
use aifactory_plan::engine::slurm_accounts::{AccountPlan, HeldAccount, RemovalProgress};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::id::{AccountName, ClusterName, PartitionName, UserName};
use aifactory_plan::model::intent::{SiteConfig, SiteIntent};
use aifactory_plan::model::report::{EntryUsage, Finding};
use aifactory_plan::model::site_key::SiteKey;
use jiff::Timestamp;
use tokio::time::Instant;

use super::read::partition::PartitionView;
use super::usage::Usage;
use crate::credential::reader::CredentialReader;
use crate::site::controller::{self, Core};
use crate::telemetry::metrics::Metrics;
use crate::transport::{DesiredSet, SiteSender, WorkerSender};
use session::Session;
use site_config::OwnConfig;
use sync::{Heard, Memory, Pass, Scope};

/// How often everything is read anew: what somebody else has changed is back after that.
pub const RESYNC: Duration = Duration::from_secs(30);
/// How often job records are read.
const USAGE: Duration = Duration::from_secs(30);
/// Pause before something that failed is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Intents are gathered until none came for so long, and at most so long: a pass costs half a second for one grant, and six for two hundred.
const GATHER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long the records wait for grants that are in work: both are the database's.
const USAGE_WAITS: Duration = Duration::from_secs(5);

/// Starts the controller of a site's Slurm; it ends when the sender is dropped.
pub fn start(key: SiteKey, source: CredentialSource, reader: CredentialReader, hub: WorkerSender, metrics: Arc<Metrics>) -> SiteSender {
    controller::start(SlurmDriver::new(Core::new(key, source, reader, hub, metrics)))
}

struct SlurmDriver {
    core: Core<Self>,
    own_config: OwnConfig,
    /// Why the last pass failed, though there is contact.
    trouble: Option<Finding>,
    /// Owners whose accounts are to be looked at.
    dirty: BTreeSet<OwnerRef>,
    dirty_at: Option<Instant>,
    /// Since when intents are gathered.
    gathering: Option<Instant>,
    resync_at: Instant,
    pause: Duration,
    passing: bool,
    /// Set when there is news during a pass that others must not wait for: a known grant has changed or gone.
    news: Arc<AtomicBool>,
    plans: BTreeMap<OwnerRef, AccountPlan>,
    failures: BTreeMap<OwnerRef, Vec<Finding>>,
    held: Option<BTreeMap<OwnerRef, HeldAccount>>,
    partitions: Option<BTreeMap<PartitionName, PartitionView>>,
    wake: BTreeMap<OwnerRef, Instant>,
    /// How far the removal of associations is.
    removals: RemovalProgress,
    heard: Heard,
    usage: Option<Usage>,
    /// The users of each account who had jobs when records were last read.
    busy: BTreeMap<AccountName, BTreeSet<UserName>>,
    usage_at: Instant,
    /// Device-time by account and QOS.
    used: BTreeMap<EntryKey, EntryUsage>,
    /// Accounts and QOS whose limit was lowered since records were read: running jobs may have reserved more.
    lowered: BTreeSet<EntryKey>,
    released: bool,
    /// The id of the claim that was given up: the hub may still expect it.
    given_up: Option<String>,
}

enum Event {
    Pass(u64, Box<Pass>),
    Usage(u64, Box<Usage>, Box<super::usage::Cycle>),
    PassPanicked,
    UsagePanicked,
}

impl SlurmDriver {
    fn new(core: Core<Self>) -> Self {
        let now = Instant::now();
        Self {
            core,
            own_config: OwnConfig::default(),
            trouble: None,
            dirty: BTreeSet::new(),
            dirty_at: None,
            gathering: None,
            resync_at: now,
            pause: AGAIN.0,
            passing: false,
            news: Arc::default(),
            plans: BTreeMap::new(),
            failures: BTreeMap::new(),
            held: None,
            partitions: None,
            wake: BTreeMap::new(),
            removals: RemovalProgress::default(),
            heard: Heard::default(),
            usage: Some(Usage::default()),
            busy: BTreeMap::new(),
            usage_at: now,
            used: BTreeMap::new(),
            lowered: BTreeSet::new(),
            released: false,
            given_up: None,
        }
    }

    /// Whether what the hub says now asks for another look at the claim, or for one that is not made yet.
    fn must_contact_again(&self, before: Option<&SiteIntent>, site: &SiteIntent) -> bool {
        match self.core.connection.session() {
            None => before.is_some_and(|before| {
                (before.recorded, before.release, &before.expected_uid, &before.accepted_uid)
                    != (site.recorded, site.release, &site.expected_uid, &site.accepted_uid)
            }),
            Some(session) => {
                let known = |id: &String| site.expected_uid.as_ref().is_none_or(|expected| expected == id) || site.accepted_uid.as_ref() == Some(id);
                match &session.contact.claim {
                    Some(claim) => !site.recorded || !known(claim),
                    None => !site.release,
                }
            }
        }
    }

    /// The site's own configuration; `None` while it was not read.
    fn config(&self) -> Option<SiteConfig> {
        let mut config = self.core.site.as_ref()?.config.clone()?;
        let own = self.own_config.known()?;
        for (key, value) in &own.policy {
            config.policy.entry(key.clone()).or_insert_with(|| value.clone());
        }
        for (member, user) in &own.users {
            config.users.entry(member.clone()).or_insert_with(|| user.clone());
        }
        Some(config)
    }

    /// A pass has panicked: everything is read again later.
    fn pass_panicked(&mut self) {
        self.passing = false;
        self.resync_at = Instant::now() + AGAIN.1;
        self.trouble = Some(Finding::stalled(Reason::InternalError, "the operator failed while working on Slurm; its log says where"));
    }

    fn usage_panicked(&mut self) {
        self.usage.get_or_insert_default();
        self.usage_at = Instant::now() + USAGE;
    }

    fn begin_pass(&mut self) {
        let now = Instant::now();
        let Some((site, session)) = self.core.site.as_ref().zip(self.core.connection.session()) else { return };
        if self.passing {
            return;
        }
        let woken: Vec<OwnerRef> = self.wake.iter().filter(|(_, at)| **at <= now).map(|(owner, _)| owner.clone()).collect();
        for owner in woken {
            self.wake.remove(&owner);
            self.dirty.insert(owner);
            self.dirty_at.get_or_insert(now);
        }
        let everything = self.resync_at <= now || self.held.is_none();
        if !everything && self.dirty_at.is_none_or(|at| at > now) {
            return;
        }
        self.passing = true;
        self.news.store(false, Ordering::Relaxed);
        self.dirty_at = None;
        self.gathering = None;
        let dirty = std::mem::take(&mut self.dirty);
        let scope = if everything {
            self.resync_at = now + RESYNC;
            Scope::Everything
        } else {
            Scope::Owners(dirty)
        };
        let claim = session.contact.claim.clone();
        let memory = Memory { ending: self.core.ending.clone(), busy: self.busy.clone(), removals: self.removals.clone(), heard: self.heard.clone() };
        let desired = DesiredSet { intents: self.core.intents.clone(), tombstones: self.core.gone.clone() };
        let pass = Pass::new(scope, site.clone(), desired, self.config(), memory, claim);
        let Some(id) = self.core.connection.id() else { return };
        let (client, news) = (session.client.clone(), Arc::clone(&self.news));
        self.core.spawn(Event::PassPanicked, async move { Event::Pass(id, Box::new(pass.run(&client, &news).await)) });
    }

    fn begin_usage(&mut self) {
        let Some((id, session)) = self.core.connection.id().zip(self.core.connection.session()) else { return };
        let Some(held) = self.held.as_ref().filter(|_| self.usage_due() <= Instant::now()) else { return };
        let Some(mut usage) = self.usage.take() else { return };
        // Since when something is there that does not say so is not known, and nobody asks what an orphan used.
        let dated = held.values().filter(|held| !held.record.is_unread());
        let since = dated.map(|held| (held.account.clone(), held.record.since)).collect();
        let cluster =
            self.core.site.as_ref().and_then(|site| site.slurm.as_ref()).map(|slurm| ClusterName::new(&slurm.cluster_name)).unwrap_or_default();
        let client = session.client.clone();
        self.core.spawn(Event::UsagePanicked, async move {
            let cycle = usage.cycle(&client, &cluster, &since, Timestamp::now()).await;
            Event::Usage(id, Box::new(usage), Box::new(cycle))
        });
    }

    /// When records are read next.
    fn usage_due(&self) -> Instant {
        let working = self.passing || self.dirty_at.is_some();
        self.usage_at + if working { USAGE_WAITS } else { Duration::ZERO }
    }
}
