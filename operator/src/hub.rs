//! The hub: watches the three kinds, sends intents to sites, and writes what sites report into status.

mod broken;
mod call;
mod controller;
mod deletion_protection;
mod identity;
mod known_sites;
mod sites;
mod watch;
mod writes;

pub use controller::{Hub, HubRecord, HubSettings};
pub use identity::{HubIdError, hub_id};
pub use known_sites::{KnownSitesError, load as load_known_sites};
pub use sites::StartWorker;
pub use watch::{AnyResource, WatchEvent};
