//! The operator: everything that touches the world. What objects are wanted is decided in `aifactory-plan`, which this drives.

pub mod backoff;
pub mod client;
pub mod credential;
pub mod lease;
pub mod queue;
pub mod yaml;
pub mod cli;
pub mod hub;
pub mod notices;
pub mod schedule;
pub mod site;
pub mod transport;
pub mod run;
