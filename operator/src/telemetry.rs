//! Logs, metrics and Events of the operator.

pub mod access_log;
pub mod event_recorder;
pub mod events;
pub mod logging;
pub mod metrics;
pub mod resource_counts;
