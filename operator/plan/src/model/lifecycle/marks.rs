//! The state of a grant as it is written at a part of a site: on Kubernetes in the namespace's label and annotations, in Slurm in the description of
//! the account and its QOS. Each part reads and writes the marks with one conversion.

use aifactory_api::grant::AfterRetention;
use aifactory_api::labels;
use jiff::Timestamp;

/// The state of a grant, as it is written at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Members work.
    Bound,
    /// No new work.
    Paused,
    /// Access is gone; what was used is kept.
    Locked,
}

impl State {
    /// The state as labels and descriptions have it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Bound => labels::STATE_BOUND,
            State::Paused => labels::STATE_PAUSED,
            State::Locked => labels::STATE_LOCKED,
        }
    }

    /// The inverse.
    pub fn parse(text: &str) -> Option<Self> {
        [State::Bound, State::Paused, State::Locked].into_iter().find(|state| state.as_str() == text)
    }
}

/// Parses the mark about the time after the retention. An unknown value never deletes anything.
pub fn after_retention(text: &str) -> Option<AfterRetention> {
    [AfterRetention::Delete, AfterRetention::Retain].into_iter().find(|after| after.as_str() == text)
}

/// The marks of a grant at a site. Each of them may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// UID of the grant that it is of.
    pub uid: Option<String>,
    /// Code of the grant that it is of.
    pub code: Option<String>,
    /// Where it stands.
    pub state: Option<State>,
    /// When access ended.
    pub ended_at: Option<Timestamp>,
    /// Why access ended.
    pub because: Option<String>,
    /// When it was locked.
    pub locked_at: Option<Timestamp>,
    /// When what still runs is cancelled.
    pub cancel_at: Option<Timestamp>,
    /// When that was done.
    pub cancelled_at: Option<Timestamp>,
    /// Until when it is kept.
    pub retained_until: Option<Timestamp>,
    /// What happens then.
    pub after_retention: Option<AfterRetention>,
}

impl Marks {
    /// Whether the marks show a lock.
    pub fn locked(&self) -> bool {
        self.state == Some(State::Locked)
    }

    /// Whether the marks show an ended grant with its retention. The state alone is easily edited by hand; the other marks are removed when the grant
    /// gets back what it left.
    pub fn retained(&self) -> bool {
        self.retained_until.is_some()
    }

    /// Whether it is of another grant than the one with this UID and code. A grant that was made again with its code is the same one.
    pub fn is_of_another(&self, uid: &str, code: &str) -> bool {
        self.uid.as_deref().is_some_and(|earlier| earlier != uid) && self.code.as_deref().is_some_and(|earlier| earlier != code)
    }
}
