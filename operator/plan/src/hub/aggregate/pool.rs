//! The status of a pool.

use aifactory_api::factory::GpuCount;
use aifactory_api::pool::{GPUPool, GPUPoolStatus, NodeCount, PartitionStatus, PoolGpuHours, PoolSiteStatus, PoolSummary};
use aifactory_api::{ConditionType, Kind, OwnerRef, Reason};
use jiff::Timestamp;

use super::site_status::{Reach, Standing};
use super::{Outcome, Reports, usage};
use crate::hub::cache::Cache;
use crate::hub::conditions::{Conditions, Status, is_true};
use crate::hub::project::PoolProjection;
use crate::hub::reports::ReportIndex;
use crate::model::intent::{Body, Intent, Presence};
use crate::model::report::{Detail, Finding, PoolDetail, SitePhase};
use crate::model::site_key::Part;
use crate::model::text::{bounded, shorten};

/// As many rows as the schema allows.
const ROWS: usize = 64;

/// Aggregates a pool. `index` holds what its grants have used.
pub fn pool(
    cache: &Cache,
    pool: &GPUPool,
    projection: &PoolProjection,
    reports: &Reports<'_>,
    index: &ReportIndex,
    now: Timestamp,
) -> Outcome<GPUPoolStatus> {
    let generation = pool.metadata.generation.unwrap_or_default();
    let namespace = pool.metadata.namespace.as_deref().unwrap_or_default();
    let owner = OwnerRef::new(Kind::GPUPool, namespace, pool.metadata.name.as_deref().unwrap_or_default());
    let previous = pool.status.as_ref();
    let deleting = pool.metadata.deletion_timestamp.is_some();
    let (standings, suspects): (Vec<_>, Vec<_>) = projection
        .sites
        .iter()
        .map(|(key, intent)| (intent, Standing::of(key, intent, reports)))
        .filter(|(_, standing)| !standing.abandoned || standing.reachable)
        .partition(|(intent, standing)| concerns(pool, &owner, intent, standing, reports));
    let [standings, suspects] = [standings, suspects].map(|list| list.into_iter().map(|(_, standing)| standing).collect::<Vec<_>>());
    let was_ready =
        previous.is_some_and(|status| status.observed_generation == Some(generation) && is_true(&status.conditions, ConditionType::Ready));
    let confirmed = |standing: &Standing<'_>| standing.settled || (!standing.reachable && was_ready);
    let reach = Reach::of(standings.iter(), namespace);
    let open: Vec<&Standing<'_>> = standings.iter().filter(|standing| !confirmed(standing)).collect();
    let findings: Vec<(String, &Finding)> =
        standings.iter().flat_map(|standing| standing.findings().iter().map(move |finding| (standing.label(namespace), finding))).collect();
    // Only the way out of a pool depends on who uses it.
    let using = deleting.then(|| cache.grants_of(&owner)).into_iter().flatten();
    let grants: Vec<String> = using.map(|grant| format!("{}/{}", grant.namespace, grant.name)).collect();

    let places = places(&standings);
    let sum = |take: fn(&PoolDetail) -> i64| places.iter().filter_map(|place| place.detail.as_ref()).map(take).fold(0, i64::saturating_add);
    let down: Vec<String> = places
        .iter()
        .filter(|place| place.parts.iter().any(|standing| standing.phase() == Some(SitePhase::Bound)))
        .filter_map(|place| {
            let (name, state) = place.detail.as_ref()?.partition.as_ref()?;
            let why = place.parts.iter().flat_map(|standing| standing.findings()).find(|finding| finding.reason == Reason::PartitionNotReady);
            let text = || format!("partition {name} is {state}");
            (state != "Up").then(|| format!("{}: {}", place.name(namespace), why.map_or_else(text, |finding| finding.message.clone())))
        })
        .collect();
    let mut conditions = Conditions::new(previous.map_or(&[], |status| status.conditions.as_slice()), generation, now);
    let problem = projection.problems.first().map(|refusal| (refusal.reason, refusal.message.clone())).or_else(|| {
        findings.iter().find(|(_, finding)| finding.stalled).map(|(site, finding)| (finding.reason, format!("{site}: {}", finding.message)))
    });
    let ready = open.is_empty() && problem.is_none() && down.is_empty() && !deleting;
    let progressing = !ready && open.iter().any(|standing| standing.reachable) && problem.is_none();
    let open_text = bounded(&open.iter().map(|standing| standing.progress_text(namespace)).collect::<Vec<_>>());
    if deleting && !grants.is_empty() {
        let message = format!("these grants use the pool: {}. Delete them, or move them to another pool", bounded(&grants));
        conditions.set(ConditionType::Ready, false, Reason::GrantsRemain, message);
    } else if deleting {
        conditions.set(ConditionType::Ready, false, Reason::SitesRemain, format!("not released by: {open_text}"));
    } else if let Some((reason, message)) = &problem {
        conditions.set(ConditionType::Ready, false, *reason, message);
    } else if ready {
        conditions.set(ConditionType::Ready, true, Reason::AsSpecified, format!("{} sites hold what is asked for", places.len()));
    } else if open.is_empty() {
        conditions.set(ConditionType::Ready, false, Reason::PartitionNotReady, bounded(&down));
    } else {
        let first = open.iter().find_map(|standing| standing.findings().first());
        let reason = match first {
            _ if open.iter().all(|standing| !standing.reachable) => reach.reason,
            Some(finding) => finding.reason,
            None => Reason::InProgress,
        };
        conditions.set(ConditionType::Ready, false, reason, open_text.clone());
    }
    conditions.set(
        ConditionType::Reconciling,
        progressing,
        if progressing { Reason::InProgress } else { Reason::NotApplicable },
        if progressing { format!("waiting for: {open_text}") } else { String::new() },
    );
    let stuck = problem.is_some() || (deleting && !grants.is_empty());
    conditions.set(
        ConditionType::Stalled,
        stuck,
        problem.as_ref().map_or(if stuck { Reason::GrantsRemain } else { Reason::NotApplicable }, |(reason, _)| *reason),
        problem.as_ref().map(|(_, message)| message.clone()).unwrap_or_default(),
    );
    conditions.set(ConditionType::SitesReachable, reach.status, reach.reason, bounded(&reach.lost));
    let (wanted, ready_nodes, unhealthy) =
        (sum(|detail| detail.wanted.into()), sum(|detail| detail.ready.into()), sum(|detail| detail.unhealthy.into()));
    let nodes_ok = ready_nodes >= wanted && unhealthy == 0;
    let nodes_text = findings
        .iter()
        .filter(|(_, finding)| matches!(finding.reason, Reason::NodesMissing | Reason::NodesUnhealthy | Reason::NodeClaimedTwice))
        .map(|(site, finding)| format!("{site}: {}", finding.message))
        .collect::<Vec<_>>();
    let nodes_reason = findings
        .iter()
        .map(|(_, finding)| finding.reason)
        .find(|reason| matches!(reason, Reason::NodesMissing | Reason::NodesUnhealthy | Reason::NodeClaimedTwice));
    let unheard: Vec<String> = places.iter().filter_map(|place| place.unheard(namespace)).collect();
    if nodes_reason.is_none() && nodes_ok && !unheard.is_empty() {
        // Nobody has counted the nodes of a site that was never heard.
        conditions.set(ConditionType::NodesReady, Status::Unknown, reach.reason, bounded(&unheard));
    } else {
        conditions.set(
            ConditionType::NodesReady,
            nodes_ok && nodes_reason.is_none(),
            nodes_reason.unwrap_or(if nodes_ok { Reason::AsSpecified } else { Reason::InProgress }),
            bounded(&nodes_text),
        );
    }
    if pool.spec.slurm.is_some() {
        let known = places.iter().any(|place| place.detail.as_ref().is_some_and(|detail| detail.partition.is_some()));
        conditions.set(
            ConditionType::PartitionReady,
            known && down.is_empty(),
            if known && down.is_empty() { Reason::AsSpecified } else { Reason::PartitionNotReady },
            bounded(&down),
        );
    }

    let allocated = sum(|detail| detail.allocated.unwrap_or_default());
    let status = GPUPoolStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        summary: Some(PoolSummary { nodes: format!("{ready_nodes}/{wanted}"), gpus: format!("{allocated}/{}", sum(|detail| detail.gpus)) }),
        gpu_hours: Some(PoolGpuHours { committed: cache.committed(&owner, now), used: usage::of_pool(index, &owner, pool.spec.accounting) }),
        living_grants: Some(i32::try_from(cache.count_living_grants_of(&owner)).unwrap_or(i32::MAX)),
        sites: places
            .iter()
            .take(ROWS)
            .filter(|place| place.parts.iter().any(|standing| standing.phase() != Some(SitePhase::Gone)))
            .map(|place| place.status(namespace))
            .collect(),
    };
    // A part joins the known ones before the first write there.
    let gone = |standing: &Standing<'_>| {
        standing.phase() == Some(SitePhase::Gone)
            || (standing.report.is_none() && !cache.known.contains(standing.key) && !held(&owner, standing, reports))
    };
    let finished = deleting && grants.is_empty() && standings.iter().chain(&suspects).all(gone);
    Outcome { status, in_progress: progressing, finished }
}

