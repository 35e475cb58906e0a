//! The controller with a driver that only takes notes, channels and a paused clock.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Mutex;

use aifactory_api::pool::{Accelerator, PerGpu};
use aifactory_api::{Kind, Reason};
use aifactory_plan::model::intent::{Body, NodeSource, PoolEngine, PoolIntent, Presence, VERSION};
use aifactory_plan::model::report::{Detail, SitePhase};
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::site::fake_hub::{FakeHub, factory, polled_at_most, site_intent, source};
use crate::transport::{HubReceiver, Incarnation, hub_channel};

const SECOND: Duration = Duration::from_secs(1);

/// What the fake site does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Yes,
    No,
    Panic,
    Silence,
}

/// What a test shares with the driver.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    notes: Vec<String>,
    /// What the next contacts meet; then they are answered.
    contacts: VecDeque<Answer>,
    probes: Option<Answer>,
    /// The generation at which the driver panics, once.
    panics_at: Option<i64>,
    watches: Option<mpsc::Sender<(u64, &'static str)>>,
}

impl Shared {
    fn note(&self, note: impl Into<String>) {
        self.0.lock().unwrap().notes.push(note.into());
    }

    /// Takes the notes so far.
    fn notes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().notes)
    }
}

async fn answer(answer: Answer) -> Result<(), Finding> {
    match answer {
        Answer::Yes => Ok(()),
        Answer::No => Err(Finding::note(Reason::SiteUnreachable, "no")),
        Answer::Panic => panic!("a defect"),
        Answer::Silence => pending().await,
    }
}

struct Fake {
    core: Core<Fake>,
    shared: Shared,
    dirty: BTreeSet<OwnerRef>,
}

/// A task of the driver's own has ended; `false`: it panicked.
struct Done(OwnerRef, bool);

impl Driver for Fake {
    type Session = Shared;
    type Found = Fingerprint;
    type NoContact = Finding;
    type Beside = ();
    type Observation = &'static str;
    type Event = Done;

    fn core(&mut self) -> &mut Core<Self> {
        &mut self.core
    }

    fn look(&mut self) -> BoxFuture<'static, (Look, ())> {
        let (reader, source) = (self.core.reader.clone(), self.core.source.clone());
        Box::pin(async move { (reader.look(&source).await, ()) })
    }

    fn on_look(&mut self, (): ()) {}

    fn connect(&mut self, _: SiteIntent) -> BoxFuture<'static, Result<Fingerprint, Finding>> {
        self.shared.note("connect");
        let next = self.shared.0.lock().unwrap().contacts.pop_front().unwrap_or(Answer::Yes);
        let (reader, source) = (self.core.reader.clone(), self.core.source.clone());
        Box::pin(async move {
            let (value, _) = reader.secret(&source, &[]).await?;
            answer(next).await?;
            Ok(Fingerprint::of(&value))
        })
    }

    fn on_no_contact(&mut self, problem: Finding) -> Finding {
        problem
    }

    fn begin(&mut self, session: u64, _: &SiteIntent, found: Fingerprint) -> (Shared, Fingerprint) {
        let gone: Vec<_> = self.core.gone.iter().map(|owner| owner.name.as_str()).collect();
        self.shared.note(format!("session {session}, gone: {}", gone.join(" ")));
        self.shared.0.lock().unwrap().watches = Some(self.core.watches());
        (self.shared.clone(), found)
    }

    fn probe(session: &Shared) -> BoxFuture<'static, Result<(), Finding>> {
        let next = session.0.lock().unwrap().probes.unwrap_or(Answer::Yes);
        Box::pin(answer(next))
    }

    fn on_transition(&mut self, transition: Transition<Shared>) {
        if matches!(transition, Transition::Lost(_)) {
            self.shared.note("lost");
        }
    }

    fn on_site(&mut self, before: Option<SiteIntent>) -> Contact {
        match before {
            None => Contact::Keep,
            Some(before) if Some(&before.hub) != self.core.site.as_ref().map(|site| &site.hub) => Contact::Restart,
            Some(_) => Contact::Again,
        }
    }

    fn on_intent(&mut self, owner: OwnerRef, before: Option<Arc<Intent>>) {
        let generation = self.core.intents[&owner].generation;
        self.shared.note(format!("intent {} {:?} -> {generation}", owner.name, before.map(|before| before.generation)));
        self.dirty.insert(owner);
        let mut script = self.shared.0.lock().unwrap();
        if script.panics_at == Some(generation) {
            script.panics_at = None;
            drop(script);
            panic!("a defect");
        }
    }

    fn on_withdrawn(&mut self, owner: OwnerRef) {
        self.shared.note(format!("withdrawn {}", owner.name));
    }

    fn on_tombstone(&mut self, owner: OwnerRef) {
        self.shared.note(format!("tombstone {}", owner.name));
    }

    fn on_observation(&mut self, observation: &'static str) {
        self.shared.note(format!("saw {observation}"));
        assert_ne!(observation, "a defect");
    }

    fn on_event(&mut self, Done(owner, well): Done) {
        self.shared.note(format!("{} {}", if well { "done" } else { "panicked on" }, owner.name));
    }

    fn dispatch(&mut self, _: Instant) {
        if self.core.connection.session().is_none() {
            return;
        }
        for owner in std::mem::take(&mut self.dirty) {
            let defect = owner.name == "defect";
            self.core.spawn(Done(owner.clone(), false), async move {
                assert!(!defect, "a defect");
                Done(owner, true)
            });
        }
    }

    fn report(&mut self, _: Instant) {
        for intent in self.core.intents.values().cloned().collect::<Vec<_>>() {
            self.core.send_report(Report::answering(&intent, SitePhase::Bound, Detail::None));
        }
        let connection = &self.core.connection;
        let report = SiteReport { reachable: connection.session().is_some(), problem: connection.problem().cloned(), ..SiteReport::default() };
        self.core.send_site_report(report);
    }

    fn deadline(&mut self, _: Instant) -> Option<Instant> {
        None
    }
}

