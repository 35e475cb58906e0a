//! The event loop: a hub, an operator that may be killed, sites, and the links between them, on one virtual clock.

use std::collections::{BTreeMap, VecDeque};

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::hub::known_sites::KnownSites;
use aifactory_plan::model::freshness::Moment;
use aifactory_plan::model::plan::{Action, Purpose, Step};
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::site_key::{Part, SiteKey};

use super::cast::{self, SITES};
use super::clock::{Ms, SECOND, START};
use super::controller::{self, Controller, WorkerId};
use super::hub_store::{self, HubEvent, HubStore, Resource, Write};
use super::oracle::Watchman;
use super::site_store::{self, Deletion, Observation, Refused, STREAMS, SiteStore, Stream};
use super::slurm_site::Round;
use super::slurm_worker::SlurmWorker;
use super::worker::{self, Failure, FromSite, Outcome, ToSite, Worker};
use crate::slurm::Cluster;

/// Events between two operations; more is a loop.
pub const BUSY: usize = 20_000;

/// How a site is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Up,
    Down,
    /// Requests arrive, answers are lost.
    Mute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Hub,
    Worker(WorkerId),
    Slurm(WorkerId),
}

pub enum Event {
    SlurmContact(WorkerId),
    SlurmRound(WorkerId, u64, usize),
    SlurmCall(Box<Round>),
    Work(Who),
    HubWatch(u64, HubEvent),
    HubListed(u64, Kind, Vec<HubEvent>),
    HubWrite(u64, OwnerRef, String, Write, Moment),
    HubWritten(u64, OwnerRef, Moment, Option<Resource>, bool),
    HubStore(u64, KnownSites),
    HubStored(u64, KnownSites),
    ToSite(WorkerId, ToSite),
    FromSite(u64, SiteKey, WorkerId, FromSite),
    Contact(WorkerId),
    Lost(usize, u64),
    SiteWatch(WorkerId, u64, Observation),
    List(WorkerId, u64, Stream),
    Listed(WorkerId, u64, Stream, Vec<Observation>),
    Act(Box<Execution>),
    Executed(WorkerId, u64, Moment, OwnerRef, Outcome),
    Released(WorkerId, u64),
    Terminated(usize),
    Start,
}

/// A plan's steps on their way.
pub struct Execution {
    worker: WorkerId,
    session: u64,
    moment: Moment,
    owner: OwnerRef,
    site: usize,
    steps: VecDeque<Step>,
    /// Actions of the first step that were asked already.
    asked: usize,
    failed: bool,
    outcome: Outcome,
}

/// A watch of a worker: from when on it shows what changes, and when it showed something last.
struct Flow {
    session: u64,
    last: Ms,
}

/// The whole world.
pub struct Sim {
    pub now: Ms,
    events: BTreeMap<(Ms, u64), Event>,
    sequence: u64,
    wakes: BTreeMap<Who, Ms>,
    pub hub: HubStore,
    pub controller: Option<Controller>,
    incarnations: u64,
    pub workers: BTreeMap<WorkerId, Worker>,
    pub slurm_workers: BTreeMap<WorkerId, SlurmWorker>,
    pub slurm: Cluster,
    flows: BTreeMap<(WorkerId, Stream), Flow>,
    pub sites: Vec<SiteStore>,
    pub links: Vec<Link>,
    epochs: Vec<u64>,
    /// What a site showed or answered while the link was down, until the session is lost.
    backlog: Vec<Vec<Event>>,
    pub hub_lag: Ms,
    pub watch_lag: Vec<BTreeMap<Stream, Ms>>,
    pub write_lag: Vec<Ms>,
    pub reversed: Vec<bool>,
    pub saved_sites: Vec<Option<site_store::Etcd>>,
    pub saved_hub: Option<hub_store::Etcd>,
    pub watchman: Watchman,
    /// When something was last written anywhere.
    pub last_write: Ms,
    /// What that was.
    pub last_action: String,
    pub steps: usize,
    pub traced: bool,
}

