//! The operator: everything that touches the world. What objects are wanted is decided in `aifactory-plan`, which this drives.

pub mod admin;
pub mod cli;
pub mod client;
pub mod crds;
pub mod credential;
pub mod flags;
pub mod hub;
pub mod lease;
pub mod run;
pub mod site;
mod supervise;
pub mod telemetry;
pub mod text;
pub mod tolerant_decode;
pub mod transport;
pub mod workqueue;
pub mod yaml;
