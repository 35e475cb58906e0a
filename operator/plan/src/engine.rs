//! The systems that do the work at a site, one folder each.
//!
//! An engine implements [`contract::Engine`], and has a line in [`ALL`].

pub mod contract;
pub mod grant_stages;
pub mod network;
pub mod nodes;
pub mod pool_stages;
pub mod registry;
pub mod site_stages;
pub mod slinky;
pub mod slurm_accounts;
pub mod tenancy;
pub mod uses;

pub use registry::Engines;

/// The engines of this release, in the order in which they add to a stage.
pub static ALL: Engines = Engines::new(&[&network::Network, &tenancy::Tenancy, &nodes::Nodes, &slinky::Slinky, &slurm_accounts::SlurmAccounts]);
