//! The status of a factory.

use std::collections::BTreeMap;

use aifactory_api::factory::{AIFactory, AIFactoryStatus, FactorySiteStatus, FactorySummary, GpuCount, Site};
use aifactory_api::{ConditionType, Kind, OwnerRef, Reason};
use jiff::Timestamp;

mod site;

use site::PartRow;

use super::Outcome;

/// As many rows as the schema allows.
const ROWS: usize = 64;
use crate::hub::cache::Cache;
use crate::hub::conditions::{Conditions, Status};
use crate::hub::reports::ReportIndex;
use crate::model::report::SiteReport;
use crate::model::site_key::{Part, SiteKey};
use crate::model::text::bounded;

/// Aggregates a factory. `index` holds what its pools and grants come to at each of its sites; `abandoned` the sites that were given up.
pub fn factory(
    cache: &Cache,
    factory: &AIFactory,
    sites: &BTreeMap<SiteKey, SiteReport>,
    index: &ReportIndex,
    abandoned: &std::collections::BTreeSet<SiteKey>,
    now: Timestamp,
) -> Outcome<AIFactoryStatus> {
    let generation = factory.metadata.generation.unwrap_or_default();
    let namespace = factory.metadata.namespace.as_deref().unwrap_or_default();
    let owner = OwnerRef::new(Kind::AIFactory, namespace, factory.metadata.name.as_deref().unwrap_or_default());
    let previous = factory.status.as_ref();
    let deleting = factory.metadata.deletion_timestamp.is_some();
    let rows: Vec<FactorySiteStatus> = all_parts(cache, &owner, factory)
        .into_iter()
        .take(ROWS)
        .map(|(name, parts)| {
            let known = previous.and_then(|status| status.sites.iter().find(|known| known.name == name));
            let parts: Vec<PartRow<'_>> = parts
                .into_iter()
                .map(|(key, named)| PartRow {
                    part: key.part,
                    report: sites.get(&key),
                    abandoned: abandoned.contains(&key),
                    left: !named,
                    claimed: cache.known.contains(&key),
                })
                .collect();
            site::row(name, known, &parts, index.tally(&SiteKey::new(owner.clone(), name)))
        })
        .collect();
    let lost: Vec<String> = rows
        .iter()
        .filter(|row| !row.reachable && !matches!(row.reason.as_deref(), Some("NotApplicable" | "Pending")))
        .map(|row| {
            let since = row.last_contact_time.as_ref().map(|at| format!(", last contact {}", at.0)).unwrap_or_default();
            format!("{}: {}{since}", row.name, row.message.as_deref().unwrap_or("not contacted yet"))
        })
        .collect();
    let pending = rows.iter().any(|row| row.reason.as_deref() == Some(Reason::Pending.as_str()));
    let troubled: Vec<&FactorySiteStatus> = rows
        .iter()
        .filter(|row| row.reason.as_deref().is_some_and(|reason| !matches!(reason, "NotApplicable" | "Pending" | "SiteUnreachable")))
        .collect();
    let orphans: i32 = rows.iter().map(|row| row.orphans).fold(0, i32::saturating_add);
    // Only the way out of a factory depends on what is left of it.
    let left = |owner: &OwnerRef| owner.name.clone();
    let pools: Vec<String> = if deleting { cache.pools_of(&owner).map(left).collect() } else { Vec::new() };
    let grants: Vec<String> = if deleting { cache.grants_by(&owner).map(left).collect() } else { Vec::new() };

    let mut conditions = Conditions::new(previous.map_or(&[], |status| status.conditions.as_slice()), generation, now);
    let ready = lost.is_empty() && troubled.is_empty() && !pending && !deleting;
    // A site lost after it was confirmed for this generation leaves Ready as it was; SitesReachable tells.
    let was_ready = previous.is_some_and(|status| {
        status.observed_generation == Some(generation) && crate::hub::conditions::is_true(&status.conditions, ConditionType::Ready)
    });
    let only_lost = troubled.is_empty() && !deleting;
    let text = bounded(
        &troubled
            .iter()
            .map(|row| format!("{}: {}", row.name, row.message.clone().unwrap_or_default()))
            .chain(lost.iter().cloned())
            .collect::<Vec<_>>(),
    );
    if deleting && !(pools.is_empty() && grants.is_empty()) {
        let names: Vec<String> =
            pools.iter().map(|name| format!("GPUPool {name}")).chain(grants.iter().map(|name| format!("AccessGrant {name}"))).collect();
        conditions.set(ConditionType::Ready, false, Reason::PoolsRemain, format!("still there: {}. Delete them first", bounded(&names)));
    } else if deleting {
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        conditions.set(ConditionType::Ready, false, Reason::SitesRemain, format!("not released: {}", bounded(&names)));
    } else if ready || (was_ready && only_lost) {
        conditions.set(ConditionType::Ready, true, Reason::AsSpecified, format!("{} sites", rows.len()));
    } else {
        let reason = troubled.first().and_then(|row| reason(row)).unwrap_or(if lost.is_empty() { Reason::Pending } else { Reason::SiteUnreachable });
        conditions.set(ConditionType::Ready, false, reason, &text);
    }
    let stuck = !troubled.is_empty() || (deleting && !(pools.is_empty() && grants.is_empty()));
    let progressing = !ready && !stuck && (pending || deleting || !was_ready);
    conditions.set(
        ConditionType::Reconciling,
        progressing,
        if progressing { Reason::InProgress } else { Reason::NotApplicable },
        if progressing { text.clone() } else { String::new() },
    );
    conditions.set(
        ConditionType::Stalled,
        stuck,
        troubled.first().and_then(|row| reason(row)).unwrap_or(if stuck { Reason::PoolsRemain } else { Reason::NotApplicable }),
        if stuck { text } else { String::new() },
    );
    conditions.set(
        ConditionType::SitesReachable,
        if pending && lost.is_empty() { Status::Unknown } else { lost.is_empty().into() },
        if !lost.is_empty() {
            Reason::SiteUnreachable
        } else if pending {
            Reason::Pending
        } else {
            Reason::AsSpecified
        },
        bounded(&lost),
    );
    engines(&mut conditions, &owner, factory, &rows, sites);
    conditions.set(
        ConditionType::OrphansFound,
        orphans > 0,
        if orphans > 0 { Reason::OrphansFound } else { Reason::NoOrphans },
        if orphans > 0 { bounded(&orphan_names(&owner, factory, sites)) } else { String::new() },
    );
    let reachable = rows.iter().filter(|row| row.reachable).count();
    let gpus = rows
        .iter()
        .filter_map(|row| row.gpus)
        .fold(GpuCount::default(), |sum, gpus| GpuCount { capacity: sum.capacity + gpus.capacity, allocated: sum.allocated + gpus.allocated });
    // Nothing is written at a part before it is known, and it is known until it has said that nothing of ours lives there.
    let released = cache.known.iter().all(|known| known.key.factory != owner || abandoned.contains(&known.key));
    let status = AIFactoryStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        summary: Some(FactorySummary {
            sites: format!("{reachable}/{}", rows.len()),
            gpus: format!("{}/{}", gpus.allocated, gpus.capacity),
            grants: i32::try_from(cache.count_grants_by(&owner)).unwrap_or(i32::MAX),
        }),
        living_grants: Some(i32::try_from(cache.count_living_grants_at(&owner)).unwrap_or(i32::MAX)),
        sites: rows,
    };
    Outcome { status, in_progress: progressing, finished: deleting && pools.is_empty() && grants.is_empty() && released }
}

