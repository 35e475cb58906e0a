//! Messages between the hub and the controllers of sites. In-memory channels carry them for push and local sites.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::OwnerRef;
use aifactory_plan::model::intent::{Intent, SiteIntent};
use aifactory_plan::model::report::{HeldChange, Report, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use tokio::sync::mpsc;

/// From the hub to a site.
#[derive(Clone, Debug)]
pub enum ToSite {
    /// The intent for the site itself.
    Site(Box<SiteIntent>),
    /// The intent for a pool or grant.
    Put(Arc<Intent>),
    /// The site is not to act on a pool or grant any more. What it holds of it stays as it is, and is reported as held.
    Withdraw(OwnerRef),
    /// A tombstone: the resource is in none of the hub's fully synced caches.
    Gone(OwnerRef),
    /// The whole desired set, which replaces everything that was sent before.
    Everything(Box<DesiredSet>),
}

/// The intents and tombstones of a site.
#[derive(Clone, Debug, Default)]
pub struct DesiredSet {
    /// Intents by owner.
    pub intents: BTreeMap<OwnerRef, Arc<Intent>>,
    /// Owners that are in none of the hub's fully synced caches, and of which the site may hold something.
    pub tombstones: BTreeSet<OwnerRef>,
}

/// Number of a worker, by which messages of former workers of the part are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation(pub u64);

/// From a site to the hub.
#[derive(Clone, Debug)]
pub enum FromSite {
    /// About a pool or grant.
    About(Box<Report>),
    /// About the site itself.
    Site(Box<SiteReport>),
    /// Changes of what the site holds since its last report about itself.
    Held(Vec<HeldChange>),
    /// The worker has panicked and ended.
    Died,
}

/// A message with its sender.
#[derive(Clone, Debug)]
pub struct Received {
    /// The part of a site.
    pub key: SiteKey,
    /// The worker.
    pub incarnation: Incarnation,
    /// The message.
    pub message: FromSite,
}

/// The hub's end of a site.
pub type SiteSender = mpsc::UnboundedSender<ToSite>;
/// The hub's receiver.
pub type HubReceiver = mpsc::UnboundedReceiver<Received>;

/// The sites' common end at the hub.
#[derive(Clone, Debug)]
pub struct HubSender(mpsc::UnboundedSender<Received>);

impl HubSender {
    /// The end of one worker.
    pub fn of(&self, key: SiteKey, incarnation: Incarnation) -> WorkerSender {
        WorkerSender { key, incarnation, hub: self.0.clone() }
    }
}

/// One worker's end at the hub.
#[derive(Clone, Debug)]
pub struct WorkerSender {
    key: SiteKey,
    incarnation: Incarnation,
    hub: mpsc::UnboundedSender<Received>,
}

impl WorkerSender {
    /// Sends a message; one that is sent when the hub has ended is dropped.
    pub fn send(&self, message: FromSite) {
        let _ = self.hub.send(Received { key: self.key.clone(), incarnation: self.incarnation, message });
    }
}

/// The channel from the sites to the hub.
pub fn hub_channel() -> (HubSender, HubReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (HubSender(sender), receiver)
}