/// Whether the pool is placed at this part, or something says that it is there. Other parts that may hold it are asked before it goes, and change
/// nothing else.
fn concerns(pool: &GPUPool, owner: &OwnerRef, intent: &Intent, standing: &Standing<'_>, reports: &Reports<'_>) -> bool {
    let placed = matches!(&intent.body, Body::Pool(body) if body.presence != Presence::Absent);
    let name = standing.key.display(&owner.namespace);
    let shown = || pool.status.as_ref().is_some_and(|status| status.sites.iter().any(|row| row.name == name));
    let said = standing.report.is_some_and(|report| report.phase != SitePhase::Gone);
    placed || said || (!standing.current && (held(owner, standing, reports) || shown()))
}

fn held(owner: &OwnerRef, standing: &Standing<'_>, reports: &Reports<'_>) -> bool {
    reports.sites.get(standing.key).is_some_and(|site| site.held.contains_key(owner))
}

/// A site with its parts, and what they say together.
struct Place<'s, 'a> {
    parts: Vec<&'s Standing<'a>>,
    detail: Option<PoolDetail>,
}

fn places<'s, 'a>(standings: &'s [Standing<'a>]) -> Vec<Place<'s, 'a>> {
    let mut places: Vec<Place<'s, 'a>> = Vec::new();
    for standing in standings {
        let same = |place: &&mut Place<'_, '_>| {
            place.parts.iter().any(|part| part.key.factory == standing.key.factory && part.key.site == standing.key.site)
        };
        match places.iter_mut().find(same) {
            Some(place) => place.parts.push(standing),
            None => places.push(Place { parts: vec![standing], detail: None }),
        }
    }
    for place in &mut places {
        let of = |part: Part| {
            let standing = place.parts.iter().find(|standing| standing.key.part == part)?;
            match &standing.report?.detail {
                Detail::Pool(detail) if standing.phase() != Some(SitePhase::Gone) => Some(detail),
                Detail::Pool(_) | Detail::Grant(_) | Detail::None => None,
            }
        };
        let (kubernetes, slurm) = (of(Part::Kubernetes), of(Part::Slurm));
        // Slinky's nodes are Kubernetes nodes first; what the partition is and who uses its GPUs slurmctld knows best.
        place.detail = kubernetes.or(slurm).cloned().map(|mut detail| {
            if let Some(slurm) = slurm {
                let known =
                    slurm.partition.as_ref().filter(|(_, state)| state != "Unknown").or(detail.partition.as_ref()).or(slurm.partition.as_ref());
                detail.partition = known.cloned();
                detail.allocated = slurm.allocated.or(detail.allocated);
            }
            detail
        });
    }
    places
}

