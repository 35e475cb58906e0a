#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use aifactory_api::Reason;
use aifactory_api::grant::{AfterRetention, RunningWork};
use jiff::{SignedDuration, Timestamp};

use super::{Ended, Life, Marks, Order, State, Work, after_retention};
use crate::model::intent::{Desired, End, GrantIntent, Refusal};
use crate::model::report::SitePhase;

fn at(hours: i64) -> Timestamp {
    "2026-12-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
}

fn grant(desired: Desired) -> GrantIntent {
    let end = End { running_work: RunningWork::Cancel, grace_seconds: 3600, retention_seconds: 86400, after_retention: AfterRetention::Delete };
    GrantIntent { end, not_after: at(1000), ..GrantIntent::bare("EHPC-1", desired) }
}

fn ended_at(at: Option<Timestamp>) -> Desired {
    Desired::Ended { because: Reason::Revoked, message: "by order".to_owned(), at }
}

fn no() -> Refusal {
    Refusal { reason: Reason::RefusedBySite, message: "no".to_owned() }
}

fn marks(state: State) -> Marks {
    Marks { uid: Some("uid-1".to_owned()), code: Some("EHPC-1".to_owned()), state: Some(state), ..Marks::default() }
}

fn order(grant: &GrantIntent) -> Order<'_> {
    Order { uid: "uid-1", grant, refused: None, keeps: grant.keep }
}

fn life(grant: &GrantIntent, held: Option<&Marks>, now: Timestamp) -> Life {
    Life::of(&order(grant), held, now)
}

fn ended(life: Life) -> Ended {
    match life {
        Life::Ended(ended) | Life::FormerIncarnation(ended) | Life::Refused { ended: Some(ended), .. } => ended,
        other => panic!("{other:?}"),
    }
}

/// The name of each state, without its times.
fn name(life: &Life) -> &'static str {
    match life {
        Life::Living(Work::Open) => "open",
        Life::Living(Work::Paused) => "paused",
        Life::Keeping(Work::Open) => "kept open",
        Life::Keeping(Work::Paused) => "kept paused",
        Life::Waiting => "waiting",
        Life::Refused { ended: None, .. } => "refused",
        Life::Refused { ended: Some(_), .. } => "refused and ended",
        Life::Ended(_) => "ended",
        Life::FormerIncarnation(_) => "former",
        Life::Gone => "gone",
    }
}

