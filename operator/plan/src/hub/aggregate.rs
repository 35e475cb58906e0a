//! Aggregation: from what sites report to what people read.

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

/// Everything that aggregation of one resource looks at, beside the resource.
#[derive(Clone, Debug)]
pub struct Reports<'a> {
    /// The latest report of each site about the resource.
    pub about: BTreeMap<SiteKey, &'a Report>,
    /// The latest report of each site about itself.
    pub sites: &'a BTreeMap<SiteKey, SiteReport>,
    /// Sites that a person has given up.
    pub abandoned: &'a BTreeSet<SiteKey>,
}

/// What became of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome<S> {
    /// Its status.
    pub status: S,
    /// Whether more is expected to happen by itself soon.
    pub in_progress: bool,
    /// Being deleted, and nothing keeps it any more.
    pub finished: bool,
}