impl Place<'_, '_> {
    fn name(&self, namespace: &str) -> String {
        self.parts.first().map(|part| part.key.display(namespace)).unwrap_or_default()
    }

    /// Why nothing is known of the site, where it can not be asked and has not said anything.
    fn unheard(&self, namespace: &str) -> Option<String> {
        let silent = self.detail.is_none() && self.parts.iter().all(|standing| !standing.reachable && standing.report.is_none());
        self.parts.first().filter(|_| silent).map(|standing| standing.unreachable_text(namespace))
    }

    fn status(&self, namespace: &str) -> PoolSiteStatus {
        let order = ["Unknown", "Degraded", "Pending", "Draining", "Ready", "Gone"];
        let rank = |phase: &str| order.iter().position(|known| *known == phase).unwrap_or(0);
        let down = self.detail.as_ref().and_then(|detail| detail.partition.as_ref()).is_some_and(|(_, state)| state != "Up");
        let phase = self.parts.iter().map(|standing| phase(standing)).min_by_key(|phase| rank(phase)).unwrap_or("Unknown");
        let message = self.parts.iter().find_map(|standing| match standing.findings().first() {
            _ if !standing.reachable => Some(standing.unreachable_text(namespace)),
            Some(finding) if standing.key.part == Part::Slurm && self.parts.len() > 1 => {
                Some(format!("Slurm: {}: {}", finding.reason, finding.message))
            }
            finding => finding.map(|finding| format!("{}: {}", finding.reason, finding.message)),
        });
        let detail = self.detail.as_ref();
        PoolSiteStatus {
            name: self.name(namespace),
            phase: if phase == "Ready" && down { "Degraded" } else { phase }.to_owned(),
            nodes: detail.map_or(NodeCount::default(), |detail| NodeCount {
                wanted: detail.wanted,
                ready: detail.ready,
                unhealthy: detail.unhealthy,
            }),
            gpus: detail.map_or(GpuCount::default(), |detail| GpuCount { capacity: detail.gpus, allocated: detail.allocated.unwrap_or_default() }),
            partition: detail
                .and_then(|detail| detail.partition.as_ref())
                .map(|(name, state)| PartitionStatus { name: name.clone(), state: state.clone() }),
            message: message.map(|text| shorten(&text, 1000)),
        }
    }
}

fn phase(standing: &Standing<'_>) -> &'static str {
    match standing.phase() {
        _ if !standing.reachable => "Unknown",
        None | Some(SitePhase::Pending) => "Pending",
        Some(SitePhase::Draining) => "Draining",
        Some(SitePhase::Gone) => "Gone",
        Some(SitePhase::Refused) => "Degraded",
        Some(SitePhase::Bound | SitePhase::Paused | SitePhase::Locked) if standing.settled => "Ready",
        Some(SitePhase::Bound | SitePhase::Paused | SitePhase::Locked) => "Degraded",
    }
}
