//! The controller of one part of a site: it receives intents from the hub, keeps the connection, and calls its driver to plan and write.
//!
//! Kubernetes and Slurm are two drivers. The run loop, the handling of messages, the clock and the retries are here, once for both; everything that
//! waits for the site is spawned.

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
/// Capacity of the channel from the watches to the controller.
const OBSERVATIONS: usize = 1024;

/// What the controller needs of one kind of site.
pub trait Driver: Sized + Send + 'static {
    /// The state of a session, from contact until it is lost.
    type Session: Send;
    /// What a successful contact returns, from which a session is made.
    type Found: Send + 'static;
    /// Why contact failed, with what is known of the site all the same.
    type NoContact: Send + 'static;
    /// What is read from the Secret beside the credential.
    type Beside: Send + 'static;
    /// An event of a session's watches.
    type Observation: Send + 'static;
    /// Result of a task that the driver has spawned.
    type Event: Send + 'static;

    /// The state that the driver shares with its controller.
    fn core(&mut self) -> &mut Core<Self>;

    /// Reads which credential is there, and what is beside it.
    fn look(&mut self) -> BoxFuture<'static, (Look, Self::Beside)>;
    /// Handles what was read beside the credential.
    fn on_look(&mut self, beside: Self::Beside);
    /// Makes contact with the site of this intent.
    fn connect(&mut self, site: SiteIntent) -> BoxFuture<'static, Result<Self::Found, Self::NoContact>>;
    /// Handles a failed contact; returns the problem to report.
    fn on_no_contact(&mut self, no_contact: Self::NoContact) -> Finding;
    /// Begins the session of this number, which was made with the credential of this fingerprint.
    fn begin(&mut self, session: u64, site: &SiteIntent, found: Self::Found) -> (Self::Session, Fingerprint);
    /// Asks whether the site still answers.
    fn probe(session: &Self::Session) -> BoxFuture<'static, Result<(), Finding>>;
    /// Handles a change of the connection.
    fn on_transition(&mut self, transition: Transition<Self::Session>);

    /// Corrects the hub's intent for the site by what the site has reported since.
    fn correct(&self, site: SiteIntent) -> SiteIntent {
        site
    }
    /// Handles a new intent for the site; `before` is the last one.
    fn on_site(&mut self, before: Option<SiteIntent>) -> Contact;
    /// Handles a new intent for a pool or grant; `before` is the last one.
    fn on_intent(&mut self, owner: OwnerRef, before: Option<Arc<Intent>>);
    /// Handles a withdrawal: the site is not to act on a pool or grant any more, and what it holds stays.
    fn on_withdrawn(&mut self, owner: OwnerRef);
    /// Handles a tombstone: a pool or grant is gone from the hub.
    fn on_tombstone(&mut self, owner: OwnerRef);

    /// Handles an event of the session's watches.
    fn on_observation(&mut self, observation: Self::Observation);
    /// Handles the end of a task that the driver has spawned, also where it panicked.
    fn on_event(&mut self, event: Self::Event);
    /// Starts the work that is due.
    fn dispatch(&mut self, now: Instant);
    /// Sends reports to the hub about what has changed.
    fn report(&mut self, now: Instant);
    /// When something is due next.
    fn deadline(&mut self, now: Instant) -> Option<Instant>;
}

/// What happens to the connection after a new intent for the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Nothing.
    Keep,
    /// A contact that waits or is under way starts over.
    Retry,
    /// The session ends, and contact is made again.
    Again,
    /// The intent is about another cluster: everything starts over.
    Restart,
}

/// The state that a driver shares with its controller.
pub struct Core<D: Driver> {
    /// The part of a site.
    pub key: SiteKey,
    /// Where its credential is.
    pub source: CredentialSource,
    /// Reads credentials.
    pub reader: CredentialReader,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The last intent for the site.
    pub site: Option<SiteIntent>,
    /// The last intent for each pool and grant.
    pub intents: BTreeMap<OwnerRef, Arc<Intent>>,
    /// Tombstones: pools and grants that are gone from the hub.
    pub gone: BTreeSet<OwnerRef>,
    /// The last intents of grants that were deleted from the hub while they were being ended here: each is planned from that until it has ended.
    pub ending: BTreeMap<OwnerRef, Arc<Intent>>,
    /// The connection to the site.
    pub connection: Connection<D::Session>,
    hub: WorkerSender,
    reported: BTreeMap<OwnerRef, Report>,
    site_reported: Option<SiteReport>,
    tasks: Tasks<Event<D>>,
    watches: mpsc::Sender<(u64, D::Observation)>,
    observations: Option<mpsc::Receiver<(u64, D::Observation)>>,
}

