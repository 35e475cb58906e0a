//! The controller of one part of a site: an actor that receives what the hub wants, keeps the connection, and lets its driver decide and write.
//!
//! Kubernetes and Slurm are two drivers. The controller has the one run loop, the one handling of messages, the one clock and the one retry of
//! both; waiting is left to tasks.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::OwnerRef;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::{Intent, SiteIntent};
use aifactory_plan::model::report::{Finding, HeldChange, Report, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::clock::Now;
use super::connection::{Connection, PROBE_LIMIT, Task, Transition};
use super::tasks::{Ended, Tasks, within};
use crate::credential::Fingerprint;
use crate::credential::reader::{CredentialReader, Look};
use crate::supervise;
use crate::telemetry::metrics::{Metrics, ProcessTask};
use crate::transport::{DesiredSet, FromSite, SiteSender, ToSite, WorkerSender};

/// The longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// What the watches of a site may have seen before the controller takes it.
const OBSERVATIONS: usize = 1024;

/// What is done at one kind of site.
pub trait Driver: Sized + Send + 'static {
    /// What a session has, from contact until it is lost.
    type Session: Send;
    /// What contact found, from which a session is made.
    type Found: Send + 'static;
    /// Why contact did not come about, and what was learnt all the same.
    type NoContact: Send + 'static;
    /// What is read beside the credential.
    type Beside: Send + 'static;
    /// What the watches of a session see.
    type Observation: Send + 'static;
    /// How a task of the driver's own ends.
    type Event: Send + 'static;

    /// What the driver shares with its controller.
    fn core(&mut self) -> &mut Core<Self>;

    /// Looks which credential is there, and what is beside it.
    fn look(&mut self) -> BoxFuture<'static, (Look, Self::Beside)>;
    /// Takes what was seen beside the credential.
    fn looked(&mut self, beside: Self::Beside);
    /// Makes contact with the site of which the hub has said this last.
    fn connect(&mut self, site: SiteIntent) -> BoxFuture<'static, Result<Self::Found, Self::NoContact>>;
    /// Takes what was learnt where contact did not come about.
    fn no_contact(&mut self, no_contact: Self::NoContact) -> Finding;
    /// Begins the session of this number, which was made with the credential of this fingerprint.
    fn begin(&mut self, session: u64, site: &SiteIntent, found: Self::Found) -> (Self::Session, Fingerprint);
    /// Asks whether the site still answers.
    fn probe(session: &Self::Session) -> BoxFuture<'static, Result<(), Finding>>;
    /// Takes note of what has become of the connection.
    fn moved(&mut self, transition: Transition<Self::Session>);

    /// Corrects what the hub says of the site by what the site has said since.
    fn correct(&self, site: SiteIntent) -> SiteIntent {
        site
    }
    /// The hub says something new of the site; `before` is what it said last.
    fn on_site(&mut self, before: Option<SiteIntent>) -> Contact;
    /// A pool or grant is wanted, otherwise than before.
    fn on_intent(&mut self, owner: OwnerRef, before: Option<Arc<Intent>>);
    /// Nothing is wanted of a pool or grant any more, nor is it to be taken away.
    fn on_withdrawn(&mut self, owner: OwnerRef);
    /// A pool or grant is gone from the hub; `before` is what was wanted of it last.
    fn on_tombstone(&mut self, owner: OwnerRef, before: Option<Arc<Intent>>);

    /// Takes what a watch of the session has seen.
    fn observed(&mut self, observation: Self::Observation);
    /// Takes the end of a task of the driver's own, a panic as well.
    fn happened(&mut self, event: Self::Event);
    /// Begins what is due.
    fn dispatch(&mut self, now: Instant);
    /// Tells the hub what is new.
    fn report(&mut self, now: Instant);
    /// When something is due next.
    fn deadline(&mut self, now: Instant) -> Option<Instant>;
}