struct Bench {
    shared: Shared,
    hub: FakeHub,
    to_site: SiteSender,
    from_site: HubReceiver,
    running: JoinHandle<()>,
}

impl Bench {
    /// Starts a controller; contacts meet these answers, then every one is answered.
    fn start(contacts: &[Answer]) -> Self {
        let (shared, hub) = (Shared::default(), FakeHub::default());
        hub.put([("credential", "1")].into());
        shared.0.lock().unwrap().contacts.extend(contacts);
        let (to_hub, from_site) = hub_channel();
        let key = SiteKey::new(factory(), "site");
        let core = Core::new(key.clone(), source(), hub.reader(), to_hub.of(key, Incarnation(7)), Arc::new(Metrics::new()));
        let driver = Fake { core, shared: shared.clone(), dirty: BTreeSet::new() };
        let (to_site, inbox) = mpsc::unbounded_channel();
        let running = tokio::spawn(polled_at_most(5000, run(driver, inbox)));
        let bench = Self { shared, hub, to_site, from_site, running };
        bench.send(ToSite::Site(Box::new(site_intent(None))));
        bench
    }

    /// Starts a controller and waits for its first session.
    async fn connected() -> Self {
        let bench = Self::start(&[]);
        settle().await;
        assert_eq!(bench.shared.notes(), ["connect", "session 1, gone: "]);
        bench
    }

    fn send(&self, message: ToSite) {
        self.to_site.send(message).unwrap();
    }

    async fn see(&self, session: u64, observation: &'static str) {
        let watches = self.shared.0.lock().unwrap().watches.clone().unwrap();
        watches.send((session, observation)).await.unwrap();
        settle().await;
    }

    /// Whether the site is reachable by its last report.
    fn reachable(&mut self) -> Option<bool> {
        let mut last = None;
        while let Ok(received) = self.from_site.try_recv() {
            assert_eq!(received.incarnation, Incarnation(7));
            if let FromSite::Site(report) = received.message {
                last = Some(report.reachable);
            }
        }
        last
    }
}

async fn settle() {
    sleep(Duration::from_millis(50)).await;
}

fn owner(name: &str) -> OwnerRef {
    OwnerRef::new(Kind::GPUPool, "team", name)
}

fn intent(name: &str, generation: i64) -> Arc<Intent> {
    Arc::new(Intent {
        version: VERSION,
        owner: owner(name),
        uid: name.to_owned(),
        generation,
        created: Timestamp::UNIX_EPOCH,
        serial: 0,
        body: Body::Pool(PoolIntent {
            presence: Presence::Active,
            accelerator: Accelerator {
                vendor: "nvidia".to_owned(),
                model: "H100".to_owned(),
                resource_name: "nvidia.com/gpu".to_owned(),
                per_node: 4,
            },
            per_gpu: PerGpu { cpus: 16, memory_gib: 120 },
            wanted: None,
            nodes: NodeSource::Adopt { selector: BTreeMap::new() },
            engine: PoolEngine::Kubernetes,
        }),
    })
}

fn everything(intents: &[Arc<Intent>], tombstones: &[&str]) -> ToSite {
    let intents = intents.iter().map(|intent| (intent.owner.clone(), intent.clone())).collect();
    ToSite::Everything(Box::new(DesiredSet { intents, tombstones: tombstones.iter().map(|name| owner(name)).collect() }))
}

