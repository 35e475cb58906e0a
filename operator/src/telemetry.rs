//! What the operator tells of itself: logs, metrics and Events.

pub mod access_log;
pub mod event_recorder;
pub mod events;
pub mod logging;
pub mod metrics;
pub mod resource_counts;
