//! Grants on real Slurm: two clusters, a hub, and the operator in between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "resilience/chance.rs"]
mod chance;
#[path = "fixture/mod.rs"]
mod fixture;
#[path = "slurm/sampler.rs"]
mod sampler;
#[path = "slurm/scene.rs"]
mod scene;

#[path = "slurm/budget.rs"]
mod budget;
#[path = "slurm/claims.rs"]
mod claims;
#[path = "slurm/cut.rs"]
mod cut;
#[path = "slurm/ending.rs"]
mod ending;
#[path = "slurm/faults.rs"]
mod faults;
#[path = "slurm/hands.rs"]
mod hands;
#[path = "slurm/kills.rs"]
mod kills;
#[path = "slurm/members.rs"]
mod members;
#[path = "slurm/shared.rs"]
mod shared;
#[path = "slurm/work.rs"]
mod work;
