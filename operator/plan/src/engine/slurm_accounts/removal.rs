//! Associations that are not wanted any more: locked, then their jobs end, then they go.

use std::collections::BTreeSet;

use aifactory_api::Reason;

use super::call::{Call, Stage};
use super::decide::Planner;
use super::names::SLURM_PREFIX;
use super::record::{Record, RowMark};
use super::state::{Row, RowKey};
use crate::model::id::{AccountName, QosName, UserName};
use crate::model::lifecycle::{Ended, cancel_at};
use crate::model::report::Finding;

impl Planner<'_> {
    /// The next step of an association's removal.
    pub fn remove_row(&mut self, key: &RowKey, row: &Row) {
        let mut mark = self.mark(key, row);
        let Some(locked_at) = mark.locked_at.filter(|_| row.locked()) else {
            mark = RowMark { locked_at: Some(self.now), queue_ended_at: None, cancelled_at: None, ..mark };
            match self.lock_row(key, row, &mark, Stage::LockRows) {
                Some(call) => self.note_down(call),
                None => self.delete_row(key, row),
            }
            return;
        };
        let end = self.end.as_ref();
        let cancel_at = end.and_then(|end| cancel_at(end, locked_at));
        let due = cancel_at.is_some_and(|at| at <= self.now) && mark.cancelled_at.is_none();
        if due || mark.queue_ended_at.is_none() {
            mark.queue_ended_at.get_or_insert(self.now);
            if due {
                mark.cancelled_at = Some(self.now);
            }
            let partition = Some(key.partition.clone()).filter(|name| !name.is_empty());
            self.ask(Call::EndJobs { account: key.account.clone(), user: Some(key.user.clone()), partition, pending: !due });
            // Written after the jobs were ended: if that fails, it is done again.
            if let Some(call) = self.lock_row(key, row, &mark, Stage::Rows) {
                self.note_down(call);
            }
            return;
        }
        if let Some(at) = cancel_at.filter(|_| mark.cancelled_at.is_none()) {
            self.wake_at(at);
        }
        self.delete_row(key, row);
    }

    /// What is known of an association that is on its way out.
    pub fn mark(&self, key: &RowKey, row: &Row) -> RowMark {
        let known = self.view.removals.of(key).cloned();
        known.or_else(|| RowMark::parse(&row.comment)).unwrap_or_else(|| RowMark::new(&self.scope, self.owner, None))
    }

    /// Locks an association, on QOS of ours alone if there is one.
    pub fn lock_row(&self, key: &RowKey, row: &Row, mark: &RowMark, stage: Stage) -> Option<Call> {
        let mut qos: BTreeSet<QosName> = row.qos.iter().filter(|name| self.found.qos.contains_key(*name)).cloned().collect();
        if qos.is_empty() {
            qos.extend(self.found.qos.keys().next().map(|name| (*name).clone()));
        }
        if qos.is_empty() {
            qos.extend(row.qos.iter().filter(|name| !name.is_empty()).cloned());
        }
        let default_qos = if qos.contains(&row.default_qos) { row.default_qos.clone() } else { qos.first()?.clone() };
        Some(Call::Row { stage, key: key.clone(), qos, default_qos, parent: None, locked: true, comment: mark.render() })
    }

    /// Deletes an association that nobody works with. One that is a user's default stands in the way until another is.
    pub fn delete_row(&mut self, key: &RowKey, row: &Row) {
        if self.view.busy.contains(&key.user) {
            self.findings.push(Finding::note(Reason::InProgress, format!("{key} is locked; it goes when its jobs have ended")));
            return;
        }
        if row.is_default {
            match self.other_default(&key.user) {
                Other::Account(account) => {
                    self.ask(Call::Default { user: key.user.clone(), account });
                    return;
                }
                Other::Going => return,
                // The user's other associations here go first, or stay; this one is locked.
                Other::None if self.view.snapshot.rows_of(&key.account).any(|(other, _)| other.user == key.user && other != key) => return,
                Other::None => {}
            }
        }
        self.ask(Call::DeleteRow(key.clone()));
    }

    /// Which other account can be a user's default, a site's own if there is one.
    pub fn other_default(&self, user: &UserName) -> Other {
        let accounts = self.view.snapshot.accounts_of.get(user);
        let others: BTreeSet<&AccountName> = accounts.into_iter().flatten().filter(|name| **name != self.found.account).collect();
        let stay = others.iter().filter(|name| !self.goes(name, user));
        match stay.min_by_key(|name| (name.as_str().starts_with(SLURM_PREFIX), **name)) {
            Some(name) => Other::Account((*name).clone()),
            None if others.is_empty() => Other::None,
            None => Other::Going,
        }
    }

    /// Whether an account of ours is about to lose this user. It must not become the default: it could not go, and two would hand the user to
    /// each other for ever. The one that is the default waits for the other.
    fn goes(&self, account: &AccountName, user: &UserName) -> bool {
        let record = self.view.snapshot.accounts.get(account).and_then(|account| Record::parse(&account.description));
        if !account.as_str().starts_with(SLURM_PREFIX) || record.is_none() {
            return false;
        }
        let over = |record: Record| Ended::retained(&record.marks(), self.now).map_or(record.cancelled_at.is_some(), |ended| ended.over(self.now));
        let deleted = record.is_some_and(over);
        let mut rows = self.view.snapshot.rows_of(account).filter(|(key, _)| key.user == *user).map(|(_, row)| row).peekable();
        deleted || (rows.peek().is_some() && rows.all(Row::locked))
    }
}

/// What else may be a user's default account.
pub(super) enum Other {
    /// This one.
    Account(AccountName),
    /// Only accounts that go themselves.
    Going,
    /// The user has no other.
    None,
}
