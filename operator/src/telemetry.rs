//! What the operator tells of itself: logs, metrics and Events.

pub mod event_recorder;
pub mod events;
pub mod logging;
pub mod metrics;
