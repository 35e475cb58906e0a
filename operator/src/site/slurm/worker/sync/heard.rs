//! Whether slurmctld has heard of what was removed. slurmdbd tells it of each change, once; a change that is made while slurmctld is not registered there
//! is lost on it, and a user whose association is gone from the database goes on submitting jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aifactory_api::{OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::{RowKey, Snapshot};
use aifactory_plan::model::id::AccountName;
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::text::bounded;

use super::{Found, Pass};
use crate::site::slurm::client::SlurmClient;
use crate::site::slurm::error::SlurmError;
use crate::site::slurm::read;

/// How long slurmctld may take to work a change in.
const WORKS_IN: Duration = Duration::from_secs(1);

/// What slurmctld was asked about so far.
#[derive(Clone, Debug, Default)]
pub(in crate::site::slurm::worker) struct Heard {
    /// Accounts of which it has said in this session that nobody may submit jobs there.
    pub confirmed: BTreeSet<AccountName>,
    /// Accounts from which somebody was removed, and of which it has not said that it knows.
    pub removed_from: BTreeSet<AccountName>,
}

impl Pass {
    /// Asks slurmctld about accounts from which somebody was removed, or whose access is gone by the database and was not seen gone by slurmctld in this
    /// session. Only a person helps where it has not heard: an association that is made and deleted once more has another id, and slurmctld keeps the
    /// first.
    pub(super) async fn confirm(&mut self, client: &SlurmClient, snapshot: &Snapshot, found: &mut Found) -> Result<(), SlurmError> {
        let asked = self.unconfirmed(snapshot, found);
        let accounts: BTreeSet<AccountName> = asked.values().cloned().collect();
        if accounts.is_empty() {
            return Ok(());
        }
        let mut stale = stale(client, snapshot, &accounts).await?;
        if !matches!(&stale, Ok(stale) if stale.is_empty()) {
            tokio::time::sleep(WORKS_IN).await;
            stale = self::stale(client, snapshot, &accounts).await?;
        }
        for (owner, account) in asked {
            let Some(problem) = problem(&stale, &account) else {
                self.memory.heard.removed_from.remove(&account);
                self.memory.heard.confirmed.insert(account);
                continue;
            };
            if let Some(plan) = found.plans.get_mut(&owner) {
                plan.detail.access_removed = false;
            }
            found.failures.entry(owner).or_default().push(problem);
        }
        Ok(())
    }

    /// The accounts about which slurmctld is asked, by the grant that they are of.
    fn unconfirmed(&mut self, snapshot: &Snapshot, found: &Found) -> BTreeMap<OwnerRef, AccountName> {
        let mut asked = BTreeMap::new();
        for (owner, plan) in &found.plans {
            let account = found.held.get(owner).map_or_else(|| self.scope.account(owner), |held| held.account.clone());
            if !plan.detail.access_removed {
                self.memory.heard.confirmed.remove(&account);
            }
            let finished = plan.calls.is_empty() && !found.unfinished.contains(owner);
            let closed = plan.detail.access_removed && !self.memory.heard.confirmed.contains(&account);
            if finished && snapshot.accounts.contains_key(&account) && (closed || self.memory.heard.removed_from.contains(&account)) {
                asked.insert(owner.clone(), account);
            }
        }
        asked
    }
}

/// The associations of users in accounts that slurmctld goes by and that the database does not have; or why it does not tell.
type Stale = Result<BTreeSet<RowKey>, SlurmError>;

async fn stale(client: &SlurmClient, snapshot: &Snapshot, accounts: &BTreeSet<AccountName>) -> Result<Stale, SlurmError> {
    match read::users_in_force(client, accounts).await {
        Ok(known) => Ok(Ok(known.into_iter().filter(|key| !snapshot.rows.contains_key(key)).collect())),
        Err(error) if error.is_transport() => Err(error),
        // A release that does not serve it, or an admin who does not let the operator see it: the database's word stands.
        Err(SlurmError::Forbidden | SlurmError::UnknownVersion(_)) => Ok(Ok(BTreeSet::new())),
        Err(error) => Ok(Err(error)),
    }
}

/// Why access to an account can not be called gone.
fn problem(stale: &Stale, account: &AccountName) -> Option<Finding> {
    let left: Vec<String> = match stale {
        Ok(stale) => stale.iter().filter(|key| key.account == *account).map(ToString::to_string).collect(),
        Err(error) => return Some(Finding::note(Reason::NotWritten, format!("slurmctld does not tell which associations it goes by: {error}"))),
    };
    (!left.is_empty()).then(|| not_heard(&left))
}

fn not_heard(left: &[String]) -> Finding {
    let text = format!(
        "slurmctld has not heard that these were removed from its accounting database, and may still take their jobs: {}; run: scontrol reconfigure",
        bounded(left)
    );
    Finding::stalled(Reason::NotWritten, text)
}
