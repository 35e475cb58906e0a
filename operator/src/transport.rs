//! What hub and sites say to each other. Carried in memory for push and local sites.

use aifactory_api::OwnerRef;
use aifactory_plan::model::intent::{Intent, SiteIntent};
use aifactory_plan::model::report::{Report, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use tokio::sync::mpsc;

/// From the hub to a site.
#[derive(Clone, Debug)]
pub enum ToSite {
    /// What the site must know of its factory.
    Site(Box<SiteIntent>),
    /// What the site must know of a pool or grant.
    Put(Box<Intent>),
    /// The resource is in none of the hub's fully synced caches.
    Gone(OwnerRef),
}

/// From a site to the hub.
#[derive(Clone, Debug)]
pub enum FromSite {
    /// About a pool or grant.
    About(SiteKey, Box<Report>),
    /// About the site itself.
    Site(SiteKey, Box<SiteReport>),
}

/// The hub's end of a site.
pub type SiteSender = mpsc::UnboundedSender<ToSite>;
/// The sites' common end at the hub.
pub type HubSender = mpsc::UnboundedSender<FromSite>;
