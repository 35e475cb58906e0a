//! The status of a factory.

mod conditions;
mod site;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::{AIFactory, AIFactoryStatus, FactorySiteStatus, FactorySummary, GpuCount, Site};
use aifactory_api::{ConditionType, Kind, OwnerRef, Reason};
use jiff::Timestamp;

use super::Outcome;
use crate::hub::cache::Cache;
use crate::hub::conditions::is_true;
use crate::hub::reports::ReportIndex;
use crate::model::report::SiteReport;
use crate::model::site_key::SiteKey;
use site::PartRow;

/// As many rows as the schema allows.
const ROWS: usize = 64;

/// A factory with everything that is known of it.
struct View<'a> {
    owner: &'a OwnerRef,
    factory: &'a AIFactory,
    generation: i64,
    deleting: bool,
    sites: &'a BTreeMap<SiteKey, SiteReport>,
    rows: Vec<FactorySiteStatus>,
    /// Sites that do not answer or can not be used, by name, each with why.
    lost: Vec<(String, String)>,
    /// A site was not contacted yet.
    pending: bool,
    /// Pools and grants that are left; read only on the factory's way out.
    pools: Vec<String>,
    grants: Vec<String>,
}

/// Aggregates a factory. `index` has the sums over its pools and grants at each site; `abandoned` the sites that a person has abandoned.
pub fn factory(
    cache: &Cache,
    factory: &AIFactory,
    sites: &BTreeMap<SiteKey, SiteReport>,
    index: &ReportIndex,
    abandoned: &BTreeSet<SiteKey>,
    now: Timestamp,
) -> Outcome<AIFactoryStatus> {
    let namespace = factory.metadata.namespace.as_deref().unwrap_or_default();
    let owner = OwnerRef::new(Kind::AIFactory, namespace, factory.metadata.name.as_deref().unwrap_or_default());
    let view = View::of(cache, factory, &owner, sites, rows(cache, factory, &owner, sites, index, abandoned));
    // A part is known before the first write there, and until it has reported that nothing of ours lives there.
    let released = cache.known.iter().all(|known| known.key.factory != owner || abandoned.contains(&known.key));
    let (in_progress, finished) = (view.progressing(), view.deleting && !view.remains() && released);
    let status = AIFactoryStatus {
        observed_generation: Some(view.generation),
        conditions: conditions::all(&view, now),
        summary: Some(summary(cache, &owner, &view.rows)),
        living_grants: Some(i32::try_from(cache.count_living_grants_at(&owner)).unwrap_or(i32::MAX)),
        sites: view.rows,
    };
    Outcome { status, in_progress, finished }
}

fn rows(
    cache: &Cache,
    factory: &AIFactory,
    owner: &OwnerRef,
    sites: &BTreeMap<SiteKey, SiteReport>,
    index: &ReportIndex,
    abandoned: &BTreeSet<SiteKey>,
) -> Vec<FactorySiteStatus> {
    let part = |(key, named): (SiteKey, bool)| PartRow {
        part: key.part,
        report: sites.get(&key),
        abandoned: abandoned.contains(&key),
        left: !named,
        claimed: cache.known.contains(&key),
    };
    let row = |(name, parts): (&str, BTreeMap<SiteKey, bool>)| {
        let known = factory.status.as_ref().and_then(|status| status.sites.iter().find(|known| known.name == name));
        let parts: Vec<PartRow<'_>> = parts.into_iter().map(part).collect();
        site::row(name, known, &parts, index.tally(&SiteKey::new(owner.clone(), name)))
    };
    all_parts(cache, owner, factory).into_iter().take(ROWS).map(row).collect()
}

fn summary(cache: &Cache, owner: &OwnerRef, rows: &[FactorySiteStatus]) -> FactorySummary {
    let reachable = rows.iter().filter(|row| row.reachable).count();
    let add = |sum: GpuCount, gpus: GpuCount| GpuCount { capacity: sum.capacity + gpus.capacity, allocated: sum.allocated + gpus.allocated };
    let gpus = rows.iter().filter_map(|row| row.gpus).fold(GpuCount::default(), add);
    FactorySummary {
        sites: format!("{reachable}/{}", rows.len()),
        gpus: format!("{}/{}", gpus.allocated, gpus.capacity),
        grants: i32::try_from(cache.count_grants_by(owner)).unwrap_or(i32::MAX),
    }
}