#[tokio::test(start_paused = true)]
async fn messages_are_taken_in_order_and_a_set_changes_only_what_is_new_in_it() {
    let bench = Bench::connected().await;
    bench.send(ToSite::Put(intent("a", 1)));
    bench.send(ToSite::Put(intent("b", 1)));
    bench.send(ToSite::Put(intent("a", 2)));
    bench.send(ToSite::Gone(owner("b")));
    bench.send(ToSite::Put(intent("c", 1)));
    settle().await;
    let notes = bench.shared.notes();
    assert_eq!(notes[..5], ["intent a None -> 1", "intent b None -> 1", "intent a Some(1) -> 2", "tombstone b", "intent c None -> 1"]);
    bench.send(everything(&[intent("a", 2), intent("b", 3)], &["c", "d"]));
    bench.send(everything(&[intent("a", 2), intent("b", 3)], &["c"]));
    bench.send(everything(&[intent("a", 2)], &["c"]));
    settle().await;
    let notes: Vec<String> = bench.shared.notes().into_iter().filter(|note| !note.starts_with("done")).collect();
    assert_eq!(notes, ["tombstone c", "tombstone d", "intent b None -> 3", "withdrawn b"]);
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_from_before_the_first_contact_is_known_to_the_session() {
    let bench = Bench::start(&[Answer::No, Answer::No]);
    bench.send(ToSite::Gone(owner("a")));
    sleep(10 * SECOND).await;
    assert_eq!(bench.shared.notes(), ["tombstone a", "connect", "connect", "connect", "session 3, gone: a"]);
}

#[tokio::test(start_paused = true)]
async fn events_of_a_former_session_are_dropped() {
    let bench = Bench::connected().await;
    bench.see(1, "a").await;
    bench.send(ToSite::Site(Box::new(SiteIntent { release: true, ..site_intent(None) })));
    settle().await;
    bench.see(1, "b").await;
    bench.see(2, "c").await;
    assert_eq!(bench.shared.notes(), ["saw a", "lost", "connect", "session 2, gone: ", "saw c"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_driver_is_reported_to_the_hub_which_starts_another_controller() {
    let (shared, hub, metrics) = (Shared::default(), FakeHub::default(), Arc::new(Metrics::new()));
    shared.0.lock().unwrap().panics_at = Some(2);
    let (to_hub, mut from_site) = hub_channel();
    let key = SiteKey::new(factory(), "site");
    let core = Core::new(key.clone(), source(), hub.reader(), to_hub.of(key, Incarnation(7)), metrics.clone());
    let to_site = start(Fake { core, shared: shared.clone(), dirty: BTreeSet::new() });
    to_site.send(ToSite::Put(intent("a", 1))).unwrap();
    to_site.send(ToSite::Put(intent("a", 2))).unwrap();
    settle().await;
    assert_eq!(shared.notes(), ["intent a None -> 1", "intent a Some(1) -> 2"]);
    let mut last = None;
    while let Ok(received) = from_site.try_recv() {
        last = Some((received.incarnation, received.message));
    }
    assert!(matches!(last, Some((Incarnation(7), FromSite::Died))), "{last:?}");
    assert!(to_site.is_closed());
    assert!(metrics.encode().unwrap().contains("aifactory_task_panics_total{task=\"site_worker\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_task_is_an_event_of_the_driver_and_of_nobody_else() {
    let bench = Bench::connected().await;
    bench.send(ToSite::Put(intent("defect", 1)));
    bench.send(ToSite::Put(intent("sound", 1)));
    settle().await;
    let notes = bench.shared.notes();
    assert!(notes.contains(&"panicked on defect".to_owned()) && notes.contains(&"done sound".to_owned()), "{notes:?}");
    assert!(!notes.contains(&"lost".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_contact_that_panics_and_one_that_fails_are_made_again_after_a_pause() {
    let mut bench = Bench::start(&[Answer::Panic, Answer::No]);
    settle().await;
    assert_eq!(bench.reachable(), Some(false));
    sleep(SECOND).await;
    assert_eq!(bench.shared.notes(), ["connect", "connect"]);
    sleep(SECOND).await;
    assert_eq!(bench.shared.notes(), ["connect", "session 3, gone: "]);
    assert_eq!(bench.reachable(), Some(true));
}

#[tokio::test(start_paused = true)]
async fn a_site_that_falls_silent_is_lost_within_fifteen_seconds_and_found_again() {
    let mut bench = Bench::connected().await;
    for silence in [Answer::Silence, Answer::No, Answer::Panic] {
        bench.shared.0.lock().unwrap().probes = Some(silence);
        bench.reachable();
        sleep(15 * SECOND).await;
        assert!(bench.shared.notes().contains(&"lost".to_owned()), "{silence:?}");
        bench.shared.0.lock().unwrap().probes = None;
        sleep(10 * SECOND).await;
        assert_eq!(bench.reachable(), Some(true), "{silence:?}");
        bench.shared.notes();
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_credential_is_used_within_seconds_and_a_contact_under_way_is_given_up_for_it() {
    let bench = Bench::connected().await;
    bench.shared.0.lock().unwrap().contacts.push_back(Answer::Silence);
    bench.hub.put([("credential", "2")].into());
    sleep(SECOND * 5 / 2).await;
    assert_eq!(bench.shared.notes(), ["lost", "connect"]);
    bench.hub.put([("credential", "3")].into());
    sleep(SECOND * 5 / 2).await;
    assert_eq!(bench.shared.notes(), ["connect", "session 3, gone: "]);
}

#[tokio::test(start_paused = true)]
async fn the_controller_ends_with_its_inbox_and_outlives_a_hub_that_does_not_listen() {
    let bench = Bench::start(&[Answer::Silence]);
    drop(bench.from_site);
    sleep(60 * SECOND).await;
    assert!(!bench.running.is_finished());
    drop(bench.to_site);
    timeout(SECOND, bench.running).await.unwrap().unwrap();
}
