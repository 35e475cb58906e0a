//! What a plan is made from, and what it is.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::OwnerRef;
use jiff::Timestamp;

use super::call::Call;
use super::found::HeldAccount;
use super::removal_progress::RemovalProgress;
use super::state::Snapshot;
use crate::model::digest::Digest;
use crate::model::id::UserName;
use crate::model::intent::Refusal;
use crate::model::report::{Finding, GrantDetail, SitePhase};
use crate::site::policy::SitePolicy;

/// What is known of a Slurm cluster when one grant is planned.
#[derive(Clone, Copy, Debug)]
pub struct AccountView<'a> {
    /// What was read.
    pub snapshot: &'a Snapshot,
    /// The site's own configuration.
    pub policy: &'a SitePolicy,
    /// The site's own map from member id to user. `None`: not read yet; then nobody is added, and nobody removed because of it.
    pub users: Option<&'a BTreeMap<String, UserName>>,
    /// The site's refusal of this grant.
    pub refused: Option<&'a Refusal>,
    /// Users with jobs of this grant's account.
    pub busy: &'a BTreeSet<UserName>,
    /// How far the removal of associations is.
    pub removals: &'a RemovalProgress,
}

/// Whether nobody has access by what this site has in the cluster. What is kept may fail to go, and holds up nothing; what still gives access does,
/// and what has no plan may: it was not looked at yet.
pub fn all_closed(held: &BTreeMap<OwnerRef, HeldAccount>, plans: &BTreeMap<OwnerRef, AccountPlan>) -> bool {
    held.keys().all(|owner| plans.get(owner).is_some_and(|plan| plan.detail.access_removed))
}

/// What is to be done about one grant.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountPlan {
    /// The intent that it was made for.
    pub answers: Digest,
    /// What is to be asked, by stage. Empty: just what is wanted was read.
    pub calls: Vec<Call>,
    /// Where the grant stands once nothing is left to be asked.
    pub phase: SitePhase,
    /// What people should know.
    pub findings: Vec<Finding>,
    /// What was read of it.
    pub detail: GrantDetail,
    /// When to plan again though nothing has changed.
    pub wake: Option<Timestamp>,
}
