//! The operator: everything that touches the world. What objects are wanted is decided in `aifactory-plan`, which this drives.

pub mod admin;
pub mod cli;
pub mod client;
pub mod crds;
pub mod credential;
pub mod events;
pub mod flags;
pub mod hub;
pub mod lease;
pub mod metrics;
pub mod notices;
pub mod run;
pub mod schedule;
pub mod site;
pub mod slurm;
pub mod telemetry;
pub mod text;
pub mod transport;
pub mod yaml;
