//! The life of a grant at one part of a site, its Kubernetes or its Slurm.
//!
//! [`Life`] is computed from what the hub desires, the [`Marks`] that the part holds, and the clock, with the time of its next change. The planners
//! of both parts match on it; what is retained after its grant is gone from the hub is planned by the same [`Ended`].
//!
//! Where the two parts differ on purpose:
//!
//! - *A part that its factory does not name any more.* Slurm keeps what it has ([`Order::keeps`]), since establishing a grant there needs accounts,
//!   partitions and counters that are not known any more. On Kubernetes the grant is planned as always, and all steps but removals are left out.
//! - *When work ends.* Kubernetes ends it in the plan that writes the lock, in this order. Slurm ends running jobs in a sync that has read the lock
//!   back, since its REST may answer with success although nothing was done. Pending jobs are ended at once, since a lock does not end them.
//! - *When data goes.* A namespace goes with what runs in it. An account goes when its jobs have ended, since Slurm refuses to delete it before.
//! - *A paused site.* In Slurm the lock and its marks remove access, so they are written also while the site is paused. On Kubernetes role bindings
//!   are deleted, and the namespace is locked when the pause is over.

mod ended;
mod marks;
#[cfg(test)]
mod tests;

use aifactory_api::Reason;
use jiff::Timestamp;

use crate::model::intent::{Desired, GrantIntent, Refusal};
use crate::model::report::SitePhase;

pub use ended::{Cause, Ended, cancel_at};
pub use marks::{Marks, State, after_retention};

/// The intent for a grant at a part of a site, with the site's own refusal.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The grant's UID.
    pub uid: &'a str,
    /// The grant.
    pub grant: &'a GrantIntent,
    /// The site's own refusal.
    pub refused: Option<&'a Refusal>,
    /// Nothing is made or opened, and what the part holds stays.
    pub keeps: bool,
}

/// Whether new work may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Members work.
    Open,
    /// No new work.
    Paused,
}

/// The state of a grant at a part of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// In force: what it needs is made, and kept as it shall be.
    Living(Work),
    /// In force, and nothing is made or opened: what is held stays.
    Keeping(Work),
    /// Not in force. What was locked before stays so, and is neither opened nor deleted.
    Waiting,
    /// The hub or the site refuses it.
    Refused {
        /// Why.
        refusal: Refusal,
        /// How what was held has ended; `None`: nothing was held.
        ended: Option<Ended>,
    },
    /// Access has ended; what is left is kept for its retention.
    Ended(Ended),
    /// What is held is an earlier grant's of the same name, with another code. It is locked until a person decides, and nothing deletes it.
    FormerIncarnation(Ended),
    /// Nothing is held, and nothing is wanted.
    Gone,
}

impl Life {
    /// The state of a grant. `held`: the marks of what is held, empty where they can not be read; `None`: nothing is held.
    pub fn of(order: &Order<'_>, held: Option<&Marks>, now: Timestamp) -> Self {
        let Order { uid, grant, refused, keeps } = *order;
        if let Some(marks) = held.filter(|marks| !grant.adopt_previous && marks.is_of_another(uid, &grant.code)) {
            return Life::FormerIncarnation(Ended::former(marks, &grant.end, now));
        }
        let refuse = |refusal: &Refusal| {
            let Refusal { reason, message } = refusal;
            let cause = Cause { reason: *reason, message, at: None };
            Life::Refused { refusal: refusal.clone(), ended: held.map(|marks| Ended::new(&cause, &grant.end, marks, now)) }
        };
        let work = match &grant.desired {
            Desired::Ended { because, message, at } => {
                let cause = Cause { reason: *because, message, at: *at };
                return held.map_or(Life::Gone, |marks| Life::Ended(Ended::new(&cause, &grant.end, marks, now)));
            }
            Desired::Bound => Work::Open,
            Desired::Paused | Desired::Scheduled => Work::Paused,
        };
        if let Some(refusal) = refused {
            return refuse(refusal);
        }
        let living = held.filter(|marks| !marks.locked());
        match (living, &grant.only_if_held) {
            (Some(marks), _) if keeps => Life::Keeping(if marks.state == Some(State::Paused) { Work::Paused } else { work }),
            (Some(_), _) => Life::Living(work),
            (None, _) if keeps || grant.desired == Desired::Scheduled => held.map_or(Life::Gone, |_| Life::Waiting),
            (None, Some(refusal)) => refuse(refusal),
            (None, None) => Life::Living(work),
        }
    }

    /// The phase to report, as far as it follows from the state.
    pub fn phase(&self) -> SitePhase {
        match self {
            Life::Living(Work::Open) | Life::Keeping(Work::Open) => SitePhase::Bound,
            Life::Living(Work::Paused) | Life::Keeping(Work::Paused) => SitePhase::Paused,
            Life::Waiting | Life::Ended(_) => SitePhase::Locked,
            Life::Refused { .. } | Life::FormerIncarnation(_) => SitePhase::Refused,
            Life::Gone => SitePhase::Gone,
        }
    }

    /// When the clock changes what is wanted.
    pub fn deadline(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Life::Ended(ended) | Life::Refused { ended: Some(ended), .. } => ended.deadline(now),
            Life::Living(_) | Life::Keeping(_) | Life::Waiting | Life::Refused { ended: None, .. } | Life::FormerIncarnation(_) | Life::Gone => None,
        }
    }
}

/// Why a former incarnation is locked.
fn replaced() -> String {
    format!("{}: another grant of this name has taken its place", Reason::PreviousIncarnation)
}