impl Sim {
    /// A hub with its factories and pools, and sites with their nodes; no grants yet.
    pub fn new() -> Self {
        let count = SITES.len();
        let mut sim = Self {
            now: START,
            events: BTreeMap::new(),
            sequence: 0,
            wakes: BTreeMap::new(),
            hub: HubStore::default(),
            controller: None,
            incarnations: 0,
            workers: BTreeMap::new(),
            slurm_workers: BTreeMap::new(),
            slurm: Cluster::new(),
            flows: BTreeMap::new(),
            sites: (0..count).map(|_| SiteStore::default()).collect(),
            links: vec![Link::Up; count],
            epochs: vec![0; count],
            backlog: (0..count).map(|_| Vec::new()).collect(),
            hub_lag: 1,
            watch_lag: vec![BTreeMap::new(); count],
            write_lag: vec![1; count],
            reversed: vec![false; count],
            saved_sites: vec![None; count],
            saved_hub: None,
            watchman: Watchman::default(),
            last_write: START,
            last_action: String::new(),
            steps: 0,
            traced: std::env::var_os("AIFACTORY_SIMULATION_TRACE").is_some(),
        };
        for (index, site) in sim.sites.iter_mut().enumerate() {
            cast::nodes(index).into_iter().for_each(|node| site.set_node(node));
            site.events.clear();
        }
        for index in 0..cast::FACTORIES.len() {
            sim.hub.create(&cast::factory(index), &cast::factory_spec(index), START);
        }
        for index in 0..cast::POOLS.len() {
            sim.hub.create(&cast::pool(index), &cast::pool_spec(index), START);
        }
        sim.start();
        sim
    }

    /// The same specs, at sites on which nothing was ever done.
    pub fn afresh(&self) -> Self {
        let mut sim = Self::new();
        (sim.events, sim.wakes) = (BTreeMap::new(), BTreeMap::new());
        sim.workers.clear();
        sim.slurm_workers.clear();
        sim.now = self.now;
        sim.hub.restore(&self.hub.etcd.without_status());
        for (site, from) in sim.sites.iter_mut().zip(&self.sites) {
            site.etcd.nodes = from.etcd.nodes.iter().map(|(name, (node, _))| (name.clone(), (cast::bare(node), 1))).collect();
            site.etcd.policy.clone_from(&from.etcd.policy);
        }
        sim.note_budgets(true);
        sim.note_specs();
        sim.start();
        sim
    }

