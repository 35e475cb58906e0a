//! The connection is driven by plain values: what was due, what happened, and a clock that tests move.

use std::time::Duration;

use aifactory_api::Reason;
use aifactory_plan::model::report::Finding;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{CONTACT, Connection, LOOK, PROBE, PROBE_LIMIT, Task, Transition};
use crate::credential::Fingerprint;
use crate::site::clock::Now;

const SECOND: Duration = Duration::from_secs(1);

fn problem(reason: Reason) -> Finding {
    Finding::note(reason, reason.to_string())
}

fn fingerprint(of: u8) -> Fingerprint {
    Fingerprint::of(&[of])
}

/// A connection and the clock.
struct Bench {
    connection: Connection<&'static str>,
    now: Now,
}

impl Bench {
    fn new(watches: bool) -> Self {
        let mut bench = Self { connection: Connection::new("test".to_owned(), watches), now: Now::read() };
        bench.connection.begin(bench.now.instant);
        bench
    }

    fn due(&mut self) -> Vec<Task> {
        self.connection.due(self.now.instant)
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { instant: self.now.instant + time, timestamp: self.now.timestamp + time };
    }

    /// Moves the clock to the next deadline; returns how far that was.
    fn sleep(&mut self) -> Duration {
        let wait = self.connection.deadline().expect("a deadline") - self.now.instant;
        self.pass(wait);
        wait
    }

    fn contact(&mut self) -> u64 {
        let tasks = self.due();
        let found = tasks.iter().find_map(|task| if let Task::Contact(id) = task { Some(*id) } else { None });
        found.unwrap_or_else(|| panic!("contact is not due, but {tasks:?}"))
    }

    fn looked(&mut self, result: Result<Option<Fingerprint>, Finding>) -> Transition<&'static str> {
        self.connection.looked(result, self.now.instant, self.now.instant)
    }

    /// Makes contact with credential 1.
    fn connect(&mut self) -> u64 {
        let id = self.contact();
        assert_eq!(self.connection.connected(id, "session", Some(fingerprint(1)), self.now), Transition::Connected);
        id
    }

    fn fail(&mut self, id: u64, reason: Reason) -> Transition<&'static str> {
        self.connection.failed(id, problem(reason), self.now.instant)
    }
}

#[test]
fn nothing_is_due_before_somebody_wants_contact() {
    let mut connection = Connection::<()>::new("test".to_owned(), true);
    assert_eq!(connection.due(Instant::now()), []);
    assert_eq!(connection.deadline(), None);
}

#[test]
fn a_site_that_does_not_answer_is_contacted_again_after_pauses_that_grow_to_a_cap_and_success_resets_them() {
    let mut bench = Bench::new(false);
    for expected in [500, 1000, 2000, 4000, 5000, 5000].map(Duration::from_millis) {
        let id = bench.contact();
        assert_eq!(bench.fail(id, Reason::SiteUnreachable), Transition::Apart);
        assert_eq!(bench.connection.problem().map(|problem| problem.reason), Some(Reason::SiteUnreachable));
        assert_eq!(bench.sleep(), expected);
    }
    bench.connect();
    assert_eq!(bench.connection.problem(), None);
    assert_eq!(bench.connection.disconnect(None, bench.now.instant), Transition::Lost("session"));
    let id = bench.contact();
    let _ = bench.fail(id, Reason::SiteUnreachable);
    assert_eq!(bench.sleep(), CONTACT.0);
}

#[test]
fn without_a_secret_there_is_no_contact_and_a_look_every_two_seconds_and_a_secret_that_appears_is_used_at_once() {
    let mut bench = Bench::new(true);
    let tasks = bench.due();
    assert_eq!(tasks, [Task::Look, Task::Contact(1)]);
    assert_eq!(bench.fail(1, Reason::SecretNotFound), Transition::Apart);
    for _ in 0..30 {
        let _ = bench.looked(Err(problem(Reason::SecretNotFound)));
        assert_eq!(bench.due(), []);
        assert_eq!(bench.sleep(), LOOK);
        assert_eq!(bench.due(), [Task::Look]);
    }
    assert_eq!(bench.looked(Ok(Some(fingerprint(1)))), Transition::Apart);
    bench.connect();
}