/// Result of a spawned task.
enum Event<D: Driver> {
    Looked(Look, D::Beside),
    Contact(u64, Result<D::Found, D::NoContact>),
    Probed(u64, Result<(), Finding>),
    Panicked(Task),
    Own(D::Event),
}

impl<D: Driver> Core<D> {
    /// The shared state for this part.
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
            ending: BTreeMap::new(),
            hub,
            reported: BTreeMap::new(),
            site_reported: None,
            tasks: Tasks::default(),
            watches,
            observations: Some(observations),
        }
    }

    /// Where the watches of a session send their events, each with the session's number.
    pub fn watches(&self) -> mpsc::Sender<(u64, D::Observation)> {
        self.watches.clone()
    }

    /// Spawns a task; where it panics its result is `panicked`.
    pub fn spawn(&mut self, panicked: D::Event, work: impl Future<Output = D::Event> + Send + 'static) {
        self.tasks.spawn(Event::Own(panicked), async move { Event::Own(work.await) });
    }

    /// Sends a report about a pool or grant unless it equals the last one; returns whether it was sent.
    pub fn send_report(&mut self, report: Report) -> bool {
        let new = self.reported.get(&report.owner) != Some(&report);
        if new {
            self.reported.insert(report.owner.clone(), report.clone());
            self.hub.send(FromSite::About(Box::new(report)));
        }
        new
    }

    /// The last report about a pool or grant.
    pub fn reported(&self, owner: &OwnerRef) -> Option<&Report> {
        self.reported.get(owner)
    }

    /// The last report about the site.
    pub fn site_reported(&self) -> Option<&SiteReport> {
        self.site_reported.as_ref()
    }

    /// Sends a report about the site unless it equals the last one.
    pub fn send_site_report(&mut self, report: SiteReport) {
        if self.site_reported.as_ref() != Some(&report) {
            self.site_reported = Some(report.clone());
            self.hub.send(FromSite::Site(Box::new(report)));
        }
    }

    /// Sends changes of what the site holds, and applies them to the last report about the site.
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

/// Starts the controller of a driver; it ends when the sender is dropped. Where it panics, it sends `Died`, and the hub starts another.
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

/// Handles a message of the hub. The shared state is updated before the driver is called.
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
            apply_transition(driver, transition);
        }
    }
}

fn put<D: Driver>(driver: &mut D, intent: Arc<Intent>) {
    let owner = intent.owner.clone();
    let core = driver.core();
    core.gone.remove(&owner);
    core.ending.remove(&owner);
    let before = core.intents.insert(owner.clone(), intent);
    driver.on_intent(owner, before);
}

fn withdraw<D: Driver>(driver: &mut D, owner: OwnerRef) {
    let core = driver.core();
    core.intents.remove(&owner);
    core.reported.remove(&owner);
    driver.on_withdrawn(owner);
}

/// The tombstone is kept until the hub drops it, since the site may hold something of the resource that was not seen yet.
fn add_tombstone<D: Driver>(driver: &mut D, owner: OwnerRef) {
    let core = driver.core();
    let before = core.intents.remove(&owner);
    core.reported.remove(&owner);
    core.gone.insert(owner.clone());
    if let Some(intent) = before.filter(|intent| intent.ended_grant().is_some()) {
        core.ending.insert(owner.clone(), intent);
    }
    driver.on_tombstone(owner);
}

/// Replaces the desired set; each difference is handled like a message of its own.
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

/// Starts the tasks that are due for the connection.
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
        driver.on_observation(observation);
    }
}

fn ended_task<D: Driver>(driver: &mut D, ended: Ended<Event<D>>) {
    if ended.panicked {
        let core = driver.core();
        tracing::error!(site = %core.key, "A task at the site panicked; it is tried again");
        core.metrics.task_panicked(ProcessTask::SiteTask);
    }
    handle_event(driver, ended.event);
}

fn handle_event<D: Driver>(driver: &mut D, event: Event<D>) {
    let now = Now::read();
    let transition = match event {
        Event::Own(event) => return driver.on_event(event),
        Event::Looked(look, beside) => {
            driver.on_look(beside);
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
            let problem = driver.on_no_contact(no_contact);
            driver.core().connection.failed(contact, problem, now.instant)
        }
        Event::Probed(session, result) => driver.core().connection.probed(session, result, now),
        Event::Panicked(task) => driver.core().connection.task_panicked(task, now.instant),
    };
    apply_transition(driver, transition);
}

/// Ends the session or the contact that is being made; makes contact again.
pub fn disconnect<D: Driver>(driver: &mut D, problem: Option<Finding>) {
    let transition = driver.core().connection.disconnect(problem, Instant::now());
    apply_transition(driver, transition);
}

fn apply_transition<D: Driver>(driver: &mut D, transition: Transition<D::Session>) {
    if !matches!(transition, Transition::Unchanged) {
        driver.on_transition(transition);
    }
}
