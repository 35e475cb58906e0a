//! The systems that do the work at a site, one folder each.

pub mod network;
pub mod nodes;
pub mod slinky;
pub mod slurm_accounts;
pub mod tenancy;
