//! Deletion: the lock, the jobs, default accounts, the account, and last of all its QOS, since an association whose QOS is deleted falls back
//! to one without a budget.

use aifactory_api::Reason;

use super::call::Call;
use super::decide::Planner;
use super::found::Place;
use super::record::Record;
use super::removal::Other;
use super::state::{Row, RowKey};
use crate::model::report::{Finding, SitePhase};

impl Planner<'_> {
    /// The next step of deletion.
    pub fn delete(&mut self, record: &Record) {
        self.phase = SitePhase::Locked;
        let rows: Vec<(RowKey, Row)> =
            self.found.rows(self.view.snapshot, &self.scope, self.owner).map(|(key, row)| (key.clone(), row.clone())).collect();
        let present = match self.found.place {
            Place::Ours => true,
            Place::Adopted => !rows.is_empty(),
            Place::Absent | Place::Foreign => false,
        };
        if !present {
            return self.delete_qos();
        }
        if !self.found.locked() || rows.iter().any(|(_, row)| self.found.strays(row) && !row.locked()) {
            return self.lock(record);
        }
        if record.cancelled_at.is_none() {
            self.end_jobs(false);
            let cancelled = Record { cancelled_at: Some(self.now), queue_ended_at: record.queue_ended_at.or(Some(self.now)), ..record.clone() };
            return self.lock(&cancelled);
        }
        if !self.view.busy.is_empty() && self.found.place == Place::Ours {
            let message = format!("account {} is locked; it goes when its jobs have ended", self.found.account);
            self.findings.push(Finding::note(Reason::InProgress, message));
            return;
        }
        if self.found.place == Place::Ours {
            if self.no_defaults(&rows) {
                self.ask(Call::DeleteAccount(self.found.account.clone()));
            }
            return;
        }
        for (key, row) in &rows {
            self.delete_row(key, row);
        }
    }

    /// Whether the account is no user's default any more, or may go with it.
    fn no_defaults(&mut self, rows: &[(RowKey, Row)]) -> bool {
        let mut none = true;
        for (key, _) in rows.iter().filter(|(_, row)| row.is_default) {
            let other = self.other_default(&key.user);
            none &= matches!(other, Other::None);
            if let Other::Account(account) = other {
                self.ask(Call::Default { user: key.user.clone(), account });
            }
        }
        none
    }

    fn delete_qos(&mut self) {
        for name in self.found.qos.keys().map(|name| (*name).clone()).collect::<Vec<_>>() {
            let used = self.view.snapshot.rows.iter().find(|(_, row)| row.qos.contains(&name) || row.default_qos == name);
            match used {
                Some((key, _)) => {
                    let message = format!("QOS {name} is kept, locked: {key} names it. Take it off there, or delete that association");
                    self.findings.push(Finding::stalled(Reason::ForeignObject, message));
                }
                None => self.ask(Call::DeleteQos(name)),
            }
        }
    }
}
