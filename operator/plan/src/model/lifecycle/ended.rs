//! The end of a grant: access is gone, then work ends, and data is kept for the retention.

use aifactory_api::Reason;
use aifactory_api::grant::{AfterRetention, RunningWork};
use jiff::{SignedDuration, Timestamp};

use super::marks::{Marks, State};
use super::replaced;
use crate::model::intent::End;
use crate::model::text::shorten;

/// What ends a grant.
#[derive(Clone, Copy, Debug)]
pub struct Cause<'a> {
    /// Why.
    pub reason: Reason,
    /// Why, as a message.
    pub message: &'a str,
    /// When, for an end by the clock; otherwise it ends when the site receives the intent.
    pub at: Option<Timestamp>,
}

/// A grant whose access has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When access ended.
    pub ended_at: Timestamp,
    /// Why.
    pub because: Option<String>,
    /// When it was locked.
    pub locked_at: Timestamp,
    /// When what still runs is cancelled; `None`: it may finish.
    pub cancel_at: Option<Timestamp>,
    /// When the rest was cancelled.
    pub cancelled_at: Option<Timestamp>,
    /// Until when it is kept.
    pub retained_until: Timestamp,
    /// What happens then.
    pub after_retention: AfterRetention,
    /// Whether the site holds the lock with its moment already.
    seen_locked: bool,
}

impl Ended {
    /// The end by the terms of a grant. Grace period and retention are counted from the moment of the lock, if that is later than the end: a site may
    /// receive an end late, and a date may be moved into the past by mistake.
    pub fn new(cause: &Cause<'_>, terms: &End, marks: &Marks, now: Timestamp) -> Self {
        let Cause { reason, message, at } = *cause;
        // Marks from before the lock are not about this end.
        let nothing = Marks::default();
        let known = if marks.locked() { marks } else { &nothing };
        let ended_at = known.ended_at.or(at).unwrap_or(now);
        let locked_at = known.locked_at.unwrap_or(now);
        let from = locked_at.max(ended_at);
        // The reason of the first lock stays: later ones (a deletion after an expiry) end nothing that has not ended.
        let because = known.because.clone().unwrap_or_else(|| format!("{reason}: {}", shorten(message, 400)));
        Self {
            ended_at,
            because: Some(because),
            locked_at,
            cancel_at: cancel_at(terms, from),
            cancelled_at: known.cancelled_at,
            retained_until: after(from, terms.retention_seconds),
            after_retention: terms.after_retention,
            seen_locked: known.locked_at.is_some(),
        }
    }

    /// The end by its marks alone, where the grant is gone from the hub; `None`: they name no retention.
    pub fn retained(marks: &Marks, now: Timestamp) -> Option<Self> {
        let retained_until = marks.retained_until?;
        let locked_at = marks.locked_at.unwrap_or(now);
        Some(Self {
            ended_at: marks.ended_at.unwrap_or(locked_at),
            because: marks.because.clone(),
            locked_at,
            cancel_at: marks.cancel_at,
            cancelled_at: marks.cancelled_at,
            retained_until,
            after_retention: marks.after_retention.unwrap_or(AfterRetention::Retain),
            seen_locked: marks.locked() && marks.locked_at.is_some(),
        })
    }

    /// The end of a former incarnation. The marks that it has stay in force; where it has none about its data, the data is never deleted.
    pub(super) fn former(marks: &Marks, terms: &End, now: Timestamp) -> Self {
        Self {
            ended_at: marks.ended_at.unwrap_or(now),
            because: Some(marks.because.clone().unwrap_or_else(replaced)),
            locked_at: marks.locked_at.unwrap_or(now),
            cancel_at: marks.cancel_at,
            cancelled_at: marks.cancelled_at,
            retained_until: marks.retained_until.unwrap_or_else(|| after(now, terms.retention_seconds)),
            after_retention: marks.after_retention.unwrap_or(AfterRetention::Retain),
            seen_locked: marks.locked(),
        }
    }

    /// Whether the site holds the lock already.
    pub fn seen_locked(&self) -> bool {
        self.seen_locked
    }

    /// Whether what still runs is to be cancelled now.
    pub fn cancels(&self, now: Timestamp) -> bool {
        self.cancelled_at.is_none() && self.cancel_at.is_some_and(|at| at <= now)
    }

    /// The same once what still ran was cancelled.
    #[must_use]
    pub fn cancelled(&self, now: Timestamp) -> Self {
        Self { cancelled_at: Some(now), ..self.clone() }
    }

    /// Whether it is to be deleted now. Nothing is deleted that was not seen locked.
    pub fn over(&self, now: Timestamp) -> bool {
        self.seen_locked && self.deletes() && self.retained_until <= now
    }

    /// When the clock changes what is wanted.
    pub fn deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let cancel = self.cancel_at.filter(|_| self.cancelled_at.is_none());
        let delete = Some(self.retained_until).filter(|_| self.deletes());
        [cancel, delete].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// These marks, on what is of the grant with this UID and code.
    pub fn marks(&self, uid: Option<String>, code: Option<String>) -> Marks {
        let Self { ended_at, because, locked_at, cancel_at, cancelled_at, retained_until, after_retention, seen_locked: _ } = self.clone();
        Marks {
            uid,
            code,
            state: Some(State::Locked),
            ended_at: Some(ended_at),
            because,
            locked_at: Some(locked_at),
            cancel_at,
            cancelled_at,
            retained_until: Some(retained_until),
            after_retention: Some(after_retention),
        }
    }

    fn deletes(&self) -> bool {
        self.after_retention == AfterRetention::Delete
    }
}

/// When work that runs on is cancelled, if access went at `from`; `None`: it may finish.
pub fn cancel_at(terms: &End, from: Timestamp) -> Option<Timestamp> {
    match terms.running_work {
        RunningWork::Cancel => Some(after(from, terms.grace_seconds)),
        RunningWork::Finish => None,
    }
}

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
