//! Aggregation: from the reports of sites to a resource's status.

mod factory;
mod grant;
mod pool;
mod site_status;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

pub use factory::factory;
pub use grant::grant;
pub use pool::pool;
pub use usage::{growing, strip};

use crate::model::report::{Report, SiteReport};
use crate::model::site_key::SiteKey;

/// The input of an aggregation beside the resource.
#[derive(Clone, Debug)]
pub struct Reports<'a> {
    /// The latest report of each site about the resource.
    pub about: BTreeMap<SiteKey, &'a Report>,
    /// The latest report of each site about itself.
    pub sites: &'a BTreeMap<SiteKey, SiteReport>,
    /// Sites that a person has abandoned by annotation.
    pub abandoned: &'a BTreeSet<SiteKey>,
}

/// Result of an aggregation.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome<S> {
    /// Its status.
    pub status: S,
    /// Whether the resource is expected to progress by itself soon.
    pub in_progress: bool,
    /// Whether the resource is being deleted and its finalizer can be removed.
    pub finished: bool,
}