#[test]
fn a_look_that_finds_no_secret_ends_the_contact_and_the_session() {
    let mut bench = Bench::new(true);
    let id = bench.contact();
    assert_eq!(bench.looked(Err(problem(Reason::SecretForbidden))), Transition::Apart);
    assert_eq!(bench.connection.connected(id, "late", Some(fingerprint(1)), bench.now), Transition::Unchanged);
    assert_eq!(bench.connection.problem().map(|problem| problem.reason), Some(Reason::SecretForbidden));
    assert_eq!(bench.looked(Err(problem(Reason::SecretForbidden))), Transition::Unchanged);
    assert_eq!(bench.looked(Ok(Some(fingerprint(1)))), Transition::Apart);
    bench.connect();
    assert_eq!(bench.looked(Err(problem(Reason::SecretNotFound))), Transition::Lost("session"));
    // Nothing but a credential brings it back.
    bench.connection.retry_now(bench.now.instant);
    assert_eq!(bench.connection.disconnect(None, bench.now.instant), Transition::Unchanged);
    assert_eq!(bench.due(), []);
}

#[test]
fn a_hub_that_does_not_answer_for_the_secret_leaves_the_session_alone() {
    let mut bench = Bench::new(true);
    bench.connect();
    assert_eq!(bench.looked(Err(problem(Reason::InternalError))), Transition::Unchanged);
    assert_eq!(bench.connection.session(), Some(&"session"));
    assert_eq!(bench.sleep(), LOOK);
}

#[test]
fn a_credential_that_was_replaced_is_used_at_once_in_every_state() {
    // While the session lives.
    let mut bench = Bench::new(true);
    bench.connect();
    assert_eq!(bench.looked(Ok(Some(fingerprint(1)))), Transition::Unchanged);
    assert_eq!(bench.looked(Ok(Some(fingerprint(2)))), Transition::Lost("session"));
    // While contact is made: the former contact's answer is dropped.
    let first = bench.contact();
    assert_eq!(bench.looked(Ok(Some(fingerprint(2)))), Transition::Unchanged);
    assert_eq!(bench.looked(Ok(Some(fingerprint(3)))), Transition::Apart);
    let second = bench.contact();
    assert_ne!(first, second);
    assert_eq!(bench.connection.connected(first, "former", Some(fingerprint(2)), bench.now), Transition::Unchanged);
    // While it waits, also after many failures.
    let mut id = second;
    for _ in 0..5 {
        let _ = bench.fail(id, Reason::Unauthorized);
        bench.pass(CONTACT.1);
        id = bench.contact();
    }
    let _ = bench.fail(id, Reason::Unauthorized);
    assert_eq!(bench.looked(Ok(Some(fingerprint(4)))), Transition::Apart);
    let id = bench.contact();
    let _ = bench.fail(id, Reason::SiteUnreachable);
    assert_eq!(bench.sleep(), CONTACT.0);
}

#[test]
fn a_credential_that_was_replaced_while_contact_was_made_is_looked_at_again_at_once() {
    let mut bench = Bench::new(true);
    let id = bench.contact();
    let _ = bench.looked(Ok(Some(fingerprint(2))));
    assert_eq!(bench.connection.connected(id, "old", Some(fingerprint(1)), bench.now), Transition::Connected);
    assert_eq!(bench.due(), [Task::Look]);
    assert_eq!(bench.looked(Ok(Some(fingerprint(2)))), Transition::Lost("old"));
}

#[test]
fn a_local_site_has_no_secret_to_look_at() {
    let mut bench = Bench::new(false);
    assert_eq!(bench.due(), [Task::Contact(1)]);
    assert_eq!(bench.connection.connected(1, "session", None, bench.now), Transition::Connected);
    assert_eq!(bench.sleep(), PROBE);
    assert_eq!(bench.due(), [Task::Probe(1)]);
}

