//! The worker of one site's Slurm: an actor that owns the intents and what was read, decides in one place, and leaves waiting to tasks.
//!
//! Slurm tells nobody what changes, so the worker looks: at what an intent concerns as soon as the hub says it, at everything every [`RESYNC`].

mod own_word;
mod reports;
mod session;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::{AccountPlan, HeldAccount, Leaving};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::{Body, Intent, SiteIntent, SiteWord};
use aifactory_plan::model::report::{EntryUsage, Finding, Report, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::SlurmClient;
use super::contact::Contact;
use super::read::PartitionView;
use super::usage::Usage;
use crate::credential::reader::CredentialReader;
use crate::site::clock::Now;
use crate::site::connection::{Connection, PROBE_LIMIT, Task, Transition};
use crate::site::tasks::{Tasks, within};
use crate::telemetry::metrics::Metrics;
use crate::transport::{DesiredSet, ToSite, WorkerSender};
use own_word::OwnWord;
use session::{Made, Seen};
use sync::{Pass, Scope};

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

/// Starts the worker; it ends when the sender is dropped.
pub fn start(
    key: SiteKey,
    source: CredentialSource,
    reader: CredentialReader,
    hub: WorkerSender,
    metrics: Arc<Metrics>,
) -> mpsc::UnboundedSender<ToSite> {
    let (sender, inbox) = mpsc::unbounded_channel();
    crate::supervise::worker(metrics.clone(), hub.clone(), Worker::new(key, source, reader, hub, metrics).run(inbox));
    sender
}

struct Worker {
    key: SiteKey,
    source: CredentialSource,
    reader: CredentialReader,
    hub: WorkerSender,
    metrics: Arc<Metrics>,
    site: Option<SiteIntent>,
    own_word: OwnWord,
    intents: BTreeMap<OwnerRef, Arc<Intent>>,
    /// Owners that are in none of the hub's caches.
    gone: BTreeSet<OwnerRef>,
    connection: Connection<Session>,
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
    partitions: Option<BTreeMap<String, PartitionView>>,
    wake: BTreeMap<OwnerRef, Instant>,
    /// How far the removal of associations is.
    leaving: Leaving,
    usage: Option<Usage>,
    /// The users of each account who had jobs when records were last read.
    busy: BTreeMap<String, BTreeSet<String>>,
    usage_at: Instant,
    /// Device-time by account and QOS.
    used: BTreeMap<(String, String), EntryUsage>,
    /// Accounts and QOS whose limit was lowered since records were read: running jobs may have reserved more.
    lowered: BTreeSet<(String, String)>,
    reported: BTreeMap<OwnerRef, Report>,
    site_reported: Option<SiteReport>,
    released: bool,
    /// The id of the claim that was given up: the hub may still expect it.
    given_up: Option<String>,
    tasks: Tasks<Event>,
}

struct Session {
    client: SlurmClient,
    contact: Contact,
    expires: Option<Timestamp>,
}

enum Event {
    Look(Box<Seen>),
    Contact(u64, Box<Result<Made, Finding>>),
    Probe(u64, Result<(), Finding>),
    Pass(u64, Box<Pass>),
    Usage(u64, Box<Usage>, Box<super::usage::Cycle>),
    Panicked(Work),
}

/// Work whose panic is repaired by trying it again.
#[derive(Clone, Copy)]
enum Work {
    Connection(Task),
    Pass,
    Usage,
}

impl Worker {
    fn new(key: SiteKey, source: CredentialSource, reader: CredentialReader, hub: WorkerSender, metrics: Arc<Metrics>) -> Self {
        let now = Instant::now();
        Self {
            connection: Connection::new(key.to_string(), matches!(source, CredentialSource::Secret { .. })),
            key,
            source,
            reader,
            hub,
            metrics,
            site: None,
            own_word: OwnWord::default(),
            intents: BTreeMap::new(),
            gone: BTreeSet::new(),
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
            leaving: Leaving::default(),
            usage: Some(Usage::default()),
            busy: BTreeMap::new(),
            usage_at: now,
            used: BTreeMap::new(),
            lowered: BTreeSet::new(),
            reported: BTreeMap::new(),
            site_reported: None,
            released: false,
            given_up: None,
            tasks: Tasks::default(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<ToSite>) {
        loop {
            self.attend();
            self.begin_pass();
            self.begin_usage();
            self.report_site();
            let deadline = self.deadline();
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => {
                        self.told(message);
                        while let Ok(message) = inbox.try_recv() {
                            self.told(message);
                        }
                    }
                    None => return,
                },
                event = self.tasks.next() => self.happened(event),
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    fn deadline(&self) -> Instant {
        let mut at = Instant::now() + Duration::from_secs(3600);
        let mut sooner = |other: Option<Instant>| at = other.map_or(at, |other| at.min(other));
        if self.site.is_none() {
            return at;
        }
        sooner(self.connection.deadline());
        if self.connection.session().is_some() {
            sooner(self.dirty_at.filter(|_| !self.passing));
            sooner(Some(self.resync_at).filter(|_| !self.passing));
            sooner(self.wake.values().min().copied().filter(|_| !self.passing));
            sooner(Some(self.usage_due()).filter(|_| self.usage.is_some() && self.held.is_some()));
        }
        at
    }

    fn told(&mut self, message: ToSite) {
        match message {
            ToSite::Site(mut site) => {
                site.expected_uid = site.expected_uid.filter(|id| self.given_up.as_ref() != Some(id));
                if self.site.as_ref() == Some(&*site) {
                    return;
                }
                let rest = |site: Option<&SiteIntent>| site.and_then(|site| site.slurm.clone()).map(|slurm| (slurm.cluster_name, slurm.rest));
                if rest(self.site.as_ref()) != rest(Some(&site)) {
                    let transition = self.connection.restart(Instant::now());
                    self.moved(transition);
                }
                if self.must_contact_again(&site) {
                    self.connection.retry_now(Instant::now());
                    self.disconnect(None);
                }
                self.released &= site.release;
                self.site = Some(*site);
                self.resync_at = Instant::now();
            }
            ToSite::Put(intent) => {
                let owner = intent.owner.clone();
                self.gone.remove(&owner);
                let urgent = intent.takes_access(self.intents.get(&owner).map(AsRef::as_ref));
                let known = self.intents.insert(owner.clone(), intent).is_some();
                match owner.kind {
                    Kind::AccessGrant => {
                        self.dirty.insert(owner);
                        // New grants wait for the end of a pass, and go together then.
                        self.news.fetch_or(known || urgent, Ordering::Relaxed);
                        let now = Instant::now();
                        let since = *self.gathering.get_or_insert(now);
                        if urgent {
                            self.dirty_at = Some(now);
                        } else if self.dirty_at.is_none_or(|at| at > now) {
                            self.dirty_at = Some((now + GATHER.0).min(since + GATHER.1));
                        }
                    }
                    Kind::GPUPool | Kind::AIFactory => self.report_pool(&owner),
                }
            }
            ToSite::Withdraw(owner) => {
                self.intents.remove(&owner);
                self.reported.remove(&owner);
                self.plans.remove(&owner);
                self.failures.remove(&owner);
                self.wake.remove(&owner);
            }
            ToSite::Everything(set) => {
                let DesiredSet { intents, tombstones } = *set;
                let withdrawn: Vec<OwnerRef> = self.intents.keys().filter(|owner| !intents.contains_key(*owner)).cloned().collect();
                withdrawn.into_iter().for_each(|owner| self.told(ToSite::Withdraw(owner)));
                for (owner, intent) in intents {
                    if self.intents.get(&owner) != Some(&intent) {
                        self.told(ToSite::Put(intent));
                    }
                }
                self.gone.retain(|owner| tombstones.contains(owner));
                for owner in tombstones {
                    if !self.gone.contains(&owner) {
                        self.told(ToSite::Gone(owner));
                    }
                }
            }
            ToSite::Gone(owner) => {
                self.intents.remove(&owner);
                self.reported.remove(&owner);
                self.plans.remove(&owner);
                self.failures.remove(&owner);
                self.wake.remove(&owner);
                // Something of it may be there again later, from a backup of the database.
                self.gone.insert(owner.clone());
                if self.held.as_ref().is_none_or(|held| held.contains_key(&owner)) {
                    self.dirty.insert(owner);
                    self.news.store(true, Ordering::Relaxed);
                    self.dirty_at = Some(Instant::now());
                }
            }
        }
    }

    /// Whether what the hub says now asks for another look at the claim, or for one that is not made yet.
    fn must_contact_again(&self, site: &SiteIntent) -> bool {
        match self.connection.session() {
            None => self.site.as_ref().is_some_and(|before| {
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

    /// The site's own word; `None` while it was not read.
    fn word(&self) -> Option<SiteWord> {
        let mut word = self.site.as_ref()?.word.clone()?;
        let own = self.own_word.known()?;
        for (from, to) in [(&own.policy, &mut word.policy), (&own.users, &mut word.users)] {
            for (key, value) in from {
                to.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Some(word)
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Look(seen) => self.looked(*seen),
            Event::Contact(contact, result) => self.contacted(contact, *result),
            Event::Probe(session, result) => {
                let transition = self.connection.probed(session, result, Now::read());
                self.moved(transition);
            }
            Event::Pass(session, pass) => self.passed(session, *pass),
            Event::Usage(session, usage, cycle) => self.counted(session, *usage, *cycle),
            Event::Panicked(work) => self.panicked(work),
        }
    }

    /// A task has panicked: its work is tried again later.
    fn panicked(&mut self, work: Work) {
        tracing::error!(site = %self.key, "The work on Slurm panicked");
        self.metrics.panicked(Kind::AccessGrant);
        let now = Instant::now();
        match work {
            Work::Connection(task) => {
                let transition = self.connection.task_panicked(task, now);
                self.moved(transition);
            }
            Work::Pass => {
                self.passing = false;
                self.resync_at = now + AGAIN.1;
                self.trouble = Some(Finding::stalled(Reason::InternalError, "the operator failed while working on Slurm; its log says where"));
            }
            Work::Usage => {
                self.usage.get_or_insert_default();
                self.usage_at = now + USAGE;
            }
        }
    }

    fn begin_pass(&mut self) {
        let now = Instant::now();
        let Some((site, session)) = self.site.as_ref().zip(self.connection.session()) else { return };
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
        let pass =
            Pass::new(scope, site.clone(), self.intents.clone(), self.gone.clone(), self.word(), self.busy.clone(), self.leaving.clone(), claim);
        let Some(id) = self.connection.id() else { return };
        let (client, news) = (session.client.clone(), Arc::clone(&self.news));
        self.tasks.spawn(Event::Panicked(Work::Pass), async move { Event::Pass(id, Box::new(pass.run(&client, &news).await)) });
    }

    fn begin_usage(&mut self) {
        let Some((id, session)) = self.connection.id().zip(self.connection.session()) else { return };
        let Some(held) = self.held.as_ref().filter(|_| self.usage_due() <= Instant::now()) else { return };
        let Some(mut usage) = self.usage.take() else { return };
        let since = held.values().map(|held| (held.account.clone(), held.record.since)).collect();
        let cluster = self.site.as_ref().and_then(|site| site.slurm.as_ref()).map(|slurm| slurm.cluster_name.clone()).unwrap_or_default();
        let client = session.client.clone();
        self.tasks.spawn(Event::Panicked(Work::Usage), async move {
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
