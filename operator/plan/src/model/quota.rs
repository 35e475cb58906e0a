//! A cap that grants share, of a pool's consumer or of a site, and which of the grants are admitted under it.
//!
//! Earlier grants count first, and a grant that does not fit takes nothing from later ones that do. A change is decided locally: as long as all
//! admitted grants fit together and each refused one still does not fit at its position, no other grant is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use aifactory_api::OwnerRef;
use jiff::Timestamp;

use crate::model::visits::Visits;

/// The position of a grant in the order of creation, with its owner to break ties.
pub type Position = (Timestamp, OwnerRef);

/// GPU-hours and GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Canonical GPU-hours.
    pub hours: i128,
    /// GPUs at the same time.
    pub gpus: i128,
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self { hours: self.hours + other.hours, gpus: self.gpus + other.gpus }
    }

    fn less(self, other: Self) -> Self {
        Self { hours: self.hours - other.hours, gpus: self.gpus - other.gpus }
    }
}

/// What a grant asks for, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// How much.
    pub amount: Amount,
    /// From when on it holds nothing.
    pub until: Timestamp,
}

/// The most that all grants may have together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Canonical GPU-hours.
    pub hours: Option<i64>,
    /// GPUs at the same time.
    pub gpus: Option<i64>,
}

impl Caps {
    fn allow(self, sum: Amount) -> bool {
        self.hours.is_none_or(|cap| sum.hours <= i128::from(cap)) && self.gpus.is_none_or(|cap| sum.gpus <= i128::from(cap))
    }
}

/// A claim that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What earlier grants hold.
    pub held: Amount,
    /// What this one asks for.
    pub wanted: Amount,
}

/// The claims of all grants under one cap.
#[derive(Clone, Debug)]
pub struct Quota {
    caps: Caps,
    visits: Visits,
    claims: BTreeMap<Position, Claim>,
    /// When those that have not ended will.
    ends: BTreeSet<(Timestamp, Position)>,
    /// The time up to which ended claims were released.
    clock: Timestamp,
    /// The claims that have not ended.
    living: BTreeMap<Position, Amount>,
    /// What all that are admitted hold together.
    admitted: Amount,
    /// Refused grants, with what earlier grants hold.
    refused: BTreeMap<Position, Amount>,
}

impl Quota {
    /// A quota without claims.
    pub fn new(caps: Caps, clock: Timestamp, visits: Visits) -> Self {
        Self {
            caps,
            visits,
            claims: BTreeMap::new(),
            ends: BTreeSet::new(),
            clock,
            living: BTreeMap::new(),
            admitted: Amount::default(),
            refused: BTreeMap::new(),
        }
    }

    /// Stores the claim of a grant, or removes it; returns the grants for which the decision has changed.
    pub fn set(&mut self, position: &Position, claim: Option<Claim>) -> BTreeSet<OwnerRef> {
        if self.claims.get(position) == claim.as_ref() {
            return BTreeSet::new();
        }
        let mut changed = BTreeSet::new();
        if let Some(before) = self.claims.remove(position) {
            self.ends.remove(&(before.until, position.clone()));
            self.release(position, &mut changed);
        }
        if let Some(claim) = claim {
            self.claims.insert(position.clone(), claim);
            if claim.until > self.clock {
                self.ends.insert((claim.until, position.clone()));
                self.admit(position, claim.amount, &mut changed);
            }
        }
        changed
    }

    /// Releases the claims that have ended; returns the grants for which the decision has changed.
    pub fn advance(&mut self, now: Timestamp) -> BTreeSet<OwnerRef> {
        let mut changed = BTreeSet::new();
        while let Some((until, position)) = self.ends.first().filter(|(until, _)| *until <= now).cloned() {
            self.visits.add(1);
            self.ends.remove(&(until, position.clone()));
            self.release(&position, &mut changed);
        }
        self.clock = self.clock.max(now);
        changed
    }

    /// When the next claim ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Whether the decisions hold at this time.
    fn holds_at(&self, now: Timestamp) -> bool {
        now >= self.clock && self.next_end().is_none_or(|end| end > now)
    }

    /// Why a grant does not fit; `None` where it does, or claims nothing.
    pub fn refusal(&self, position: &Position, now: Timestamp) -> Option<Refused> {
        if self.holds_at(now) {
            let (held, wanted) = (self.refused.get(position)?, self.living.get(position)?);
            return Some(Refused { held: *held, wanted: *wanted });
        }
        self.at(now).refusal(position, now)
    }

