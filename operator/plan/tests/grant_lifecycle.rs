//! One history of a grant, at a site's Kubernetes and in its Slurm: both planners show the same life. Seeds and failures as in `isolation`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests rule by rule")]
#[path = "slurm/grants.rs"]
mod grants;
#[path = "grant_lifecycle/kubernetes.rs"]
mod kubernetes;
#[allow(dead_code, reason = "shared with the tests rule by rule")]
#[path = "slurm/mod.rs"]
mod slurm;

use aifactory_api::Reason;
use aifactory_api::grant::{AfterRetention, KubernetesSubject, MemberRole, RunningWork, SubjectKind};
use aifactory_plan::engine::slurm_accounts::held;
use aifactory_plan::model::id::UserName;
use aifactory_plan::model::intent::{Body, Desired, End, GrantIntent, Intent, MemberIntent, Refusal, VERSION};
use aifactory_plan::model::lifecycle::{Marks, State};
use aifactory_plan::model::plan::Plan;
use aifactory_plan::model::report::{Detail, SitePhase};
use grants::{World, owner, pool};
use jiff::{SignedDuration, Timestamp};
use kubernetes::Kubernetes;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

const NAME: &str = "alpha";

/// What a part of a site shows of a grant's life.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    phase: SitePhase,
    /// Without whose it is: a grant that was made again is written down at the next write of all.
    marks: Option<Marks>,
    /// Whether access is said to be gone; `None`: the grant is gone from the hub.
    access_removed: Option<bool>,
    wake: Option<Timestamp>,
}

/// A site with both parts.
struct Both {
    /// The Slurm part, with the intent for both.
    world: World,
    kubernetes: Kubernetes,
}

impl Both {
    fn new() -> Self {
        let mut both = Self { world: World::new([(NAME, grant("EHPC-1"))]), kubernetes: Kubernetes::default() };
        both.settle();
        both
    }

    fn plan(&self) -> Plan {
        let World { site, policy, refused, grants, now, .. } = &self.world;
        let owner = owner(NAME);
        let Some((uid, grant)) = grants.get(&owner) else { return self.kubernetes.plan_gone(site, &owner, policy, *now) };
        let intent = Intent {
            version: VERSION,
            owner: owner.clone(),
            uid: uid.clone(),
            generation: 1,
            created: Timestamp::UNIX_EPOCH,
            serial: 0,
            body: Body::Grant(Box::new(grant.clone())),
        };
        self.kubernetes.plan(site, &intent, refused.get(&owner), policy, *now)
    }

    fn settle(&mut self) {
        self.world.settle();
        for _ in 0..8 {
            let plan = self.plan();
            if plan.steps.is_empty() {
                return;
            }
            self.kubernetes.execute(&plan, self.world.now);
        }
        panic!("comes to no rest: {:#?}", self.plan().steps);
    }

    fn at_kubernetes(&self) -> Shown {
        let plan = self.plan();
        let namespace = self.kubernetes.namespace(&self.world.site, &owner(NAME));
        let access_removed = match plan.detail {
            Detail::Grant(detail) => Some(detail.access_removed),
            _ => None,
        };
        Shown { phase: plan.phase, marks: namespace.map(|found| apart(found.marks())), access_removed, wake: plan.wake }
    }

    fn in_slurm(&self) -> Shown {
        let held = held(&self.world.cluster.read(), &self.world.scope());
        let known = self.world.grants.contains_key(&owner(NAME));
        let plan = self.world.plans().remove(&owner(NAME));
        Shown {
            phase: plan.as_ref().map_or(SitePhase::Gone, |plan| plan.phase),
            marks: held.get(&owner(NAME)).map(|held| apart(held.record.marks())),
            access_removed: plan.as_ref().filter(|_| known).map(|plan| plan.detail.access_removed),
            wake: plan.and_then(|plan| plan.wake),
        }
    }

    /// What both show, which is the same.
    fn shown(&self) -> Shown {
        let (kubernetes, slurm) = (self.at_kubernetes(), self.in_slurm());
        assert_eq!(kubernetes, slurm, "left: Kubernetes, right: Slurm");
        kubernetes
    }

    fn grant(&mut self) -> Option<&mut GrantIntent> {
        self.world.grants.get_mut(&owner(NAME)).map(|(_, grant)| grant)
    }

    fn happen(&mut self, event: &Event) -> Shown {
        let now = self.world.now;
        match event {
            Event::Desire(desired) => self.with(|grant| grant.desired = desired.clone()),
            Event::End(hours) => {
                let at = hours.map(|hours| now - SignedDuration::from_hours(hours));
                self.with(|grant| grant.desired = Desired::Ended { because: Reason::Expired, message: "it is over".to_owned(), at });
            }
            Event::Terms(end) => self.with(|grant| grant.end = end.clone()),
            Event::OnlyIfHeld(only) => self.with(|grant| grant.only_if_held = only.then(no)),
            Event::Keep(keep) => self.with(|grant| grant.keep = *keep),
            Event::Adopt(adopt) => self.with(|grant| grant.adopt_previous = *adopt),
            Event::Refuse(true) => drop(self.world.refused.insert(owner(NAME), no())),
            Event::Refuse(false) => drop(self.world.refused.remove(&owner(NAME))),
            Event::KeepData(keep) => self.world.policy.keep_namespaces = *keep,
            Event::Gone => drop(self.world.grants.remove(&owner(NAME))),
            Event::Again(code) => drop(self.world.grants.insert(owner(NAME), (format!("uid-{now}"), grant(code)))),
            Event::Pass(minutes) => self.world.pass(minutes * 60),
        }
        self.settle();
        self.shown()
    }