/// What a driver wants done with the connection after news of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Nothing.
    Keep,
    /// A contact that waits or is under way is made anew.
    Retry,
    /// The session ends as well.
    Again,
    /// Another site is meant.
    Restart,
}

/// What a driver shares with its controller.
pub struct Core<D: Driver> {
    /// The part of a site.
    pub key: SiteKey,
    /// Where its credential is.
    pub source: CredentialSource,
    /// Reads credentials.
    pub reader: CredentialReader,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What the hub has said of the site last.
    pub site: Option<SiteIntent>,
    /// What is wanted of each pool and grant.
    pub intents: BTreeMap<OwnerRef, Arc<Intent>>,
    /// Pools and grants that are gone from the hub.
    pub gone: BTreeSet<OwnerRef>,
    /// The connection to the site.
    pub connection: Connection<D::Session>,
    hub: WorkerSender,
    reported: BTreeMap<OwnerRef, Report>,
    site_reported: Option<SiteReport>,
    tasks: Tasks<Event<D>>,
    watches: mpsc::Sender<(u64, D::Observation)>,
    observations: Option<mpsc::Receiver<(u64, D::Observation)>>,
}

/// How a task has ended.
enum Event<D: Driver> {
    Looked(Look, D::Beside),
    Contact(u64, Result<D::Found, D::NoContact>),
    Probed(u64, Result<(), Finding>),
    Panicked(Task),
    Own(D::Event),
}

impl<D: Driver> Core<D> {
    /// What is shared by the controller of this part and its driver.
    pub fn new(key: SiteKey, source: CredentialSource, reader: CredentialReader, hub: WorkerSender, metrics: Arc<Metrics>) -> Self {
        let (watches, observations) = mpsc::channel(OBSERVATIONS);
        Self {
            connection: Connection::new(key.to_string(), matches!(source, CredentialSource::Secret { .. })),
            key,
            source,
            reader,
            metrics,
            site: None,
            intents: BTreeMap::new(),
            gone: BTreeSet::new(),
            hub,
            reported: BTreeMap::new(),
            site_reported: None,
            tasks: Tasks::default(),
            watches,
            observations: Some(observations),
        }
    }

    /// Where the watches of a session send what they see, each with the session's number.
    pub fn watches(&self) -> mpsc::Sender<(u64, D::Observation)> {
        self.watches.clone()
    }

    /// Begins a task, which ends with `panicked` where it panics.
    pub fn spawn(&mut self, panicked: D::Event, work: impl Future<Output = D::Event> + Send + 'static) {
        self.tasks.spawn(Event::Own(panicked), async move { Event::Own(work.await) });
    }

    /// Tells the hub of a pool or grant, unless it knows that already; says whether it was told.
    pub fn send_report(&mut self, report: Report) -> bool {
        let new = self.reported.get(&report.owner) != Some(&report);
        if new {
            self.reported.insert(report.owner.clone(), report.clone());
            self.hub.send(FromSite::About(Box::new(report)));
        }
        new
    }

    /// What the hub was told of the site last.
    pub fn site_reported(&self) -> Option<&SiteReport> {
        self.site_reported.as_ref()
    }

    /// Tells the hub of the site, unless it knows that already.
    pub fn send_site_report(&mut self, report: SiteReport) {
        if self.site_reported.as_ref() != Some(&report) {
            self.site_reported = Some(report.clone());
            self.hub.send(FromSite::Site(Box::new(report)));
        }
    }

    /// Reports what is held otherwise than was reported of the site last.
    pub fn send_held_changes(&mut self, changes: Vec<HeldChange>) {
        if let Some(report) = &mut self.site_reported
            && !changes.is_empty()
        {
            report.apply(&changes);
            self.hub.send(FromSite::Held(changes));
        }
    }

    fn spawn_for_connection(&mut self, task: Task, work: impl Future<Output = Event<D>> + Send + 'static) -> AbortHandle {
        self.tasks.spawn(Event::Panicked(task), work)
    }
}

