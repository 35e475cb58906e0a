//! The hub's side: from resources to intents, and from reports to status.

pub mod aggregate;
pub mod conditions;
pub mod known_sites;
pub mod ledger;
pub mod project;
pub mod urgency;
pub mod world;
