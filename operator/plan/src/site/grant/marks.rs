//! A grant's life as its namespace says it, in a label and annotations.

use std::collections::BTreeMap;

use aifactory_api::labels;

use super::NamespaceView;
use crate::model::lifecycle::{Ended, Marks, State, after_retention};

impl NamespaceView {
    /// What the namespace says of the life of its grant.
    pub fn marks(&self) -> Marks {
        let text = |key: &str| self.annotation(key).map(str::to_owned);
        // One that is being deleted stands in no other grant's way.
        let whose = |key: &str| text(key).filter(|_| !self.terminating);
        Marks {
            uid: whose(labels::OWNER_UID),
            code: whose(labels::CODE),
            state: State::parse(&self.state),
            ended_at: self.time(labels::ENDED_AT),
            because: text(labels::ENDED_BECAUSE),
            locked_at: self.time(labels::LOCKED_AT),
            cancel_at: self.time(labels::CANCEL_WORK_AT),
            cancelled_at: self.time(labels::WORK_CANCELLED_AT),
            retained_until: self.time(labels::RETAINED_UNTIL),
            after_retention: self.annotation(labels::AFTER_RETENTION).and_then(after_retention),
        }
    }
}

/// The annotations of a locked namespace. Whose it is and its label of state are written with every namespace.
pub(super) fn annotations(ended: &Ended) -> BTreeMap<String, String> {
    let Marks { uid: _, code: _, state: _, ended_at, because, locked_at, cancel_at, cancelled_at, retained_until, after_retention } =
        ended.marks(None, None);
    let time = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string());
    [
        (labels::ENDED_AT, time(ended_at)),
        (labels::ENDED_BECAUSE, because),
        (labels::LOCKED_AT, time(locked_at)),
        (labels::CANCEL_WORK_AT, time(cancel_at)),
        (labels::WORK_CANCELLED_AT, time(cancelled_at)),
        (labels::RETAINED_UNTIL, time(retained_until)),
        (labels::AFTER_RETENTION, after_retention.map(|after| after.as_str().to_owned())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect()
}
