//! Decisions that are updated step by step equal a decision over all claims.

use std::collections::BTreeMap;

use aifactory_api::Kind;
use proptest::prelude::*;

use super::*;

/// A change: whose claim, its amounts and end; no amounts take it out.
type Step = (u8, Option<(i128, i128, i64)>);

fn step() -> impl Strategy<Value = Step> {
    (0..12u8, proptest::option::weighted(0.8, (0..40i128, 0..12i128, 1..60i64)))
}

fn at(second: i64) -> Timestamp {
    Timestamp::new(1_000_000 + second, 0).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn position(index: u8) -> Position {
    // Two of each age, so that names decide as well.
    (at(i64::from(index / 2)), OwnerRef::new(Kind::AccessGrant, "n", format!("g{index:02}")))
}

/// The rule in its simplest form: in the order of creation, a claim that fits is admitted.
fn by_hand(caps: Caps, claims: &BTreeMap<Position, Claim>, now: Timestamp) -> (Amount, BTreeMap<Position, Refused>) {
    let (mut held, mut refused) = (Amount::default(), BTreeMap::new());
    for (position, claim) in claims.iter().filter(|(_, claim)| claim.until > now) {
        let sum = held.plus(claim.amount);
        if caps.allow(sum) {
            held = sum;
        } else {
            refused.insert(position.clone(), Refused { held, wanted: claim.amount });
        }
    }
    (held, refused)
}

proptest! {
    #[test]
    fn whatever_changes_the_quota_decides_as_a_look_at_all_claims_does(
        hours in proptest::option::of(0..120i64),
        gpus in proptest::option::of(0..30i64),
        steps in proptest::collection::vec((step(), 0..4i64), 1..60),
    ) {
        let caps = Caps { hours, gpus };
        let (mut quota, mut claims, mut now) = (Quota::new(caps, at(0), Visits::default()), BTreeMap::new(), at(0));
        let mut second = 0;
        let mut before = BTreeMap::new();
        for ((index, claim), pause) in steps {
            let position = position(index);
            let claim = claim.map(|(hours, gpus, until)| Claim { amount: Amount { hours, gpus }, until: at(until) });
            let mut changed = quota.set(&position, claim);
            match claim {
                Some(claim) => claims.insert(position.clone(), claim),
                None => claims.remove(&position),
            };
            // A quota whose clock has not advanced yet gives the same answers.
            second += pause;
            let later = at(second);
            let (held, refused) = by_hand(caps, &claims, later);
            for position in claims.keys() {
                prop_assert_eq!(quota.refusal(position, later), refused.get(position).copied());
            }
            prop_assert_eq!(quota.held(later), held);
            changed.extend(quota.advance(later));
            now = now.max(later);
            for position in claims.keys().filter(|position| !changed.contains(&position.1)) {
                prop_assert_eq!(before.get(position).copied(), refused.get(position).copied(), "{:?} was not returned", position);
            }
            // Without a change, no decision changes before the time that the quota names for it.
            for position in claims.keys() {
                let until = quota.next_change(position, now).unwrap_or(at(59));
                let soon = by_hand(caps, &claims, at(second + 7).min(until - jiff::SignedDuration::from_secs(1)).max(now)).1;
                prop_assert_eq!(soon.get(position).copied().filter(|_| claims[position].until > at(second + 7)), refused.get(position).copied().filter(|_| claims[position].until > at(second + 7)));
            }
            before = refused;
        }
    }
}

#[test]
fn as_long_as_all_fit_nobody_else_is_looked_at() {
    let visits = Visits::default();
    let claim = |hours| Some(Claim { amount: Amount { hours, gpus: 1 }, until: at(1_000_000) });
    let owner = |index: i64| (at(index), OwnerRef::new(Kind::AccessGrant, "n", format!("g{index}")));
    let mut quota = Quota::new(Caps { hours: Some(20_000), gpus: None }, at(0), visits.clone());
    (0..10_000).for_each(|index| {
        quota.set(&owner(index), claim(1));
    });
    let filled = visits.count();
    quota.set(&owner(5_000), claim(2));
    assert_eq!(quota.set(&owner(10_000), claim(20_000)), BTreeSet::from([owner(10_000).1]), "the last one does not fit");
    assert_eq!(quota.set(&owner(10_000), claim(1)), BTreeSet::from([owner(10_000).1]));
    assert!(visits.count() - filled < 10, "{} visits", visits.count() - filled);
}
