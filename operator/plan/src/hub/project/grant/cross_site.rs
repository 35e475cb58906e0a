//! A grant's addresses, here and at linked sites.

use std::collections::BTreeMap;

use aifactory_api::factory::AIFactory;
use aifactory_api::{AccessGrant, OwnerRef};

use crate::engine::network;
use crate::hub::cache::Cache;
use crate::hub::project::site::protected;
use crate::model::intent::CrossSiteIntent;
use crate::model::site_key::SiteKey;

/// The grant's addresses here and at linked sites, less those that overlap an earlier grant's.
pub fn cross_site(cache: &Cache, owner: &OwnerRef, grant: &AccessGrant, key: &SiteKey, factory: &AIFactory) -> Option<CrossSiteIntent> {
    let asked = grant.spec.network.cross_site.as_ref()?;
    let closed = protected(factory);
    // A range that no grant may use does not count as taken.
    let usable = |cidr: &str| network::own_address(&closed, cidr).is_ok();
    let free = |cidrs: &[String]| -> Vec<String> { cidrs.iter().filter(|cidr| !cache.is_taken(cidr, owner, grant, usable)).cloned().collect() };
    let own = asked.addresses.iter().find(|entry| entry.site == key.site)?;
    let linked = |site: &str| {
        factory
            .spec
            .links
            .iter()
            .any(|link| link.between.iter().any(|end| end == &key.site) && link.between.iter().any(|end| end == site) && site != key.site)
    };
    let peers: BTreeMap<String, Vec<String>> = asked
        .addresses
        .iter()
        .filter(|entry| linked(&entry.site))
        .map(|entry| (entry.site.clone(), free(&entry.cidrs)))
        .filter(|(_, cidrs)| !cidrs.is_empty())
        .collect();
    Some(CrossSiteIntent { own: free(&own.cidrs), peers })
}
