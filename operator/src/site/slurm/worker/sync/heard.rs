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

impl Pass {
    /// Asks slurmctld about accounts whose access is gone by the database and was not seen gone by slurmctld in this session. Only a person helps where
    /// it has not heard: an association that is made and deleted once more has another id, and slurmctld keeps the first.
    pub(super) async fn confirm(&mut self, client: &SlurmClient, snapshot: &Snapshot, found: &mut Found) -> Result<(), SlurmError> {
        let asked = self.unconfirmed(snapshot, found);
        let accounts: BTreeSet<AccountName> = asked.values().cloned().collect();
        if accounts.is_empty() {
            return Ok(());
        }
        let mut stale = stale(client, snapshot, &accounts).await?;
        if !stale.is_empty() {
            tokio::time::sleep(WORKS_IN).await;
            stale = self::stale(client, snapshot, &accounts).await?;
        }
        for (owner, account) in asked {
            let left: Vec<String> = stale.iter().filter(|key| key.account == account).map(ToString::to_string).collect();
            if left.is_empty() {
                self.confirmed.insert(account);
                continue;
            }
            if let Some(plan) = found.plans.get_mut(&owner) {
                plan.detail.access_removed = false;
            }
            found.failures.entry(owner).or_default().push(not_heard(&left));
        }
        Ok(())
    }

    /// The accounts about which slurmctld is asked, by the grant that they are of.
    fn unconfirmed(&mut self, snapshot: &Snapshot, found: &Found) -> BTreeMap<OwnerRef, AccountName> {
        let mut asked = BTreeMap::new();
        for (owner, plan) in &found.plans {
            let account = found.held.get(owner).map_or_else(|| self.scope.account(owner), |held| held.account.clone());
            if !plan.detail.access_removed {
                self.confirmed.remove(&account);
            }
            let finished = plan.calls.is_empty() && !found.unfinished.contains(owner);
            let closed = plan.detail.access_removed && !self.confirmed.contains(&account);
            if finished && snapshot.accounts.contains_key(&account) && (closed || self.removed_from.contains(&account)) {
                asked.insert(owner.clone(), account);
            }
        }
        asked
    }
}

/// The associations of users in these accounts that slurmctld goes by and that the database does not have.
async fn stale(client: &SlurmClient, snapshot: &Snapshot, accounts: &BTreeSet<AccountName>) -> Result<BTreeSet<RowKey>, SlurmError> {
    let known = match read::users_in_force(client, accounts).await {
        Ok(known) => known,
        Err(error) if error.is_transport() => return Err(error),
        // A release that does not tell, or an admin who does not let it: the database's word stands.
        Err(error) => {
            tracing::debug!(%error, "slurmctld does not tell which associations it goes by");
            return Ok(BTreeSet::new());
        }
    };
    Ok(known.into_iter().filter(|key| !snapshot.rows.contains_key(key)).collect())
}

fn not_heard(left: &[String]) -> Finding {
    let text = format!(
        "slurmctld has not heard that these were removed from its accounting database, and may still take their jobs: {}; run: scontrol reconfigure",
        bounded(left)
    );
    Finding::stalled(Reason::NotWritten, text)
}
