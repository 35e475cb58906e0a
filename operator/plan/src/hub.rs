//! The hub's side: from resources to intents, and from reports to status.

pub mod aggregate;
pub mod cache;
pub mod conditions;
pub mod dependents;
pub mod holders;
pub mod known_sites;
pub mod ledger;
pub mod project;
pub mod reports;
pub mod sent;
pub mod urgency;
