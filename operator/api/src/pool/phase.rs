//! Where a pool stands at a site, and how its Slurm partition is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

phases! {
    /// Where a pool stands at one site.
    PoolSitePhase {
        /// The site has not done yet what is asked for.
        Pending,
        /// The site holds what is asked for.
        Ready,
        /// Something is wrong at the site.
        Degraded,
        /// The pool is being drained at the site.
        Draining,
        /// The site holds nothing of the pool.
        Gone,
        /// The site can not be asked; also what unknown values mean.
        #[serde(other)] Unknown,
    }
}

phases! {
    /// How a Slurm partition is.
    PartitionState {
        /// It takes jobs.
        Up,
        /// No node can run a job.
        Down,
        /// It has no nodes.
        Empty,
        /// It takes no new jobs.
        Draining,
        /// Slurm has no partition of this name.
        Missing,
        /// Nothing is known yet; also what unknown values mean.
        #[serde(other)] Unknown,
    }
}

impl PartitionState {
    /// The state with this name, as sites report it.
    pub fn parse(text: &str) -> Self {
        PartitionState::ALL.iter().copied().find(|state| state.as_str() == text).unwrap_or_default()
    }
}

// The macro takes no attribute for the default variant.
#[allow(clippy::derivable_impls)]
impl Default for PoolSitePhase {
    fn default() -> Self {
        PoolSitePhase::Unknown
    }
}

#[allow(clippy::derivable_impls)]
impl Default for PartitionState {
    fn default() -> Self {
        PartitionState::Unknown
    }
}
