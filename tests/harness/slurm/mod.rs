//! Real Slurm clusters on loopback: MariaDB, slurmdbd, slurmctld, one slurmd for each node, and slurmrestd.
//!
//! Every cluster has a pid namespace, so that its end is the end of its daemons and jobs, and a mount namespace, since
//! Slurm's sockets have fixed paths. Needs root and the folder that `tests/slurm/build` makes.
//!
//! ```no_run
//! # use aifactory_tests::{Result, slurm::{Cluster, JobSpec, Options}};
//! # async fn example() -> Result<()> {
//! let cluster = Cluster::start(Options::new("ardenne")).await?;
//! cluster.create_account("vision", "eu-aif").await?;
//! cluster.create_association("alice", "vision", None).await?;
//! let submitted = cluster.submit("alice", JobSpec::new("vision", "h100")).await;
//! # Ok(()) }
//! ```

mod admin;
mod available;
mod cluster;
mod config;
mod daemon;
mod faults;
mod jobs;
mod namespace;
mod options;
mod rest;
mod root;
mod token;

pub use available::unavailable;
pub use cluster::Cluster;
pub use daemon::Daemon;
pub use jobs::{Job, JobSpec, Refused};
pub use options::{Node, Options};
