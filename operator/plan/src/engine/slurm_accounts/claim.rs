//! The claim on a Slurm cluster: an account without users whose description says which site of which factory of which hub works there.
//!
//! Accounts are the database's, so that everybody who may work in the cluster sees the same one. Slurm's REST leaves the description of an account
//! that is there as it is when somebody else makes it, so of two claimants the first one holds it.

use std::collections::BTreeMap;

use aifactory_api::{Reason, labels};

use super::decide::scope;
use super::names::{SlurmScope, claim_account};
use super::record::{line, pairs, scope_of, scope_pairs};
use super::state::Account;
use crate::model::id::{AccountName, ClusterName};
use crate::model::intent::SiteIntent;
use crate::model::report::Finding;
use crate::model::text::shorten;

/// What the claim on a cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who holds it.
    pub scope: SlurmScope,
    /// Made once at random, with the claim: it tells this cluster's database from another one.
    pub id: String,
}

/// Where a site stands in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The cluster is this site's, under this id.
    Ours(String),
    /// Nobody has claimed it. With an id, it is to be claimed under that id again.
    Free(Option<String>),
    /// Nothing may be written.
    Refused(Finding),
}

impl Claim {
    /// The line in the account's description.
    pub fn render(&self) -> String {
        let [hub, factory, site, cluster] = scope_pairs(&self.scope);
        line([hub, factory, site, cluster, ("claim", Some(self.id.clone()))])
    }

    /// Reads the line; `None`: it holds no claim.
    pub fn parse(text: &str) -> Option<Self> {
        let pairs = pairs(text)?;
        let id = pairs.get("claim").filter(|id| !id.is_empty())?.clone();
        Some(Self { scope: scope_of(&pairs)?, id })
    }

    /// A claim of this site under an id.
    pub fn of(site: &SiteIntent, id: impl Into<String>) -> Self {
        Self { scope: scope(site), id: id.into() }
    }

    /// The account that says it.
    pub fn account(&self) -> AccountName {
        claim_account(&self.scope.cluster)
    }
}

/// Where this site stands, as the accounts of the database say. `holds`: QOS or accounts say that this site has something in the cluster.
pub fn standing(site: &SiteIntent, accounts: &BTreeMap<AccountName, Account>, holds: bool) -> Standing {
    let scope = scope(site);
    let name = claim_account(&scope.cluster);
    let accepted = |id: &str| site.expected_uid.as_deref().is_none_or(|expected| expected == id) || site.accepted_uid.as_deref() == Some(id);
    let Some(account) = accounts.get(&name) else {
        return match &site.expected_uid {
            // A claim that somebody has deleted, where the rest of what is ours is still there.
            Some(expected) if !holds && site.accepted_uid.as_ref() != Some(expected) => Standing::Refused(lost(site, &name, expected)),
            expected => Standing::Free(expected.clone()),
        };
    };
    match Claim::parse(&account.description) {
        Some(claim) if claim.scope == scope && accepted(&claim.id) => Standing::Ours(claim.id),
        Some(claim) if claim.scope == scope => Standing::Refused(another(site, &claim.id)),
        Some(claim) => Standing::Refused(held_by(&scope.cluster, &name, &claim.scope)),
        None => {
            let message = format!(
                "cluster {} is claimed by nobody that can be read: account {name} says {:?}. Nothing is written there. If nobody works there any \
                 more: sacctmgr delete account {name}",
                scope.cluster,
                shorten(&account.description, 200),
            );
            Standing::Refused(Finding::stalled(Reason::SiteClaimed, message))
        }
    }
}

fn held_by(cluster: &ClusterName, account: &AccountName, holder: &SlurmScope) -> Finding {
    let SlurmScope { hub, factory, site, cluster: _ } = holder;
    let message = format!(
        "cluster {cluster} belongs to site {site} of AIFactory {}/{} of hub {hub}, as account {account} says. Nothing is written there. Release it \
         there first; if that hub is gone: sacctmgr delete account {account}",
        factory.namespace, factory.name,
    );
    Finding::stalled(Reason::SiteClaimed, message)
}

fn another(site: &SiteIntent, found: &str) -> Finding {
    let expected = site.expected_uid.as_deref().unwrap_or_default();
    let message = format!("another database answers: its claim has the id {found}, and it was {expected}. {}", accept(site, found));
    Finding::stalled(Reason::SiteIdentityChanged, message)
}

fn lost(site: &SiteIntent, account: &AccountName, expected: &str) -> Finding {
    let message = format!(
        "account {account} with this site's claim {expected} is not there, and nothing else of it: this is another database. {}",
        accept(site, expected)
    );
    Finding::stalled(Reason::SiteIdentityChanged, message)
}

fn accept(site: &SiteIntent, id: &str) -> String {
    format!(
        "Nothing is written there. If that is meant: kubectl annotate aifactory {} -n {} --overwrite {}={}/slurm={id}",
        site.factory.name,
        site.factory.namespace,
        labels::ACCEPT_IDENTITY,
        site.site,
    )
}
