//! The status of a factory.

use std::collections::BTreeMap;

use aifactory_api::factory::{AIFactory, AIFactoryStatus, CredentialStatus, FactorySiteStatus, FactorySummary, GpuCount, Site};
use aifactory_api::{ConditionType, Kind, OwnerRef, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Outcome;
use crate::conditions::{Conditions, Status, whole_seconds};
use crate::report::{Detail, Report, SitePhase, SiteReport};
use crate::text::{bounded, shorten};
use crate::world::{SiteKey, World};

/// Aggregates a factory. `about` holds the latest report of every resource at each of its sites; `abandoned` the sites that were given up.
pub fn factory<'a>(
    world: &World,
    factory: &AIFactory,
    sites: &BTreeMap<SiteKey, SiteReport>,
    about: impl Fn(&SiteKey) -> Vec<&'a Report>,
    abandoned: &std::collections::BTreeSet<SiteKey>,
    now: Timestamp,
) -> Outcome<AIFactoryStatus> {
    let generation = factory.metadata.generation.unwrap_or_default();
    let namespace = factory.metadata.namespace.as_deref().unwrap_or_default();
    let owner = OwnerRef::new(Kind::AIFactory, namespace, factory.metadata.name.as_deref().unwrap_or_default());
    let previous = factory.status.as_ref();
    let deleting = factory.metadata.deletion_timestamp.is_some();
    let rows: Vec<FactorySiteStatus> = factory
        .spec
        .sites
        .iter()
        .map(|site| {
            let key = SiteKey::new(owner.clone(), &site.name);
            let known = previous.and_then(|status| status.sites.iter().find(|known| known.name == site.name));
            row(site, sites.get(&key), known, &about(&key), abandoned.contains(&key))
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
    let pools: Vec<String> = world.pools_of(&owner).map(|pool| pool.name.clone()).collect();
    let grants: Vec<String> = world.grants_by(&owner).map(|grant| grant.name.clone()).collect();

    let mut conditions = Conditions::new(previous.map_or(&[], |status| status.conditions.as_slice()), generation, now);
    let ready = lost.is_empty() && troubled.is_empty() && !pending && !deleting;
    // A site lost after it was confirmed for this generation leaves Ready as it was; SitesReachable tells.
    let was_ready = previous
        .is_some_and(|status| status.observed_generation == Some(generation) && crate::conditions::is_true(&status.conditions, ConditionType::Ready));
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
    engines(&mut conditions, factory, &rows);
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
    let released = factory.spec.sites.iter().all(|site| {
        let key = SiteKey::new(owner.clone(), &site.name);
        site.kubernetes.is_none()
            || abandoned.contains(&key)
            || sites.get(&key).is_some_and(|report| report.released || never_ours(report, previous, &site.name))
    });
    let status = AIFactoryStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        summary: Some(FactorySummary {
            sites: format!("{reachable}/{}", rows.len()),
            gpus: format!("{}/{}", gpus.allocated, gpus.capacity),
            grants: i32::try_from(grants.len()).unwrap_or(i32::MAX),
        }),
        sites: rows,
    };
    Outcome { status, in_progress: progressing, finished: deleting && pools.is_empty() && grants.is_empty() && released }
}

fn reason(row: &FactorySiteStatus) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| Some(reason.as_str()) == row.reason.as_deref())
}

/// A site that was never claimed holds nothing of ours: its credential never worked, or it belongs to somebody else.
fn never_ours(report: &SiteReport, previous: Option<&AIFactoryStatus>, site: &str) -> bool {
    let claimed_before = previous.is_some_and(|status| status.sites.iter().any(|known| known.name == site && known.cluster_uid.is_some()));
    let refused = report.problem.as_ref().is_some_and(|problem| {
        matches!(
            problem.reason,
            Reason::SiteClaimed | Reason::CredentialInvalid | Reason::SecretNotFound | Reason::SecretForbidden | Reason::PullNotServed
        )
    });
    refused && !claimed_before
}

