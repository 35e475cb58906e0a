//! Slurm accounts as an engine.

use crate::engine::contract::Engine;
use crate::model::intent::SiteIntent;

/// Accounts, QOS and associations. They are no objects of a Kubernetes: a controller of its own talks with slurmrestd, and a plan is a list of calls
/// in the stages of [`super::Stage`]. So it adds nothing to the stages of objects, and has no kinds that could be watched.
pub struct SlurmAccounts;

impl Engine for SlurmAccounts {
    fn name(&self) -> &'static str {
        "slurm_accounts"
    }

    fn concerns(&self, site: &SiteIntent) -> bool {
        site.slurm.as_ref().is_some_and(|slurm| slurm.rest.is_some())
    }
}