    pub fn push(&mut self, at: Ms, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    pub fn wake(&mut self, who: Who, at: Ms) {
        let at = at.max(self.now);
        if self.wakes.get(&who).is_none_or(|earlier| *earlier > at) {
            self.wakes.insert(who, at);
            self.push(at, Event::Work(who));
        }
    }

    /// Starts the operator: it lists the hub, each kind on a watch of its own.
    pub fn start(&mut self) {
        self.incarnations += 1;
        let known = self.hub.etcd.known.clone().unwrap_or_default();
        self.controller = Some(Controller::new(self.incarnations, known, self.now));
        self.list_hub();
        self.wake(Who::Hub, self.now + 1);
    }

    /// Watches of the hub list everything anew.
    pub fn list_hub(&mut self) {
        self.hub.events.clear();
        let all = self.hub.list();
        for (index, kind) in [Kind::AccessGrant, Kind::GPUPool, Kind::AIFactory].into_iter().enumerate() {
            let of_kind = |event: &&HubEvent| match event {
                HubEvent::Put(owner, _) | HubEvent::Undecodable(owner, ..) | HubEvent::Removed(owner, ..) => owner.kind == kind,
            };
            let events = all.iter().filter(of_kind).cloned().collect();
            let later = Ms::try_from(index).expect("small");
            self.push(self.now + self.hub_lag + later, Event::HubListed(self.incarnations, kind, events));
        }
    }

    /// Kills the operator with all of its workers. Requests that are on their way go on.
    pub fn kill(&mut self, pause: Ms) {
        if self.controller.take().is_some() {
            self.workers.clear();
            self.slurm_workers.clear();
            self.flows.clear();
            self.wakes.clear();
            self.push(self.now + pause, Event::Start);
        }
    }

    pub fn set_link(&mut self, site: usize, link: Link) {
        if self.links[site] == link {
            return;
        }
        self.links[site] = link;
        self.epochs[site] += 1;
        if link == Link::Up {
            for event in std::mem::take(&mut self.backlog[site]) {
                self.push(self.now + 1, event);
            }
        } else {
            self.push(self.now + 8 * SECOND, Event::Lost(site, self.epochs[site]));
        }
    }

    pub fn site_of(&self, worker: WorkerId) -> Option<usize> {
        let worker = self.workers.get(&worker)?;
        SITES.iter().position(|name| *name == worker.key.site)
    }

    /// Lets everything happen that is due until then.
    pub fn run_until(&mut self, until: Ms) {
        self.drain();
        let limit = self.steps + 3000;
        while let Some(((at, _), _)) = self.events.first_key_value()
            && *at <= until
        {
            if self.steps > limit && until - self.now > 1200 * SECOND {
                // What is tried again and again for days is left out.
                self.now = until - 600 * SECOND;
            } else if self.steps > limit + BUSY {
                self.watchman.find("O5", self.now, format!("{BUSY} events, and no end"));
                return;
            }
            let ((at, _), event) = self.events.pop_first().expect("an event");
            self.now = self.now.max(at);
            self.steps += 1;
            self.handle(event);
            self.drain();
            if !self.watchman.violations.is_empty() {
                return;
            }
        }
        self.now = self.now.max(until);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Work(who) => self.work(who),
            Event::HubWatch(..) | Event::HubListed(..) | Event::HubWritten(..) | Event::HubStored(..) | Event::FromSite(..) => {
                self.reach_controller(event)
            }
            Event::HubWrite(incarnation, owner, uid, write, asked) => {
                let status = matches!(write, Write::Status(_));
                let before = self.hub.get(&owner).map(Resource::version);
                self.trace(|| format!("hub {owner}: {}", describe(&write)));
                let stored = self.hub.write(&owner, &uid, &write);
                if stored.as_ref().map(Resource::version) != before {
                    self.last_write = self.now;
                    self.last_action = format!("hub: {owner}: {}", describe(&write));
                }
                self.watchman.hub_written(&owner, &write, stored.is_none());
                self.push(self.now + 1, Event::HubWritten(incarnation, owner, asked, stored, status));
            }
            Event::HubStore(incarnation, known) => {
                self.last_write = self.now;
                self.hub.etcd.known = Some(known.clone());
                self.push(self.now + 1, Event::HubStored(incarnation, known));
            }
            Event::SlurmContact(id) => self.slurm_contact(id),
            Event::SlurmRound(id, session, number) => self.slurm_round(id, session, number),
            Event::SlurmCall(round) => self.slurm_call(*round),
            Event::ToSite(id, message) if self.slurm_workers.contains_key(&id) => {
                if let Some(worker) = self.slurm_workers.get_mut(&id) {
                    worker.receive(message);
                    self.check_budgets();
                    self.wake(Who::Slurm(id), self.now);
                }
            }
            Event::ToSite(id, message) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.receive(message, self.now);
                    self.check_budgets();
                    self.wake(Who::Worker(id), self.now);
                }
            }
            Event::Contact(id) => self.contact(id),
            Event::Lost(site, epoch) => self.lost(site, epoch),
            Event::List(id, session, stream) => self.list(id, session, stream),
            Event::SiteWatch(..) | Event::Listed(..) | Event::Executed(..) | Event::Released(..) => self.reach_worker(event),
            Event::Act(execution) => self.act(*execution),
            Event::Terminated(site) => self.sites[site].finish_terminating(),
            Event::Start => {
                if self.controller.is_none() {
                    self.start();
                }
            }
        }
    }

    fn reach_controller(&mut self, event: Event) {
        let (now, current) = (self.now, self.incarnations);
        let Some(controller) = self.controller.as_mut() else { return };
        match event {
            Event::HubWatch(incarnation, event) if incarnation == current => controller.observe(event, now),
            Event::HubListed(incarnation, kind, events) if incarnation == current => controller.listed(kind, events, now),
            Event::HubWritten(incarnation, owner, asked, stored, status) if incarnation == current => {
                controller.written(owner, asked, stored, status, now)
            }
            Event::HubStored(incarnation, known) if incarnation == current => controller.known_stored(known, now),
            Event::FromSite(incarnation, key, worker, message) if incarnation == current => controller.receive(key, worker, message, now),
            _ => return,
        }
        self.wake(Who::Hub, now);
    }

    fn reach_worker(&mut self, event: Event) {
        let id = match &event {
            Event::SiteWatch(id, ..) | Event::Listed(id, ..) | Event::Executed(id, ..) | Event::Released(id, ..) => *id,
            _ => return,
        };
        let Some(site) = self.site_of(id) else { return };
        if self.links[site] != Link::Up && !matches!(event, Event::Executed(..)) {
            self.backlog[site].push(event);
            return;
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match event {
            Event::SiteWatch(_, session, observation) => worker.observed(session, observation),
            Event::Listed(_, session, stream, seen) => worker.listed(session, stream, seen, self.now),
            Event::Executed(_, session, moment, owner, outcome) => worker.executed(session, moment, owner, outcome, self.now),
            Event::Released(_, session) => worker.released(session, true),
            _ => {}
        }
        self.wake(Who::Worker(id), self.now);
    }

    fn work(&mut self, who: Who) {
        if self.wakes.get(&who).is_none_or(|at| *at > self.now) {
            return;
        }
        self.wakes.remove(&who);
        match who {
            Who::Hub => {
                if let Some(controller) = self.controller.as_mut() {
                    controller.work(self.now);
                }
            }
            Who::Worker(id) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.work(self.now);
                }
            }
            Who::Slurm(id) => {
                if let Some(worker) = self.slurm_workers.get_mut(&id) {
                    worker.work(self.now);
                }
            }
        }
    }

    pub fn send(&mut self, key: SiteKey, id: WorkerId, message: FromSite) {
        self.push(self.now, Event::FromSite(self.incarnations, key, id, message));
    }

    /// Sends on its way what hub, operator and sites have put out.
    fn drain(&mut self) {
        for event in std::mem::take(&mut self.hub.events) {
            self.push(self.now + self.hub_lag, Event::HubWatch(self.incarnations, event));
        }
        let out = self.controller.as_mut().map(|controller| std::mem::take(&mut controller.out)).unwrap_or_default();
        out.into_iter().for_each(|out| self.after_controller(out));
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            let out = self.workers.get_mut(&id).map(|worker| std::mem::take(&mut worker.out)).unwrap_or_default();
            out.into_iter().for_each(|out| self.after_worker(id, out));
        }
        let ids: Vec<WorkerId> = self.slurm_workers.keys().copied().collect();
        for id in ids {
            let out = self.slurm_workers.get_mut(&id).map(|worker| std::mem::take(&mut worker.out)).unwrap_or_default();
            out.into_iter().for_each(|out| self.after_slurm_worker(id, out));
        }
        for site in 0..self.sites.len() {
            for (stream, observation) in std::mem::take(&mut self.sites[site].events) {
                self.show(site, stream, &observation);
            }
        }
        self.check_always();
    }

    fn after_controller(&mut self, out: controller::Out) {
        match out {
            controller::Out::Start(key, id) if key.part == Part::Slurm => {
                self.slurm_workers.insert(id, SlurmWorker::default());
            }
            controller::Out::Start(key, id) => {
                self.workers.insert(id, Worker::new(key));
            }
            controller::Out::Stop(id) => {
                self.workers.remove(&id);
                self.slurm_workers.remove(&id);
                self.flows.retain(|(worker, _), _| *worker != id);
            }
            controller::Out::Tell(id, message) => self.push(self.now, Event::ToSite(id, message)),
            controller::Out::Write(owner, uid, write, asked) => self.push(self.now + 1, Event::HubWrite(self.incarnations, owner, uid, write, asked)),
            controller::Out::Store(known) => self.push(self.now + 1, Event::HubStore(self.incarnations, known)),
            controller::Out::Wake(at) => self.wake(Who::Hub, at),
        }
    }

    fn after_worker(&mut self, id: WorkerId, out: worker::Out) {
        let Some(key) = self.workers.get(&id).map(|worker| worker.key.clone()) else { return };
        let site = self.site_of(id);
        match out {
            worker::Out::Send(message) => self.send(key, id, message),
            worker::Out::Contact => self.push(self.now + 2, Event::Contact(id)),
            worker::Out::Wake(at) => self.wake(Who::Worker(id), at),
            worker::Out::Execute(owner, steps, moment) => {
                let session = self.workers.get(&id).and_then(Worker::session).unwrap_or_default();
                let Some(site) = site else { return };
                let (steps, outcome) = (steps.into(), Outcome::default());
                let execution = Execution { worker: id, session, moment, owner, site, steps, asked: 0, failed: false, outcome };
                self.push(self.now + self.write_lag[site], Event::Act(Box::new(execution)));
            }
            worker::Out::Release => {
                let session = self.workers.get(&id).and_then(Worker::session).unwrap_or_default();
                let Some(site) = site.filter(|site| self.links[*site] == Link::Up) else { return };
                self.sites[site].etcd.claim = None;
                self.push(self.now + 1, Event::Released(id, session));
            }
        }
    }

    fn contact(&mut self, id: WorkerId) {
        let Some(site) = self.site_of(id) else { return };
        let link = self.links[site];
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.session().is_some() {
            return;
        }
        let Some(intent) = worker.site.clone() else { return };
        let result = match link {
            Link::Up if !intent.recorded => {
                worker.waiting = true;
                Err(Finding::note(Reason::Pending, "there is contact; the hub has not stored yet that the site may hold something"))
            }
            Link::Up => {
                worker.waiting = false;
                Ok(format!("cluster-{site}"))
            }
            Link::Down | Link::Mute => Err(Finding::note(Reason::SiteUnreachable, "the site does not answer")),
        };
        let again = result.is_err() && !worker.waiting;
        let session = worker.contacted(result, self.now);
        self.wake(Who::Worker(id), self.now);
        if again {
            self.push(self.now + 5 * SECOND, Event::Contact(id));
        }
        let Some(session) = session else { return };
        for stream in STREAMS {
            self.push(self.now + 1, Event::List(id, session, stream));
        }
    }

    fn lag(&self, site: usize, stream: Stream) -> Ms {
        self.watch_lag[site].get(&stream).copied().unwrap_or(1)
    }

    /// The site answers a list; what changes from now on follows it.
    fn list(&mut self, id: WorkerId, session: u64, stream: Stream) {
        let Some(site) = self.site_of(id) else { return };
        if self.workers.get(&id).and_then(Worker::session) != Some(session) {
            return;
        }
        let at = self.now + self.lag(site, stream);
        let listed = self.sites[site].list(stream);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.listing(session, stream);
        }
        self.flows.insert((id, stream), Flow { session, last: at });
        self.push(at, Event::Listed(id, session, stream, listed));
    }

    fn show(&mut self, site: usize, stream: Stream, observation: &Observation) {
        let at = self.now + self.lag(site, stream);
        let ids: Vec<WorkerId> = self.workers.keys().copied().filter(|id| self.site_of(*id) == Some(site)).collect();
        for id in ids {
            let Some(flow) = self.flows.get_mut(&(id, stream)) else { continue };
            flow.last = flow.last.max(at);
            let (session, at) = (flow.session, flow.last);
            self.push(at, Event::SiteWatch(id, session, observation.clone()));
        }
    }

    /// All watches of a site break, and list anew.
    pub fn list_site(&mut self, site: usize) {
        self.sites[site].events.clear();
        let ids: Vec<WorkerId> = self.workers.keys().copied().filter(|id| self.site_of(*id) == Some(site)).collect();
        // What was on its way in the old watches is lost.
        self.events.retain(|_, event| !matches!(event, Event::SiteWatch(id, ..) | Event::Listed(id, ..) if ids.contains(id)));
        self.backlog[site].retain(|event| !matches!(event, Event::SiteWatch(..) | Event::Listed(..)));
        for id in ids {
            let Some(session) = self.workers.get(&id).and_then(Worker::session) else { continue };
            for stream in STREAMS {
                self.flows.remove(&(id, stream));
                self.push(self.now + 1, Event::List(id, session, stream));
            }
        }
    }

    /// Two probes in a row have failed.
    fn lost(&mut self, site: usize, epoch: u64) {
        if self.epochs[site] != epoch {
            return;
        }
        self.backlog[site].clear();
        if site == cast::SLURM {
            let ids: Vec<WorkerId> = self.slurm_workers.keys().copied().collect();
            for id in ids {
                if let Some(worker) = self.slurm_workers.get_mut(&id).filter(|worker| worker.session().is_some()) {
                    worker.disconnect(Some(Finding::note(Reason::SiteUnreachable, "Slurm does not answer")));
                    self.wake(Who::Slurm(id), self.now);
                }
            }
        }
        let ids: Vec<WorkerId> = self.workers.keys().copied().filter(|id| self.site_of(*id) == Some(site)).collect();
        for id in ids {
            self.flows.retain(|(worker, _), _| *worker != id);
            if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.session().is_some()) {
                worker.disconnect(Some(Finding::note(Reason::SiteUnreachable, "the site does not answer")), self.now);
                self.wake(Who::Worker(id), self.now);
            }
        }
    }

    /// One request of a plan arrives at the site.
    fn act(&mut self, mut execution: Execution) {
        let site = execution.site;
        let alive = self.workers.contains_key(&execution.worker);
        let Some(step) = execution.steps.front() else {
            self.push(self.now, Event::Executed(execution.worker, execution.session, execution.moment, execution.owner, execution.outcome));
            return;
        };
        let (purpose, count) = (step.purpose, step.actions.len());
        let index = if self.reversed[site] { count - 1 - execution.asked } else { execution.asked };
        let action = step.actions[index].clone();
        if self.links[site] != Link::Down {
            let result = self.perform(site, &execution.owner, &action);
            if !alive {
                self.watchman.late_write(site, &execution.owner);
            } else if self.links[site] != Link::Mute {
                execution.record(&action, result);
            }
        }
        if !alive {
            return;
        }
        if self.links[site] != Link::Up {
            let finding = Finding::note(Reason::SiteUnreachable, "the site did not answer in time");
            execution.outcome.failures.push(Failure { finding, refused: false });
            self.push(
                self.now + 15 * SECOND,
                Event::Executed(execution.worker, execution.session, execution.moment, execution.owner, execution.outcome),
            );
            return;
        }
        execution.asked += 1;
        if execution.asked == count {
            execution.steps.pop_front();
            execution.asked = 0;
            if execution.failed && purpose == Purpose::Establish {
                execution.steps.clear();
            }
            execution.failed = false;
        }
        let lag = self.write_lag[site];
        self.push(self.now + lag, Event::Act(Box::new(execution)));
    }

    /// Prints an event where a trace is wanted.
    pub fn trace(&self, text: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{} {}", super::clock::time(self.now), text());
        }
    }

    fn perform(&mut self, site: usize, owner: &OwnerRef, action: &Action) -> Result<Done, Refused> {
        let result = self.ask(site, owner, action);
        // What a site refuses is tried again, slowly, for as long as it refuses it.
        if result.is_ok() {
            self.last_write = self.now;
            self.last_action = format!("{}: {}", SITES[site], asked(action));
        }
        result
    }

    fn ask(&mut self, site: usize, owner: &OwnerRef, action: &Action) -> Result<Done, Refused> {
        self.trace(|| format!("{} {owner}: {}", SITES[site], asked(action)));
        match action {
            Action::Apply(object) => self.sites[site].apply(object, self.now).map(|seen| Done::Applied(Box::new(seen))),
            Action::Delete { key, uid } => {
                self.check_deletion(site, owner, key);
                let deletion = self.sites[site].delete(key, uid.as_deref())?;
                if key.namespace.is_empty() {
                    self.push(self.now + 5, Event::Terminated(site));
                }
                Ok(Done::Deleted(deletion))
            }
            Action::EndWork { namespace } => self.sites[site].end_work(namespace.as_str()).map(|()| Done::Nothing),
            Action::PatchNode(patch) => Ok(match self.sites[site].patch_node(patch)? {
                Some((node, version)) => Done::Node(Box::new(node), version),
                None => Done::Changed(patch.node.clone()),
            }),
            Action::EndPod { .. } | Action::CreateKey { .. } => Ok(Done::Nothing),
        }
    }

    /// Somebody at a site deletes a namespace.
    pub fn terminate(&mut self, site: usize, name: &str) {
        self.sites[site].terminate(name);
        self.push(self.now + 5, Event::Terminated(site));
    }

    /// Whether nothing is on its way but probes of sites that are away.
    pub fn next_event(&self) -> Option<Ms> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }
}

