//! The hub: watches the three kinds, tells sites what they must know, and writes down what became of it.

mod actor;
mod identity;
mod living;
mod registry;
mod watch;
mod writes;

pub use actor::{Hub, HubSettings};
pub use identity::{HubIdError, hub_id};