impl<'a> View<'a> {
    fn of(
        cache: &Cache,
        factory: &'a AIFactory,
        owner: &'a OwnerRef,
        sites: &'a BTreeMap<SiteKey, SiteReport>,
        rows: Vec<FactorySiteStatus>,
    ) -> Self {
        let deleting = factory.metadata.deletion_timestamp.is_some();
        let name = |owner: &OwnerRef| owner.name.clone();
        let has = |row: &FactorySiteStatus, reason: Reason| row.reason.as_deref() == Some(reason.as_str());
        let lost = rows
            .iter()
            .filter(|row| !row.reachable && !has(row, Reason::NotApplicable) && !has(row, Reason::Pending))
            .map(|row| {
                let since = row.last_contact_time.as_ref().map(|at| format!(", last contact {}", at.0)).unwrap_or_default();
                let why = row.message.as_deref().unwrap_or("not contacted yet");
                (row.name.clone(), format!("{}: {why}{since}", row.name))
            })
            .collect();
        Self {
            owner,
            factory,
            generation: factory.metadata.generation.unwrap_or_default(),
            deleting,
            sites,
            lost,
            pending: rows.iter().any(|row| has(row, Reason::Pending)),
            pools: if deleting { cache.pools_of(owner).map(name).collect() } else { Vec::new() },
            grants: if deleting { cache.grants_by(owner).map(name).collect() } else { Vec::new() },
            rows,
        }
    }

    /// Sites that can not be used as specified, whether or not something answers there.
    fn troubled(&self) -> Vec<&FactorySiteStatus> {
        let fine = [Reason::NotApplicable, Reason::Pending, Reason::SiteUnreachable].map(Reason::as_str);
        self.rows.iter().filter(|row| row.reason.as_deref().is_some_and(|reason| !fine.contains(&reason))).collect()
    }

    /// Whether the factory is to go, and pools or grants keep it.
    fn remains(&self) -> bool {
        !self.pools.is_empty() || !self.grants.is_empty()
    }

    fn ready(&self) -> bool {
        self.lost.is_empty() && self.troubled().is_empty() && !self.pending && !self.deleting
    }

    /// Whether every site has confirmed this generation before.
    fn was_ready(&self) -> bool {
        let status = self.factory.status.as_ref().filter(|status| status.observed_generation == Some(self.generation));
        status.is_some_and(|status| is_true(&status.conditions, ConditionType::Ready))
    }

    fn stalled(&self) -> bool {
        !self.troubled().is_empty() || (self.deleting && self.remains())
    }

    fn progressing(&self) -> bool {
        !self.ready() && !self.stalled() && (self.pending || self.deleting || !self.was_ready())
    }
}

/// The sites in the order of the spec, then those that are not named any more and may hold something; each with its parts, and whether the spec names
/// the part.
fn all_parts<'a>(cache: &'a Cache, owner: &OwnerRef, factory: &'a AIFactory) -> Vec<(&'a str, BTreeMap<SiteKey, bool>)> {
    let of = |site: &'a Site| (site.name.as_str(), parts(owner, site).into_iter().map(|key| (key, true)).collect());
    let mut sites: Vec<(&str, BTreeMap<SiteKey, bool>)> = factory.spec.sites.iter().map(of).collect();
    for key in cache.known.iter().map(|known| &known.key).filter(|key| key.factory == *owner) {
        let at = sites.iter().position(|(name, _)| *name == key.site).unwrap_or_else(|| {
            sites.push((&key.site, BTreeMap::new()));
            sites.len() - 1
        });
        if let Some((_, parts)) = sites.get_mut(at) {
            parts.entry(key.clone()).or_insert(false);
        }
    }
    sites
}

/// The parts of a site that there are.
fn parts(owner: &OwnerRef, site: &Site) -> Vec<SiteKey> {
    let kubernetes = site.kubernetes.as_ref().map(|_| SiteKey::new(owner.clone(), &site.name));
    let rest = site.slurm.as_ref().and_then(|slurm| slurm.rest.as_ref());
    kubernetes.into_iter().chain(rest.map(|_| SiteKey::slurm(owner.clone(), &site.name))).collect()
}
