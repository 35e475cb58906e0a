//! A grant that names something which can not be read now, or a site that its factory does not name any more: nothing is made or opened, what is
//! held stays as it is, and access is only taken away.

use std::collections::BTreeSet;

use super::decide::Planner;
use super::members::{Members, member_hash};
use super::record::{Record, RowMark, State};
use super::state::{Row, RowKey};
use crate::model::id::UserName;
use crate::model::intent::GrantIntent;
use crate::model::lifecycle::Work;

impl Planner<'_> {
    /// Keeps what is held, locked where no new work may start.
    pub fn hold(&mut self, grant: &GrantIntent, work: Work) {
        if let (Work::Paused, Some(record)) = (work, self.found.record.clone()) {
            self.lock(&Record { state: State::Paused, ..record });
        }
        self.lock_strays(&BTreeSet::new());
        self.hold_members(grant);
    }

    /// Removes members who are not listed, and counts those who work.
    fn hold_members(&mut self, grant: &GrantIntent) {
        let members = Members::read(grant, self.view.users, self.view.policy);
        let listed: BTreeSet<String> = grant.members.iter().map(|member| member_hash(&member.id)).collect();
        let users: BTreeSet<&UserName> = members.users.values().collect();
        let rows: Vec<(RowKey, Row)> =
            self.found.rows(self.view.snapshot, &self.scope, self.owner).map(|(key, row)| (key.clone(), row.clone())).collect();
        let mut working: BTreeSet<&UserName> = BTreeSet::new();
        for (key, row) in &rows {
            // Until the site's map is read it may be that another user is meant.
            let unsure =
                self.view.users.is_none() && RowMark::parse(&row.comment).and_then(|mark| mark.member).is_some_and(|id| listed.contains(&id));
            if users.contains(&key.user) || unsure {
                if !row.locked() && !self.found.strays(row) {
                    working.insert(&key.user);
                }
            } else if row.locked() || !self.found.strays(row) {
                self.remove_row(key, row);
            }
        }
        self.members_bound = members.users.values().filter(|user| working.contains(user)).count();
    }
}