fn reason(row: &FactorySiteStatus) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| Some(reason.as_str()) == row.reason.as_deref())
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

fn engines(
    conditions: &mut Conditions<'_>,
    owner: &OwnerRef,
    factory: &AIFactory,
    rows: &[FactorySiteStatus],
    sites: &BTreeMap<SiteKey, SiteReport>,
) {
    let unserved = factory
        .spec
        .sites
        .iter()
        .filter(|site| site.slurm.as_ref().is_some_and(|slurm| slurm.slinky.is_some()))
        .filter(|site| sites.get(&SiteKey::new(owner.clone(), &site.name)).is_some_and(|report| report.reachable))
        .filter(|site| rows.iter().any(|row| row.name == site.name && !row.engines.iter().any(|engine| engine.name == "Slinky")))
        .map(|site| (Reason::EngineMissing, format!("{}: Slinky (slinky.slurm.net/v1beta1) is not served", site.name)));
    let slurm = factory.spec.sites.iter().filter_map(|site| {
        let problem = sites.get(&SiteKey::slurm(owner.clone(), &site.name))?.problem.as_ref().filter(|problem| of_slurm(problem.reason))?;
        Some((problem.reason, format!("{}: Slurm: {}", site.name, problem.message)))
    });
    let troubles: Vec<(Reason, String)> = unserved.chain(slurm).collect();
    conditions.set(
        ConditionType::EnginesReady,
        troubles.is_empty(),
        troubles.first().map_or(Reason::AsSpecified, |(reason, _)| *reason),
        bounded(&troubles.into_iter().map(|(_, text)| text).collect::<Vec<_>>()),
    );
}

fn of_slurm(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SlurmVersionUnknown
            | Reason::SlurmTokenRefused
            | Reason::SlurmDatabaseDown
            | Reason::SlurmControllerDown
            | Reason::SlurmClusterMismatch
            | Reason::SlurmConfiguration
            | Reason::ParentAccountMissing
    )
}

fn orphan_names(owner: &OwnerRef, factory: &AIFactory, sites: &BTreeMap<SiteKey, SiteReport>) -> Vec<String> {
    factory
        .spec
        .sites
        .iter()
        .flat_map(|site| parts(owner, site))
        .filter_map(|key| Some((key.clone(), sites.get(&key)?)))
        .flat_map(|(key, report)| {
            let slurm = if key.part == Part::Slurm { " (Slurm)" } else { "" };
            report.orphans.iter().map(move |orphan| format!("{}{slurm}: {orphan}", key.site))
        })
        .collect()
}
