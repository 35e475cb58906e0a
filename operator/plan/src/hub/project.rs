//! Projection: from the hub's resources to intents, one a resource and site.

mod authorise;
mod grant;
mod may_hold;
mod pool;
mod residency;
mod share;
mod site;
mod wrap;

pub use authorise::living;
pub use grant::{Asked, GrantProjection, grant, grant_after_reports, grant_within};
pub use may_hold::may_hold;
pub use pool::{PoolProjection, pool};
pub use site::{abandoned, site, site_config};
