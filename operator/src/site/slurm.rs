//! A site's Slurm: its REST, and the worker that keeps accounts and budgets there.

pub mod claim;
pub mod client;
pub mod contact;
pub mod error;
pub mod read;
pub mod token;
pub mod usage;
pub mod worker;
pub mod write;
