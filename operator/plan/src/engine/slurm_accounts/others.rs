//! Who may work through an account that has the name of the grant's and is not ours.

use std::collections::BTreeSet;

use aifactory_api::Reason;

use super::decide::Planner;
use super::found::{Place, adoptable};
use super::members::users_of;
use super::state::Row;
use crate::model::id::UserName;
use crate::model::intent::GrantIntent;
use crate::model::report::{Finding, SitePhase};
use crate::model::text::bounded;

impl Planner<'_> {
    /// Members with an open association in the account of the grant's name, which is not ours or can not be told to be. Of a grant that is gone
    /// nobody knows the members: then anybody counts. An account that the site lets the grant use is the site's own business.
    pub fn let_in_by_others(&self, grant: Option<&GrantIntent>) -> BTreeSet<UserName> {
        let (snapshot, own) = (self.view.snapshot, self.scope.account(self.owner));
        let lent = grant.is_some_and(|grant| adoptable(snapshot, &grant.code).any(|name| *name == own));
        if self.found.place == Place::Ours || lent {
            return BTreeSet::new();
        }
        let members = grant.map(|grant| users_of(grant, self.view.users));
        let counts = |user: &UserName| !user.is_empty() && members.as_ref().is_none_or(|members| members.contains(user));
        let open = snapshot.rows_of(&own).filter(|(key, row)| counts(&key.user) && self.lets_work(row));
        open.map(|(key, _)| key.user.clone()).collect()
    }

    /// Says who has access in spite of the end. Nothing was found that is gone.
    pub fn name_let_in(&mut self, users: &BTreeSet<UserName>) {
        let own = self.scope.account(self.owner);
        let users: Vec<String> = users.iter().map(UserName::to_string).collect();
        let message = format!(
            "users {} can still work through account {own}, which is there and not ours. Whoever administers the site takes their associations away, \
             or the account: sacctmgr delete account {own}",
            bounded(&users)
        );
        self.findings.push(Finding::stalled(Reason::ForeignObject, message));
        if self.phase == SitePhase::Gone {
            self.phase = SitePhase::Locked;
        }
    }

    /// Whether an association admits work; a QOS of which nothing is known may.
    fn lets_work(&self, row: &Row) -> bool {
        let locked = |name| self.view.snapshot.qos.get(name).is_some_and(|qos| qos.locked());
        !row.locked() && (row.qos.is_empty() || !row.qos.iter().all(locked))
    }
}