fn asked(action: &Action) -> String {
    match action {
        Action::Apply(object) => format!("apply {}", object.key),
        Action::Delete { key, .. } => format!("delete {key}"),
        other => format!("{other:?}"),
    }
}

fn describe(write: &Write) -> String {
    match write {
        Write::Status(status) => match status.as_ref() {
            hub_store::Status::Grant(Some(status)) => {
                let conditions: Vec<String> =
                    status.conditions.iter().map(|found| format!("{}={}:{}", found.type_, found.status, found.reason)).collect();
                let rows: Vec<String> = status.sites.iter().map(|row| format!("{}={}", row.name, row.phase)).collect();
                format!("{:?} {rows:?} {conditions:?}", status.phase)
            }
            _ => "status".to_owned(),
        },
        other => format!("{other:?}"),
    }
}

enum Done {
    Applied(Box<aifactory_plan::site::index::IndexedObject>),
    Deleted(Deletion),
    Node(Box<aifactory_plan::engine::nodes::NodeView>, u64),
    Changed(String),
    Nothing,
}

impl Execution {
    fn record(&mut self, action: &Action, result: Result<Done, Refused>) {
        match result {
            Ok(Done::Applied(seen)) => self.outcome.applied.push(*seen),
            Ok(Done::Deleted(deletion)) => {
                if let Action::Delete { key, .. } = action {
                    match deletion {
                        Deletion::Gone => self.outcome.deleted.push(key.clone()),
                        Deletion::Ordered => self.outcome.ordered.push(key.clone()),
                        Deletion::Nothing => {}
                    }
                }
            }
            Ok(Done::Node(node, version)) => self.outcome.nodes.push((*node, version)),
            Ok(Done::Nothing) => {}
            Ok(Done::Changed(node)) => {
                let finding = Finding::note(Reason::InProgress, format!("Node {node} changed meanwhile"));
                self.fail(Failure { finding, refused: false });
            }
            Err(refused) if refused.terminating => {
                let finding = Finding::note(Reason::InProgress, "its namespace is being deleted");
                self.fail(Failure { finding, refused: false });
            }
            Err(refused) => {
                let reason = if refused.foreign { Reason::ForeignObject } else { Reason::RefusedBySite };
                self.fail(Failure { finding: Finding::stalled(reason, refused.message), refused: true });
            }
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.failed = true;
        self.outcome.failures.push(failure);
    }
}