    fn with(&mut self, change: impl Fn(&mut GrantIntent)) {
        self.grant().into_iter().for_each(change);
    }
}

fn apart(marks: Marks) -> Marks {
    Marks { uid: None, code: None, ..marks }
}

fn no() -> Refusal {
    Refusal { reason: Reason::RefusedBySite, message: "no".to_owned() }
}

fn grant(code: &str) -> GrantIntent {
    let subject = KubernetesSubject { kind: SubjectKind::User, name: "oidc:alice".to_owned() };
    let alice = MemberIntent { id: "m1".to_owned(), role: MemberRole::Lead, subject: Some(subject), slurm_user: Some(UserName::new("alice")) };
    let mut pools = vec![pool("h100", "gpua", 600), pool("a100", "", 600)];
    pools[1].partition = None;
    GrantIntent { code: code.to_owned(), members: vec![alice], pools, end: terms(true, 1, 24, true), ..grants::grant() }
}

fn terms(cancel: bool, grace: i64, retention: i64, delete: bool) -> End {
    End {
        running_work: if cancel { RunningWork::Cancel } else { RunningWork::Finish },
        grace_seconds: grace * 3600,
        retention_seconds: retention * 3600,
        after_retention: if delete { AfterRetention::Delete } else { AfterRetention::Retain },
    }
}

