//! How far the removal of associations is.
//!
//! Slurm's REST writes an association's comment only when it makes it, so this is remembered by whoever asks. After a restart a removal begins
//! anew: a grace period then lasts longer, and nothing lasts shorter.

use std::collections::BTreeMap;

use super::call::Call;
use super::record::RowMark;
use super::state::{RowKey, Snapshot};

/// How far the removal of each association is, as far as it is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovalProgress {
    marks: BTreeMap<RowKey, RowMark>,
}

impl RemovalProgress {
    /// Takes note of a call that was made.
    pub fn record(&mut self, call: &Call) {
        match call {
            Call::Row { key, locked: true, comment, .. } => {
                if let Some(mark) = RowMark::parse(comment) {
                    self.marks.insert(key.clone(), mark);
                }
            }
            Call::Row { key, locked: false, .. } | Call::DeleteRow(key) => {
                self.marks.remove(key);
            }
            Call::DeleteAccount(name) => self.marks.retain(|key, _| key.account != *name),
            _ => {}
        }
    }

    /// Forgets associations that are not there any more, where all of them were read.
    pub fn retain(&mut self, snapshot: &Snapshot) {
        self.marks.retain(|key, _| snapshot.rows.contains_key(key));
    }

    /// How far the removal of an association is.
    pub fn of(&self, key: &RowKey) -> Option<&RowMark> {
        self.marks.get(key)
    }
}
