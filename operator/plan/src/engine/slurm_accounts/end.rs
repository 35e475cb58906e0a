//! The end of a grant in a Slurm cluster: the lock first, then work, and what was used is kept.

use std::collections::BTreeSet;

use super::call::{Call, Stage};
use super::decide::Planner;
use super::found::Place;
use super::record::{Record, State};
use super::state::RowKey;
use super::target::{self, Ceiling, Target};
use crate::model::id::AccountName;
use crate::model::intent::{GrantIntent, Intent};
use crate::model::lifecycle::Ended;

impl Planner<'_> {
    /// Takes access away from what is held, and keeps it for the retention.
    pub fn ended(&mut self, intent: &Intent, grant: &GrantIntent, ended: &Ended) {
        let Some(found) = self.found.record.clone() else { return };
        let queue_ended_at = found.queue_ended_at.filter(|_| found.state == State::Locked);
        let record = Record::new(&self.scope, self.owner, &intent.uid, &grant.code, State::Locked, found.since);
        self.keep(&Record { queue_ended_at, ..record }.ended(ended), ended);
    }

    /// What a locked record asks for, whether or not its grant is still there.
    pub fn keep(&mut self, record: &Record, ended: &Ended) {
        if ended.over(self.now) {
            if !self.view.policy.keep_namespaces {
                self.delete(record);
                return;
            }
            self.kept_by_site();
        }
        let mut record = record.clone();
        // Jobs end when the lock was read: none is queued anew then.
        let locked = self.found.locked() && self.found.record.as_ref().is_some_and(|found| found.state == State::Locked);
        if locked && ended.cancels(self.now) {
            self.end_jobs(false);
            record.queue_ended_at.get_or_insert(self.now);
            record = record.ended(&ended.cancelled(self.now));
        } else if locked && record.queue_ended_at.is_none() {
            self.end_jobs(true);
            record.queue_ended_at = Some(self.now);
        }
        self.lock(&record);
        if let Some(at) = ended.deadline(self.now) {
            self.wake_at(at);
        }
    }

    /// Locks every QOS, and has this record written; what leads past the QOS is locked too. The budgets that were in force stay as they are: they
    /// say what was given, whatever the grant has become by then.
    pub fn lock(&mut self, record: &Record) {
        let mut calls = Vec::new();
        for (name, (qos, said)) in &self.found.qos {
            let entry = said.entry.clone().unwrap_or_default();
            let description = record.for_qos(&self.found.account, &entry).render();
            let target = Target { name: (*name).clone(), description, limits: target::lock(&qos.limits), locked: true };
            calls.extend(target.call(Some(qos)));
        }
        calls.extend(self.describe(record));
        calls.into_iter().for_each(|call| self.note_down(call));
        self.lock_strays(&BTreeSet::new());
    }

    /// Has an account of ours say this record.
    pub fn describe(&self, record: &Record) -> Option<Call> {
        if self.found.place != Place::Ours {
            return None;
        }
        let account = self.view.snapshot.accounts.get(&self.found.account)?;
        let description = record.render();
        (account.description != description).then(|| Call::Describe {
            name: self.found.account.clone(),
            description,
            organization: account.organization.clone(),
        })
    }

    /// Locks associations that lead past our QOS, but for those that are put right in the same pass.
    pub fn lock_strays(&mut self, mended: &BTreeSet<RowKey>) {
        let mut calls = Vec::new();
        for (key, row) in self.found.rows(self.view.snapshot, &self.scope, self.owner) {
            if !self.found.strays(row) || row.locked() || mended.contains(key) {
                continue;
            }
            let mut mark = self.mark(key, row);
            mark.locked_at.get_or_insert(self.now);
            calls.extend(self.lock_row(key, row, &mark, Stage::LockRows));
        }
        calls.into_iter().for_each(|call| self.note_down(call));
    }

    /// Ends jobs of the account; of an account that is the site's own, only those of our associations.
    pub fn end_jobs(&mut self, pending: bool) {
        let account = self.found.account.clone();
        match self.found.place {
            Place::Ours => self.ask(Call::EndJobs { account, user: None, partition: None, pending }),
            Place::Adopted => {
                let keys: Vec<_> = self.found.rows(self.view.snapshot, &self.scope, self.owner).map(|(key, _)| key.clone()).collect();
                for key in keys.into_iter().filter(|key| !key.partition.is_empty()) {
                    self.ask(Call::EndJobs { account: key.account, user: Some(key.user), partition: Some(key.partition), pending });
                }
            }
            Place::Absent | Place::Foreign => {}
        }
    }

    /// What the accounts above allow.
    pub fn ceiling(&self) -> Ceiling {
        let parent = self.parent();
        let account = if self.found.place == Place::Adopted { &self.found.account } else { &parent };
        Ceiling::read(self.view.snapshot, account)
    }

    /// The account that ours are made below.
    pub fn parent(&self) -> AccountName {
        let rest = self.site.slurm.as_ref().and_then(|slurm| slurm.rest.as_ref());
        AccountName::new(rest.map_or("root", |rest| rest.parent_account.as_str()))
    }
}