/// Starts the controller of a driver; it ends when the sender is dropped. Where it panics, the hub hears of it and starts another.
pub fn start<D: Driver>(mut driver: D) -> SiteSender {
    let (sender, inbox) = mpsc::unbounded_channel();
    let core = driver.core();
    let (metrics, hub) = (core.metrics.clone(), core.hub.clone());
    supervise::worker(metrics, hub, run(driver, inbox));
    sender
}

/// Runs the controller until its inbox ends.
pub(super) async fn run<D: Driver>(mut driver: D, mut inbox: mpsc::UnboundedReceiver<ToSite>) {
    let driver = &mut driver;
    let Some(mut observations) = driver.core().observations.take() else { return };
    loop {
        let now = Instant::now();
        begin_due(driver, now);
        driver.dispatch(now);
        driver.report(now);
        let deadline = deadline(driver, now);
        tokio::select! {
            message = inbox.recv() => match message {
                Some(message) => receive_all(driver, message, &mut inbox),
                None => return,
            },
            Some((session, observation)) = observations.recv() => {
                observe(driver, session, observation);
                while let Ok((session, observation)) = observations.try_recv() {
                    observe(driver, session, observation);
                }
            }
            ended = driver.core().tasks.next() => ended_task(driver, ended),
            () = sleep_until(deadline) => {}
        }
    }
}

/// When something is due next.
fn deadline<D: Driver>(driver: &mut D, now: Instant) -> Instant {
    let own = driver.deadline(now);
    let connection = driver.core().connection.deadline();
    own.into_iter().chain(connection).min().unwrap_or(now + LONGEST_SLEEP)
}

fn receive_all<D: Driver>(driver: &mut D, first: ToSite, inbox: &mut mpsc::UnboundedReceiver<ToSite>) {
    receive(driver, first);
    while let Ok(message) = inbox.try_recv() {
        receive(driver, message);
    }
}

/// Takes what the hub says. What is wanted is stored before the driver hears of it.
pub(super) fn receive<D: Driver>(driver: &mut D, message: ToSite) {
    match message {
        ToSite::Site(site) => receive_site(driver, *site),
        ToSite::Put(intent) => put(driver, intent),
        ToSite::Withdraw(owner) => withdraw(driver, owner),
        ToSite::Gone(owner) => add_tombstone(driver, owner),
        ToSite::Everything(set) => replace(driver, *set),
    }
}

fn receive_site<D: Driver>(driver: &mut D, site: SiteIntent) {
    let site = driver.correct(site);
    let core = driver.core();
    if core.site.as_ref() == Some(&site) {
        return;
    }
    let before = core.site.replace(site);
    core.connection.begin(Instant::now());
    match driver.on_site(before) {
        Contact::Keep => {}
        Contact::Retry => driver.core().connection.retry_now(Instant::now()),
        Contact::Again => {
            driver.core().connection.retry_now(Instant::now());
            disconnect(driver, None);
        }
        Contact::Restart => {
            let transition = driver.core().connection.restart(Instant::now());
            moved(driver, transition);
        }
    }
}

fn put<D: Driver>(driver: &mut D, intent: Arc<Intent>) {
    let owner = intent.owner.clone();
    let core = driver.core();
    core.gone.remove(&owner);
    let before = core.intents.insert(owner.clone(), intent);
    driver.on_intent(owner, before);
}

fn withdraw<D: Driver>(driver: &mut D, owner: OwnerRef) {
    let core = driver.core();
    core.intents.remove(&owner);
    core.reported.remove(&owner);
    driver.on_withdrawn(owner);
}

/// The site may hold something of what is gone that was not seen yet, so the tombstone is kept until the hub knows better.
fn add_tombstone<D: Driver>(driver: &mut D, owner: OwnerRef) {
    let core = driver.core();
    let before = core.intents.remove(&owner);
    core.reported.remove(&owner);
    core.gone.insert(owner.clone());
    driver.on_tombstone(owner, before);
}