#[test]
fn two_failed_probes_in_a_row_lose_the_session_within_fifteen_seconds() {
    let mut bench = Bench::new(false);
    let id = bench.connect();
    bench.sleep();
    assert_eq!(bench.due(), [Task::Probe(id)]);
    assert_eq!(bench.connection.probed(id, Err(problem(Reason::SiteUnreachable)), bench.now), Transition::Unchanged);
    assert_eq!(bench.due(), [Task::Probe(id)]);
    assert_eq!(bench.connection.probed(id, Ok(()), bench.now), Transition::Unchanged);
    let mut lost_after = Duration::ZERO;
    for expected in [Transition::Unchanged, Transition::Lost("session")] {
        lost_after += bench.sleep();
        assert_eq!(bench.due(), [Task::Probe(id)]);
        bench.pass(PROBE_LIMIT);
        lost_after += PROBE_LIMIT;
        assert_eq!(bench.connection.probed(id, Err(problem(Reason::SiteUnreachable)), bench.now), expected);
    }
    assert!(lost_after <= 15 * SECOND, "{lost_after:?}");
    assert_eq!(bench.connection.problem().map(|problem| problem.reason), Some(Reason::SiteUnreachable));
    assert_eq!(bench.connection.probed(id, Ok(()), bench.now), Transition::Unchanged);
    bench.contact();
}

#[test]
fn a_suspicion_brings_the_probe_forward_but_no_second_one() {
    let mut bench = Bench::new(false);
    let id = bench.connect();
    bench.connection.suspect(bench.now.instant);
    assert_eq!(bench.due(), [Task::Probe(id)]);
    bench.connection.suspect(bench.now.instant);
    assert_eq!(bench.due(), []);
}

#[test]
fn a_task_that_panics_is_tried_again_after_a_pause() {
    let mut bench = Bench::new(true);
    assert_eq!(bench.due(), [Task::Look, Task::Contact(1)]);
    let _ = bench.connection.task_panicked(Task::Look, bench.now.instant);
    let _ = bench.connection.task_panicked(Task::Contact(1), bench.now.instant);
    assert_eq!(bench.connection.problem().map(|problem| problem.reason), Some(Reason::InternalError));
    assert_eq!(bench.due(), []);
    assert_eq!(bench.sleep(), CONTACT.0);
    let id = bench.connect();
    bench.pass(PROBE);
    assert_eq!(bench.due(), [Task::Look, Task::Probe(id)]);
    assert_eq!(bench.connection.task_panicked(Task::Probe(id), bench.now.instant), Transition::Unchanged);
    assert_eq!(bench.due(), []);
    bench.pass(PROBE);
    assert_eq!(bench.due(), [Task::Probe(id)]);
    assert_eq!(bench.connection.task_panicked(Task::Probe(id), bench.now.instant), Transition::Lost("session"));
}

#[test]
fn those_who_share_a_secret_look_at_it_together() {
    let mut bench = Bench::new(true);
    bench.connect();
    let read_at = bench.now.instant;
    bench.pass(SECOND / 2);
    let _ = bench.connection.looked(Ok(Some(fingerprint(1))), read_at, bench.now.instant);
    assert_eq!(bench.sleep(), LOOK - SECOND / 2);
    // A hub that is slow is not asked without a pause.
    bench.due();
    bench.pass(10 * SECOND);
    bench.due();
    let _ = bench.connection.looked(Ok(Some(fingerprint(1))), bench.now.instant - 10 * SECOND, bench.now.instant);
    bench.due();
    assert!(bench.connection.deadline().is_some_and(|at| at > bench.now.instant));
}

/// An event of a connection.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Look(Result<u8, Reason>),
    Contact(Result<u8, Reason>),
    Probe(bool),
    Panic(prop::sample::Index),
    /// The answer to something that was begun long ago.
    Late(u64),
    Disconnect,
    Suspect,
    Retry,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let secrets = prop_oneof![
        Just(Reason::SecretNotFound),
        Just(Reason::SecretForbidden),
        Just(Reason::CredentialInvalid),
        Just(Reason::InternalError),
        Just(Reason::SiteUnreachable)
    ];
    let outcome = prop_oneof![3 => (1..4_u8).prop_map(Ok), 2 => secrets.prop_map(Err)];
    prop_oneof![
        4 => (0..7000_u64).prop_map(Step::Pass),
        3 => outcome.clone().prop_map(Step::Look),
        4 => outcome.prop_map(Step::Contact),
        3 => any::<bool>().prop_map(Step::Probe),
        1 => any::<prop::sample::Index>().prop_map(Step::Panic),
        1 => (0..20_u64).prop_map(Step::Late),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Suspect),
        1 => Just(Step::Retry),
        1 => Just(Step::Restart),
    ]
}

/// What a controller has begun for a connection.
#[derive(Default)]
struct Flights(Vec<Task>);