#[derive(Clone, Debug)]
enum Event {
    Desire(Desired),
    /// The end, by the clock so many hours ago, or by order.
    End(Option<i64>),
    Terms(End),
    OnlyIfHeld(bool),
    Keep(bool),
    Adopt(bool),
    Refuse(bool),
    KeepData(bool),
    Gone,
    Again(&'static str),
    Pass(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let living = prop_oneof![3 => Just(Desired::Bound), 1 => Just(Desired::Paused), 2 => Just(Desired::Scheduled)];
    let code = prop_oneof![2 => Just("EHPC-1"), 1 => Just("EHPC-2")];
    prop_oneof![
        4 => living.prop_map(Event::Desire),
        6 => proptest::option::of(0..100i64).prop_map(Event::End),
        2 => (any::<bool>(), 0..4i64, 1..30i64, any::<bool>()).prop_map(|(cancel, grace, retention, delete)| {
            Event::Terms(terms(cancel, grace, retention, delete))
        }),
        1 => any::<bool>().prop_map(Event::OnlyIfHeld),
        1 => any::<bool>().prop_map(Event::Keep),
        1 => any::<bool>().prop_map(Event::Adopt),
        1 => any::<bool>().prop_map(Event::Refuse),
        1 => any::<bool>().prop_map(Event::KeepData),
        3 => Just(Event::Gone),
        4 => code.prop_map(Event::Again),
        8 => (0..1000i64).prop_map(Event::Pass),
    ]
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig { cases: 256, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20_261_127);
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")));
    config
}

proptest! {
    #![proptest_config(config())]

    /// The same phases, marks and deadlines at both parts, whatever befalls a grant. Nothing is deleted that was not locked for its retention, and no
    /// deadline lies in the past.
    #[test]
    fn both_parts_of_a_site_show_the_same_life(events in proptest::collection::vec(event(), 1..30)) {
        let mut both = Both::new();
        let mut before = both.shown();
        for event in &events {
            let shown = both.happen(event);
            prop_assert!(shown.wake.is_none_or(|at| at > both.world.now), "{:?} after {:?}", shown, event);
            if let (Some(marks), None) = (&before.marks, &shown.marks) {
                let locked_at = marks.locked_at.expect("nothing goes that was not locked");
                let terms = both.grant().map(|grant| SignedDuration::from_secs(grant.end.retention_seconds));
                let until = terms.map_or(marks.retained_until, |retention| Some(locked_at.max(marks.ended_at.expect("an end")) + retention));
                prop_assert!(until.is_some_and(|until| until <= both.world.now), "{:?} lost by {:?}", marks, event);
            }
            before = shown;
        }
    }
}

#[test]
fn an_end_by_order_locks_cancels_keeps_and_deletes() {
    let mut both = Both::new();
    assert_eq!(both.shown().phase, SitePhase::Bound);
    let begin = both.world.now;
    let hours = SignedDuration::from_hours;
    let shown = both.happen(&Event::End(None));
    let marks = shown.marks.expect("marks");
    assert_eq!((shown.phase, shown.access_removed, shown.wake), (SitePhase::Locked, Some(true), Some(begin + hours(1))));
    assert_eq!((marks.ended_at, marks.locked_at, marks.retained_until), (Some(begin), Some(begin), Some(begin + hours(24))));
    assert_eq!((marks.cancel_at, marks.cancelled_at), (Some(begin + hours(1)), None));
    let shown = both.happen(&Event::Pass(60));
    assert_eq!((shown.wake, shown.marks.expect("marks").cancelled_at), (Some(begin + hours(24)), Some(begin + hours(1))));
    // The hub forgets it; what is retained goes by its marks.
    both.happen(&Event::Gone);
    assert_eq!(both.happen(&Event::Pass(22 * 60)).wake, Some(begin + hours(24)));
    both.happen(&Event::KeepData(true));
    assert_eq!(both.happen(&Event::Pass(60)).phase, SitePhase::Locked, "the site keeps it");
    let shown = both.happen(&Event::KeepData(false));
    assert_eq!((shown.phase, shown.marks), (SitePhase::Gone, None));
    assert_eq!(both.kubernetes.work_ended, [begin + hours(1)]);
}

#[test]
fn a_date_in_the_past_shortens_neither_grace_nor_retention() {
    let mut both = Both::new();
    let begin = both.world.now;
    let marks = both.happen(&Event::End(Some(1000))).marks.expect("marks");
    assert_eq!((marks.ended_at, marks.locked_at), (Some(begin - SignedDuration::from_hours(1000)), Some(begin)));
    assert_eq!((marks.cancel_at, marks.cancelled_at), (Some(begin + SignedDuration::from_hours(1)), None));
    assert_eq!(marks.retained_until, Some(begin + SignedDuration::from_hours(24)));
    // Without any retention it is locked first, and goes then.
    let mut both = Both::new();
    both.happen(&Event::Terms(terms(false, 0, 0, true)));
    assert_eq!(both.happen(&Event::End(Some(1000))).marks, None);
}

#[test]
fn what_was_retained_is_taken_back_by_its_code() {
    let mut both = Both::new();
    both.happen(&Event::End(None));
    both.happen(&Event::Gone);
    let shown = both.happen(&Event::Again("EHPC-1"));
    assert_eq!((shown.phase, shown.wake), (SitePhase::Bound, None));
    assert_eq!(shown.marks, Some(Marks { state: Some(State::Bound), ..Marks::default() }));
}

#[test]
fn a_former_incarnation_is_locked_and_kept_by_its_own_marks() {
    let mut both = Both::new();
    let begin = both.world.now;
    both.happen(&Event::Gone);
    let shown = both.happen(&Event::Again("EHPC-2"));
    let marks = shown.marks.expect("marks");
    assert_eq!((shown.phase, shown.access_removed, marks.state), (SitePhase::Refused, Some(true), Some(State::Locked)));
    assert_eq!((marks.locked_at, marks.after_retention), (Some(begin), Some(AfterRetention::Retain)));
    assert!(marks.because.is_some_and(|because| because.starts_with("PreviousIncarnation: ")));
    // Without the later grant it is retained, and no orphan.
    let shown = both.happen(&Event::Gone);
    assert_eq!((shown.phase, shown.marks.and_then(|marks| marks.locked_at)), (SitePhase::Locked, Some(begin)));
    assert_eq!(both.happen(&Event::Pass(24 * 365 * 60)).phase, SitePhase::Locked, "nobody knows its terms, so time deletes nothing");
    both.happen(&Event::Again("EHPC-2"));
    assert_eq!(both.happen(&Event::Adopt(true)).phase, SitePhase::Bound);
}

#[test]
fn a_grant_whose_references_are_broken_keeps_what_it_has() {
    let mut both = Both::new();
    both.happen(&Event::Keep(true));
    for (desired, phase) in [
        (Desired::Bound, SitePhase::Bound),
        (Desired::Scheduled, SitePhase::Paused),
        // Nothing opens it while that lasts.
        (Desired::Bound, SitePhase::Paused),
    ] {
        assert_eq!(both.happen(&Event::Desire(desired)).phase, phase);
    }
    assert_eq!(both.happen(&Event::End(None)).phase, SitePhase::Locked);
    let shown = both.happen(&Event::Desire(Desired::Bound));
    assert_eq!((shown.phase, shown.access_removed, shown.wake), (SitePhase::Locked, Some(true), None));
    assert_eq!(both.happen(&Event::Keep(false)).phase, SitePhase::Bound);
}

#[test]
fn a_refusal_ends_what_is_held_and_makes_nothing() {
    let mut both = Both::new();
    both.happen(&Event::OnlyIfHeld(true));
    assert_eq!(both.shown().phase, SitePhase::Bound, "it is held already");
    let shown = both.happen(&Event::Refuse(true));
    assert_eq!((shown.phase, shown.access_removed, shown.marks.and_then(|marks| marks.state)), (SitePhase::Refused, Some(true), Some(State::Locked)));
    assert_eq!(both.happen(&Event::Refuse(false)).phase, SitePhase::Refused, "what has ended is not opened");
    assert_eq!(both.happen(&Event::OnlyIfHeld(false)).phase, SitePhase::Bound);
}