#[test]
fn what_is_desired_and_what_is_held_give_the_state() {
    let held = [None, Some(Marks::default()), Some(marks(State::Bound)), Some(marks(State::Paused)), Some(marks(State::Locked))];
    let keep = |grant: &mut GrantIntent| grant.keep = true;
    let only_if_held = |grant: &mut GrantIntent| grant.only_if_held = Some(no());
    let as_asked = |_: &mut GrantIntent| {};
    type Change<'a> = &'a dyn Fn(&mut GrantIntent);
    let table: [(Desired, Change<'_>, [&str; 5]); 12] = [
        (Desired::Bound, &as_asked, ["open", "open", "open", "open", "open"]),
        (Desired::Paused, &as_asked, ["paused", "paused", "paused", "paused", "paused"]),
        (Desired::Scheduled, &as_asked, ["gone", "paused", "paused", "paused", "waiting"]),
        (ended_at(None), &as_asked, ["gone", "ended", "ended", "ended", "ended"]),
        (Desired::Bound, &keep, ["gone", "kept open", "kept open", "kept paused", "waiting"]),
        (Desired::Paused, &keep, ["gone", "kept paused", "kept paused", "kept paused", "waiting"]),
        (Desired::Scheduled, &keep, ["gone", "kept paused", "kept paused", "kept paused", "waiting"]),
        (ended_at(None), &keep, ["gone", "ended", "ended", "ended", "ended"]),
        (Desired::Bound, &only_if_held, ["refused", "open", "open", "open", "refused and ended"]),
        (Desired::Paused, &only_if_held, ["refused", "paused", "paused", "paused", "refused and ended"]),
        (Desired::Scheduled, &only_if_held, ["gone", "paused", "paused", "paused", "waiting"]),
        (ended_at(None), &only_if_held, ["gone", "ended", "ended", "ended", "ended"]),
    ];
    for (desired, change, words) in table {
        let mut grant = grant(desired);
        change(&mut grant);
        for (held, expected) in held.iter().zip(words) {
            let found = life(&grant, held.as_ref(), at(0));
            assert_eq!(name(&found), expected, "{:?} of {held:?}", grant.desired);
            let refused = Life::of(&Order { refused: Some(&no()), ..order(&grant) }, held.as_ref(), at(0));
            let expected = match (&grant.desired, held) {
                (Desired::Ended { .. }, _) => expected,
                (_, None) => "refused",
                (_, Some(_)) => "refused and ended",
            };
            assert_eq!(name(&refused), expected, "{:?} of {held:?}, refused by the site", grant.desired);
        }
    }
}

#[test]
fn each_state_has_its_phase() {
    let of = |desired: Desired, held: Option<Marks>| life(&grant(desired), held.as_ref(), at(0)).phase();
    assert_eq!(of(Desired::Bound, None), SitePhase::Bound);
    assert_eq!(of(Desired::Paused, None), SitePhase::Paused);
    assert_eq!(of(Desired::Scheduled, Some(marks(State::Locked))), SitePhase::Locked);
    assert_eq!(of(ended_at(None), Some(marks(State::Bound))), SitePhase::Locked);
    assert_eq!(of(ended_at(None), None), SitePhase::Gone);
    let other = Marks { uid: Some("uid-0".to_owned()), code: Some("EHPC-0".to_owned()), ..marks(State::Locked) };
    assert_eq!(of(Desired::Bound, Some(other)), SitePhase::Refused);
    let grant = GrantIntent { only_if_held: Some(no()), ..grant(Desired::Bound) };
    assert_eq!(life(&grant, None, at(0)).phase(), SitePhase::Refused);
}

#[test]
fn grace_and_retention_count_from_the_lock_or_from_the_end_whichever_is_later() {
    // Now, long ago, and at a moment to come.
    for (named, from) in [(None, 0), (Some(-1000), 0), (Some(0), 0), (Some(7), 7)] {
        let grant = grant(ended_at(named.map(at)));
        let found = ended(life(&grant, Some(&marks(State::Bound)), at(0)));
        assert_eq!((found.ended_at, found.locked_at), (at(named.unwrap_or(0)), at(0)));
        assert_eq!((found.cancel_at, found.retained_until), (Some(at(from + 1)), at(from + 24)), "{named:?}");
        assert!(!found.seen_locked() && !found.over(at(500)), "nothing is deleted that was not seen locked");
        // A day later it reads its own marks.
        let held = found.marks(Some("uid-1".to_owned()), Some("EHPC-1".to_owned()));
        let later = ended(life(&grant, Some(&held), at(from + 24)));
        assert_eq!(later.marks(held.uid.clone(), held.code.clone()), held);
        assert!(later.seen_locked() && later.over(at(from + 24)) && !later.over(at(from + 23)) && later.cancels(at(from + 1)));
    }
}

#[test]
fn the_first_end_stays_and_its_terms_may_change() {
    let mut grant = grant(ended_at(None));
    let held = ended(life(&grant, Some(&marks(State::Bound)), at(0))).marks(Some("uid-1".to_owned()), Some("EHPC-1".to_owned()));
    grant.desired = Desired::Ended { because: Reason::Deleting, message: "deleted".to_owned(), at: Some(at(-5)) };
    grant.end = End { running_work: RunningWork::Finish, retention_seconds: 7200, after_retention: AfterRetention::Retain, ..grant.end };
    let found = ended(life(&grant, Some(&held), at(3)));
    assert_eq!((found.ended_at, found.locked_at, found.because.as_deref()), (at(0), at(0), Some("Revoked: by order")));
    assert_eq!((found.cancel_at, found.retained_until, found.after_retention), (None, at(2), AfterRetention::Retain));
    assert_eq!((found.deadline(at(1)), found.over(at(3))), (None, false));
    // Marks beside another state than Locked are not about this end.
    let open = Marks { state: Some(State::Bound), ..held };
    assert_eq!(ended(life(&grant, Some(&open), at(3))).locked_at, at(3));
}

#[test]
fn deadlines_come_one_after_the_other_and_none_lies_in_the_past() {
    let grant = grant(ended_at(None));
    let first = life(&grant, Some(&marks(State::Bound)), at(0));
    assert_eq!(first.deadline(at(0)), Some(at(1)));
    let found = ended(first);
    assert!(!found.cancels(at(0)) && found.cancels(at(1)));
    assert_eq!(found.deadline(at(1)), Some(at(24)));
    let cancelled = found.cancelled(at(1));
    assert!(!cancelled.cancels(at(1)));
    assert_eq!((cancelled.deadline(at(0)), cancelled.deadline(at(24))), (Some(at(24)), None));
    for desired in [Desired::Bound, Desired::Paused, Desired::Scheduled] {
        assert_eq!(life(&GrantIntent { desired, ..grant.clone() }, Some(&marks(State::Locked)), at(0)).deadline(at(0)), None);
    }
}

#[test]
fn a_grant_made_again_with_its_code_is_the_same_one() {
    let bound = grant(Desired::Bound);
    let held = ended(life(&grant(ended_at(None)), Some(&marks(State::Bound)), at(0))).marks(Some("uid-0".to_owned()), Some("EHPC-1".to_owned()));
    assert_eq!(name(&life(&bound, Some(&held), at(1))), "open");
    let other = Marks { code: Some("EHPC-0".to_owned()), ..held.clone() };
    assert_eq!(name(&life(&bound, Some(&other), at(1))), "former");
    assert_eq!(name(&life(&grant(ended_at(None)), Some(&other), at(1))), "former", "whatever is desired");
    assert_eq!(name(&life(&GrantIntent { adopt_previous: true, ..bound.clone() }, Some(&other), at(1))), "open");
    // What names no grant counts as this grant's.
    assert_eq!(name(&life(&bound, Some(&Marks { uid: None, ..other }), at(1))), "open");
}

#[test]
fn a_former_incarnation_ends_by_its_own_marks_and_time_deletes_nothing_else() {
    let bound = grant(Desired::Bound);
    let living = Marks { uid: Some("uid-0".to_owned()), code: Some("EHPC-0".to_owned()), ..marks(State::Bound) };
    let found = ended(life(&bound, Some(&living), at(1)));
    assert!(!found.seen_locked() && found.because.as_deref().is_some_and(|because| because.starts_with("PreviousIncarnation: ")));
    assert_eq!((found.locked_at, found.retained_until, found.after_retention), (at(1), at(25), AfterRetention::Retain));
    assert_eq!((found.cancel_at, life(&bound, Some(&living), at(1)).deadline(at(1))), (None, None));
    let marks = Marks {
        state: Some(State::Locked),
        ended_at: Some(at(-2)),
        because: Some("Expired: so".to_owned()),
        locked_at: Some(at(-1)),
        cancel_at: Some(at(3)),
        cancelled_at: Some(at(4)),
        retained_until: Some(at(5)),
        after_retention: Some(AfterRetention::Delete),
        ..living
    };
    let found = ended(life(&bound, Some(&marks), at(1)));
    assert!(found.seen_locked());
    assert_eq!(found.marks(marks.uid.clone(), marks.code.clone()), marks);
}

#[test]
fn without_its_grant_what_is_retained_goes_by_its_marks() {
    let held = ended(life(&grant(ended_at(None)), Some(&marks(State::Bound)), at(0))).marks(None, None);
    let found = Ended::retained(&held, at(2)).unwrap();
    assert_eq!(found.marks(None, None), held);
    assert!(found.cancels(at(2)) && !found.over(at(23)) && found.over(at(24)));
    assert_eq!(Ended::retained(&marks(State::Locked), at(0)), None, "an orphan");
    // Its lock was removed by hand, or has no time: it is locked first.
    for opened in [Marks { state: Some(State::Bound), ..held.clone() }, Marks { locked_at: None, ..held.clone() }] {
        let found = Ended::retained(&opened, at(24)).unwrap();
        assert!(!found.over(at(1000)));
    }
    let unknown = Ended::retained(&Marks { after_retention: after_retention("delete"), ..held }, at(24)).unwrap();
    assert!(!unknown.over(at(1000)), "a value that is not known deletes nothing");
}
