//! The claim on a cluster: read at each contact and before every pass that writes, and made where nobody has made it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use aifactory_api::Reason;
use aifactory_plan::engine::slurm_accounts::{Account, Claim, Snapshot, Standing, held, scope, standing};
use aifactory_plan::model::id::AccountName;
use aifactory_plan::model::intent::SiteIntent;
use aifactory_plan::model::report::Finding;
use serde_json::json;

use super::client::{Api, SlurmClient};
use super::error::SlurmError;
use super::{read, write};

/// Why this site may not write in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoClaim {
    /// Slurm did not answer.
    Slurm(SlurmError),
    /// It is somebody else's, or what is written has to wait.
    Finding(Finding),
}

impl From<SlurmError> for NoClaim {
    fn from(error: SlurmError) -> Self {
        Self::Slurm(error)
    }
}

impl NoClaim {
    /// What people should know.
    pub fn finding(&self) -> Finding {
        match self {
            Self::Slurm(error) => error.finding(),
            Self::Finding(finding) => finding.clone(),
        }
    }
}

/// Claims the cluster for this site, or finds that it is claimed already; its id. `None`: the site is to be let go, and nothing of it is there
/// that could be taken away.
pub async fn claim(client: &SlurmClient, site: &SiteIntent) -> Result<Option<String>, NoClaim> {
    let (accounts, qos) = tokio::try_join!(read::accounts(client), read::qos(client))?;
    let snapshot = Snapshot { accounts, qos, ..Snapshot::default() };
    let found = stands(site, &snapshot);
    if site.release && !matches!(found, Standing::Ours(_)) && !lives(site, &snapshot) {
        return match found {
            Standing::Refused(finding) if finding.reason != Reason::SiteClaimed => Err(NoClaim::Finding(finding)),
            _ => Ok(None),
        };
    }
    let id = match found {
        Standing::Refused(finding) => return Err(NoClaim::Finding(finding)),
        Standing::Ours(_) | Standing::Free(_) if !site.recorded => {
            let message = "it answers; nothing is written there before the hub has stored that this site may hold something of it";
            return Err(NoClaim::Finding(Finding::note(Reason::Pending, message)));
        }
        Standing::Ours(id) => return Ok(Some(id)),
        Standing::Free(id) => id.unwrap_or_else(random),
    };
    let claim = Claim::of(site, id);
    make(client, site, &claim).await?;
    match standing(site, &read::accounts(client).await?, true) {
        Standing::Ours(id) => Ok(Some(id)),
        Standing::Refused(finding) => Err(NoClaim::Finding(finding)),
        Standing::Free(_) => {
            let message = format!("Slurm answered that the claim was written, and account {} is not there", claim.account());
            Err(NoClaim::Finding(Finding::note(Reason::NotWritten, message)))
        }
    }
}

/// Where this site stands, as a snapshot says.
pub fn stands(site: &SiteIntent, snapshot: &Snapshot) -> Standing {
    standing(site, &snapshot.accounts, !held(snapshot, &scope(site)).is_empty())
}

/// Whether something of this site is in use in the cluster; what is locked and kept is not.
pub fn lives(site: &SiteIntent, snapshot: &Snapshot) -> bool {
    held(snapshot, &scope(site)).values().any(|held| !held.record.is_kept())
}

/// Makes the account. What an account says that is there already stays as it is: so the second of two claimants changes nothing.
async fn make(client: &SlurmClient, site: &SiteIntent, claim: &Claim) -> Result<(), SlurmError> {
    let parent = site.slurm.as_ref().and_then(|slurm| slurm.rest.as_ref()).map_or("root", |rest| rest.parent_account.as_str());
    // No shares: it takes nothing from what is beside it.
    let condition = json!({"accounts": [claim.account()], "clusters": [claim.scope.cluster], "association": {"parent": parent, "fairshare": 0}});
    let account = json!({"description": claim.render(), "organization": "aifactory"});
    client.post(Api::Slurmdb, "accounts_association/", &json!({"association_condition": condition, "account": account})).await.map(|_| ())
}

/// Gives the claim up; the accounts as they were read after it.
pub async fn give_up(client: &SlurmClient, site: &SiteIntent) -> Result<BTreeMap<AccountName, Account>, SlurmError> {
    let claim = Claim::of(site, "");
    write::delete_account(client, &claim.scope.cluster, &claim.account()).await?;
    read::accounts(client).await
}

fn random() -> String {
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}", part().rotate_left(32) ^ part())
}