    /// What all admitted grants hold together.
    pub fn held(&self, now: Timestamp) -> Amount {
        if self.holds_at(now) { self.admitted } else { self.at(now).admitted }
    }

    /// The next time at which the decision for a grant may change: an end frees something for grants that were refused, and what they get may be lost
    /// for later ones.
    pub fn next_change(&self, position: &Position, now: Timestamp) -> Option<Timestamp> {
        if self.holds_at(now) {
            return self.is_contended(position).then(|| self.next_end()).flatten();
        }
        self.at(now).next_change(position, now)
    }

    /// Whether this grant or an earlier one is refused.
    fn is_contended(&self, position: &Position) -> bool {
        self.refused.first_key_value().is_some_and(|(first, _)| first <= position)
    }

    /// The same claims at another time.
    fn at(&self, now: Timestamp) -> Self {
        let mut other = Self::new(self.caps, now, self.visits.clone());
        for (position, claim) in self.visits.of(self.claims.iter()) {
            other.set(position, Some(*claim));
        }
        other
    }

    fn admit(&mut self, position: &Position, amount: Amount, changed: &mut BTreeSet<OwnerRef>) {
        self.living.insert(position.clone(), amount);
        let sum = self.admitted.plus(amount);
        if self.caps.allow(sum) {
            self.admitted = sum;
            self.shift_later(position, changed, |held| held.plus(amount));
        } else if self.is_behind_all(position) {
            self.refused.insert(position.clone(), self.admitted);
            changed.insert(position.1.clone());
        } else {
            self.admitted = sum;
            self.decide_from(position, changed);
        }
    }

    /// Takes out a claim that is living.
    fn release(&mut self, position: &Position, changed: &mut BTreeSet<OwnerRef>) {
        let Some(amount) = self.living.remove(position) else { return };
        if self.refused.remove(position).is_some() {
            changed.insert(position.1.clone());
            return;
        }
        self.admitted = self.admitted.less(amount);
        self.shift_later(position, changed, |held| held.less(amount));
        self.give_on(position, changed);
    }

    /// Gives what became free at a position to later grants that were refused, the earlier ones first.
    fn give_on(&mut self, position: &Position, changed: &mut BTreeSet<OwnerRef>) {
        let mut after = position.clone();
        while let Some((next, held)) = self.refused.range((Excluded(&after), Unbounded)).next().map(|(next, held)| (next.clone(), *held)) {
            self.visits.add(1);
            let amount = self.living.get(&next).copied().unwrap_or_default();
            if self.caps.allow(held.plus(amount)) {
                if !self.caps.allow(self.admitted.plus(amount)) {
                    // It takes the place of a later one.
                    return self.decide_from(&next, changed);
                }
                self.refused.remove(&next);
                changed.insert(next.1.clone());
                self.admitted = self.admitted.plus(amount);
                self.shift_later(&next, changed, |held| held.plus(amount));
            }
            after = next;
        }
    }

    /// Updates, for grants that are refused after a position, the amount that earlier grants hold.
    fn shift_later(&mut self, position: &Position, changed: &mut BTreeSet<OwnerRef>, shift: impl Fn(Amount) -> Amount) {
        for (later, held) in self.visits.of(self.refused.range_mut((Excluded(position), Unbounded))) {
            *held = shift(*held);
            changed.insert(later.1.clone());
        }
    }

    /// Whether every admitted grant is before this one.
    fn is_behind_all(&self, position: &Position) -> bool {
        self.visits.of(self.living.range((Excluded(position), Unbounded))).all(|(later, _)| self.refused.contains_key(later))
    }

    /// Decides again for a grant and all later ones.
    fn decide_from(&mut self, position: &Position, changed: &mut BTreeSet<OwnerRef>) {
        let tail: Vec<(Position, Amount)> =
            self.visits.of(self.living.range(position..)).map(|(position, amount)| (position.clone(), *amount)).collect();
        let counted = tail.iter().filter(|(position, _)| !self.refused.contains_key(position));
        let mut held = counted.fold(self.admitted, |sum, (_, amount)| sum.less(*amount));
        for (position, amount) in tail {
            let fits = self.caps.allow(held.plus(amount));
            let differs = if fits { self.refused.remove(&position).is_some() } else { self.refused.insert(position.clone(), held) != Some(held) };
            if fits {
                held = held.plus(amount);
            }
            if differs {
                changed.insert(position.1);
            }
        }
        self.admitted = held;
    }
}

#[cfg(test)]
mod tests;
