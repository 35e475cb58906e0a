//! The custom resources of the AI Factory operator, group `aifactory.dev/v1alpha1`.
//!
//! Types, typed names, labels and conditions: no client and no runtime. What these mean on a site is decided in `aifactory-plan`.

// Printed columns repeat `type_` and `json_path` by their nature.
#![allow(clippy::duplicated_attributes)]

#[macro_use]
mod phases;

pub mod condition;
pub mod factory;
pub mod grant;
pub mod labels;
pub mod managed_slurm;
pub mod name;
pub mod pool;
pub mod reference;
mod schema;
pub mod slurm;

pub use condition::{ConditionType, Reason};
pub use factory::{AIFactory, AIFactorySpec, AIFactoryStatus};
pub use grant::{AccessGrant, AccessGrantSpec, AccessGrantStatus};
pub use pool::{GPUPool, GPUPoolSpec, GPUPoolStatus};
pub use reference::{Kind, OwnerRef};
pub use schema::crds;

/// API group of all three kinds.
pub const GROUP: &str = "aifactory.dev";
/// The one served version.
pub const VERSION: &str = "v1alpha1";