impl Flights {
    fn take(&mut self, wanted: impl Fn(&Task) -> bool) -> Option<Task> {
        let at = self.0.iter().position(wanted)?;
        Some(self.0.remove(at))
    }

    /// Takes what is due, of which there is at most one of a kind that is still waited for.
    fn begin(&mut self, bench: &mut Bench) {
        let tasks = bench.due();
        for task in tasks {
            match task {
                Task::Look => assert!(!self.0.contains(&Task::Look), "two looks at a time"),
                // The former contact was aborted.
                Task::Contact(_) => self.0.retain(|task| !matches!(task, Task::Contact(_))),
                Task::Probe(id) => {
                    assert!(bench.connection.is(id), "a probe of a session that is no more");
                    assert!(!self.0.contains(&task), "two probes at a time");
                }
            }
            self.0.push(task);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_neither_spins_nor_sticks(watches in any::<bool>(), steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new(watches);
        let mut flights = Flights::default();
        let mut in_secret = None;
        for step in steps {
            let changed = take(&mut bench, &mut flights, &step, &mut in_secret);
            flights.begin(&mut bench);
            let deadline = bench.connection.deadline();
            prop_assert!(deadline.is_none_or(|at| at > bench.now.instant), "a deadline in the past after {step:?}: {:?}", bench.connection);
            prop_assert!(deadline.is_some() || !flights.0.is_empty(), "nothing ahead and nothing in flight after {step:?}: {:?}", bench.connection);
            prop_assert!(bench.due().is_empty(), "due twice after {step:?}");
            if changed {
                prop_assert!(flights.0.iter().any(|task| matches!(task, Task::Contact(_))), "a new credential waits: {:?}", bench.connection);
            }
        }
    }
}

/// Applies a step where it is possible; returns whether a look has found another credential than the one that was used last.
fn take(bench: &mut Bench, flights: &mut Flights, step: &Step, in_secret: &mut Option<u8>) -> bool {
    let now = bench.now;
    match step {
        Step::Pass(millis) => bench.pass(Duration::from_millis(*millis)),
        Step::Look(result) => {
            if flights.take(|task| *task == Task::Look).is_some() {
                let found = result.map(|found| Some(fingerprint(found))).map_err(problem);
                let _ = bench.connection.looked(found, now.instant, now.instant);
                let before = match result {
                    Ok(found) => in_secret.replace(*found),
                    Err(Reason::InternalError) => *in_secret,
                    Err(_) => in_secret.take(),
                };
                return result.is_ok_and(|found| before.is_some_and(|before| before != found)) && bench.connection.session().is_none();
            }
        }
        Step::Contact(result) => {
            if let Some(Task::Contact(id)) = flights.take(|task| matches!(task, Task::Contact(_))) {
                let _ = match result {
                    Ok(found) => bench.connection.connected(id, "session", Some(fingerprint(*found)), now),
                    Err(reason) => bench.connection.failed(id, problem(*reason), now.instant),
                };
            }
        }
        Step::Probe(answers) => {
            if let Some(Task::Probe(id)) = flights.take(|task| matches!(task, Task::Probe(_))) {
                let result = if *answers { Ok(()) } else { Err(problem(Reason::SiteUnreachable)) };
                let _ = bench.connection.probed(id, result, now);
            }
        }
        Step::Panic(which) => {
            if !flights.0.is_empty() {
                let task = flights.0.remove(which.index(flights.0.len()));
                let _ = bench.connection.task_panicked(task, now.instant);
            }
        }
        Step::Late(id) => {
            let current = flights.0.iter().any(|task| matches!(task, Task::Contact(known) | Task::Probe(known) if known == id));
            if !current && !bench.connection.is(*id) {
                assert_eq!(bench.connection.connected(*id, "late", None, now), Transition::Unchanged);
                assert_eq!(bench.connection.failed(*id, problem(Reason::SiteUnreachable), now.instant), Transition::Unchanged);
                assert_eq!(bench.connection.probed(*id, Err(problem(Reason::SiteUnreachable)), now), Transition::Unchanged);
            }
        }
        Step::Disconnect => drop(bench.connection.disconnect(None, now.instant)),
        Step::Suspect => bench.connection.suspect(now.instant),
        Step::Retry => bench.connection.retry_now(now.instant),
        Step::Restart => {
            *in_secret = None;
            drop(bench.connection.restart(now.instant));
        }
    }
    false
}
