//! The operator: everything that touches the world. What objects are wanted is decided in `aifactory-plan`, which this drives.

pub mod admin;
pub mod backoff;
pub mod client;
pub mod credential;
pub mod events;
pub mod flags;
pub mod lease;
pub mod metrics;
pub mod queue;
pub mod telemetry;
pub mod text;
pub mod yaml;