/// Takes the whole desired set; what is new in it is handled as if it were told alone.
fn replace<D: Driver>(driver: &mut D, set: DesiredSet) {
    let DesiredSet { intents, tombstones } = set;
    let core = driver.core();
    let stale = |owner: &&OwnerRef| !intents.contains_key(*owner) && !tombstones.contains(*owner);
    let withdrawn: Vec<OwnerRef> = core.intents.keys().filter(stale).cloned().collect();
    core.gone.retain(|owner| tombstones.contains(owner));
    let added: Vec<OwnerRef> = tombstones.iter().filter(|owner| !core.gone.contains(*owner)).cloned().collect();
    withdrawn.into_iter().for_each(|owner| withdraw(driver, owner));
    added.into_iter().for_each(|owner| add_tombstone(driver, owner));
    for (owner, intent) in intents {
        if driver.core().intents.get(&owner) != Some(&intent) {
            put(driver, intent);
        }
    }
}

/// Begins what is due for the connection.
fn begin_due<D: Driver>(driver: &mut D, now: Instant) {
    for task in driver.core().connection.due(now) {
        match task {
            Task::Look => {
                let look = driver.look();
                driver.core().spawn_for_connection(task, async move {
                    let (look, beside) = look.await;
                    Event::Looked(look, beside)
                });
            }
            Task::Contact(contact) => {
                let Some(site) = driver.core().site.clone() else { continue };
                let found = driver.connect(site);
                let handle = driver.core().spawn_for_connection(task, async move { Event::Contact(contact, found.await) });
                driver.core().connection.contacting(contact, handle);
            }
            Task::Probe(session) => {
                let Some(answer) = driver.core().connection.session().map(D::probe) else { continue };
                driver.core().spawn_for_connection(task, async move { Event::Probed(session, within(PROBE_LIMIT, answer).await) });
            }
        }
    }
}

fn observe<D: Driver>(driver: &mut D, session: u64, observation: D::Observation) {
    if driver.core().connection.is(session) {
        driver.observed(observation);
    }
}

fn ended_task<D: Driver>(driver: &mut D, ended: Ended<Event<D>>) {
    if ended.panicked {
        let core = driver.core();
        tracing::error!(site = %core.key, "A task at the site panicked; it is tried again");
        core.metrics.task_panicked(ProcessTask::SiteTask);
    }
    happened(driver, ended.event);
}

fn happened<D: Driver>(driver: &mut D, event: Event<D>) {
    let now = Now::read();
    let transition = match event {
        Event::Own(event) => return driver.happened(event),
        Event::Looked(look, beside) => {
            driver.looked(beside);
            let core = driver.core();
            core.connection.looked(look.fingerprint(&core.source), look.read_at, now.instant)
        }
        Event::Contact(contact, _) if !driver.core().connection.awaits(contact) => return,
        Event::Contact(contact, Ok(found)) => {
            let Some(site) = driver.core().site.clone() else { return };
            let (session, fingerprint) = driver.begin(contact, &site, found);
            driver.core().connection.connected(contact, session, Some(fingerprint), now)
        }
        Event::Contact(contact, Err(no_contact)) => {
            let problem = driver.no_contact(no_contact);
            driver.core().connection.failed(contact, problem, now.instant)
        }
        Event::Probed(session, result) => driver.core().connection.probed(session, result, now),
        Event::Panicked(task) => driver.core().connection.task_panicked(task, now.instant),
    };
    moved(driver, transition);
}

/// Ends the session or the contact that is being made; contact is made anew.
pub fn disconnect<D: Driver>(driver: &mut D, problem: Option<Finding>) {
    let transition = driver.core().connection.disconnect(problem, Instant::now());
    moved(driver, transition);
}

fn moved<D: Driver>(driver: &mut D, transition: Transition<D::Session>) {
    if !matches!(transition, Transition::Unchanged) {
        driver.moved(transition);
    }
}