fn row(site: &Site, report: Option<&SiteReport>, known: Option<&FactorySiteStatus>, about: &[&Report], abandoned: bool) -> FactorySiteStatus {
    let mut row =
        FactorySiteStatus { name: site.name.clone(), cluster_uid: known.and_then(|known| known.cluster_uid.clone()), ..FactorySiteStatus::default() };
    if site.kubernetes.is_none() {
        row.reason = Some(Reason::NotApplicable.as_str().to_owned());
        row.message = Some("no Kubernetes; Slurm alone is not served by this release".to_owned());
        return row;
    }
    let Some(report) = report else {
        row.reason = Some(Reason::Pending.as_str().to_owned());
        row.message = Some("not contacted yet".to_owned());
        row.last_contact_time = known.and_then(|known| known.last_contact_time.clone());
        return row;
    };
    row.reachable = report.reachable;
    if let Some(problem) = &report.problem {
        row.reason = Some(problem.reason.as_str().to_owned());
        row.message = Some(shorten(&problem.message, 1000));
    } else if !report.synced {
        row.reason = Some(Reason::Pending.as_str().to_owned());
    } else if let Some(problem) = report.policy_problems.first() {
        row.message = Some(shorten(&format!("{}: {problem}", aifactory_api::labels::SITE_POLICY), 1000));
    }
    if abandoned {
        row.reason = Some(if report.reachable { Reason::SiteAbandoned } else { Reason::NotApplicable }.as_str().to_owned());
        row.message = Some(format!("given up by annotation {}", aifactory_api::labels::ABANDON_SITE));
    }
    if !report.reachable {
        let before = known.and_then(|known| known.last_contact_time.clone());
        row.last_contact_time = report.last_contact.map(|at| Time(whole_seconds(at))).or(before);
        if let Some(known) = known {
            row.kubernetes_version = known.kubernetes_version.clone();
            row.engines = known.engines.clone();
        }
    } else {
        row.cluster_uid = report.cluster_uid.clone().or(row.cluster_uid);
        row.kubernetes_version = report.kubernetes_version.clone();
        row.engines = report.engines.clone();
    }
    row.credential = report.credential_expires.map(|at| CredentialStatus { expires_at: Some(Time(whole_seconds(at))) });
    row.orphans = i32::try_from(report.orphans.len()).unwrap_or(i32::MAX);
    let mut gpus = GpuCount::default();
    for report in about {
        match &report.detail {
            Detail::Pool(detail) if report.phase != SitePhase::Gone => {
                row.pools += 1;
                gpus.capacity += detail.gpus;
                gpus.allocated += detail.allocated.unwrap_or_default();
            }
            Detail::Grant(_) if matches!(report.phase, SitePhase::Bound | SitePhase::Paused) => row.grants += 1,
            Detail::Pool(_) | Detail::Grant(_) | Detail::None => {}
        }
    }
    row.gpus = Some(gpus);
    row
}

fn engines(conditions: &mut Conditions<'_>, factory: &AIFactory, rows: &[FactorySiteStatus]) {
    let missing: Vec<String> = factory
        .spec
        .sites
        .iter()
        .filter(|site| site.slurm.as_ref().is_some_and(|slurm| slurm.slinky.is_some()))
        .filter(|site| rows.iter().any(|row| row.name == site.name && row.reachable && !row.engines.iter().any(|engine| engine.name == "Slinky")))
        .map(|site| format!("{}: Slinky (slinky.slurm.net/v1beta1) is not served", site.name))
        .collect();
    conditions.set(
        ConditionType::EnginesReady,
        missing.is_empty(),
        if missing.is_empty() { Reason::AsSpecified } else { Reason::EngineMissing },
        bounded(&missing),
    );
}

fn orphan_names(owner: &OwnerRef, factory: &AIFactory, sites: &BTreeMap<SiteKey, SiteReport>) -> Vec<String> {
    factory
        .spec
        .sites
        .iter()
        .filter_map(|site| sites.get(&SiteKey::new(owner.clone(), &site.name)).map(|report| (site, report)))
        .flat_map(|(site, report)| report.orphans.iter().map(move |orphan| format!("{}: {orphan}", site.name)))
        .collect()
}
