//! The status of a pool.

use aifactory_api::factory::GpuCount;
use aifactory_api::pool::{GPUPool, GPUPoolStatus, NodeCount, PartitionStatus, PoolGpuHours, PoolSiteStatus, PoolSummary};
use aifactory_api::{ConditionType, Kind, OwnerRef, Reason};
use jiff::Timestamp;

use super::standing::Standing;
use super::{Outcome, Reports};
use crate::conditions::{Conditions, is_true};
use crate::project::{PoolProjection, living};
use crate::report::{Detail, Finding, PoolDetail, SitePhase};
use crate::text::{bounded, shorten};
use crate::world::World;

/// Aggregates a pool.
pub fn pool(world: &World, pool: &GPUPool, projection: &PoolProjection, reports: &Reports<'_>, now: Timestamp) -> Outcome<GPUPoolStatus> {
    let generation = pool.metadata.generation.unwrap_or_default();
    let namespace = pool.metadata.namespace.as_deref().unwrap_or_default();
    let owner = OwnerRef::new(Kind::GPUPool, namespace, pool.metadata.name.as_deref().unwrap_or_default());
    let previous = pool.status.as_ref();
    let deleting = pool.metadata.deletion_timestamp.is_some();
    let standings: Vec<Standing<'_>> = projection
        .sites
        .iter()
        .map(|(key, intent)| Standing::of(key, intent, reports))
        .filter(|standing| !standing.abandoned || standing.reachable)
        .collect();
    let was_ready =
        previous.is_some_and(|status| status.observed_generation == Some(generation) && is_true(&status.conditions, ConditionType::Ready));
    let confirmed = |standing: &Standing<'_>| standing.settled || (!standing.reachable && was_ready);
    let lost: Vec<String> = standings.iter().filter(|standing| !standing.reachable).map(|standing| standing.unreachable_text(namespace)).collect();
    let open: Vec<&Standing<'_>> = standings.iter().filter(|standing| !confirmed(standing)).collect();
    let findings: Vec<(String, &Finding)> =
        standings.iter().flat_map(|standing| standing.findings().iter().map(move |finding| (standing.key.display(namespace), finding))).collect();
    let grants: Vec<String> = world.grants_of(&owner).map(|grant| format!("{}/{}", grant.namespace, grant.name)).collect();

    let mut conditions = Conditions::new(previous.map_or(&[], |status| status.conditions.as_slice()), generation, now);
    let problem = projection.problems.first().map(|refusal| (refusal.reason, refusal.message.clone())).or_else(|| {
        findings.iter().find(|(_, finding)| finding.stalled).map(|(site, finding)| (finding.reason, format!("{site}: {}", finding.message)))
    });
    let ready = open.is_empty() && problem.is_none() && !deleting;
    let progressing = !ready && open.iter().any(|standing| standing.reachable) && problem.is_none();
    let text = |standing: &&Standing<'_>| {
        let name = standing.key.display(namespace);
        match standing.findings().first() {
            _ if !standing.reachable => standing.unreachable_text(namespace),
            Some(finding) => format!("{name}: {}", shorten(&finding.message, 300)),
            None => format!("{name}: in progress"),
        }
    };
    let open_text = bounded(&open.iter().map(text).collect::<Vec<_>>());
    if deleting && !grants.is_empty() {
        let message = format!("these grants use the pool: {}. Delete them, or move them to another pool", bounded(&grants));
        conditions.set(ConditionType::Ready, false, Reason::GrantsRemain, message);
    } else if deleting {
        conditions.set(ConditionType::Ready, false, Reason::SitesRemain, format!("not released by: {open_text}"));
    } else if let Some((reason, message)) = &problem {
        conditions.set(ConditionType::Ready, false, *reason, message);
    } else if ready {
        conditions.set(ConditionType::Ready, true, Reason::AsSpecified, format!("{} sites hold what is asked for", standings.len()));
    } else {
        let first = open.iter().find_map(|standing| standing.findings().first());
        let reason = match first {
            _ if open.iter().all(|standing| !standing.reachable) => Reason::SiteUnreachable,
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
    conditions.set(
        ConditionType::SitesReachable,
        lost.is_empty(),
        if lost.is_empty() { Reason::AsSpecified } else { Reason::SiteUnreachable },
        bounded(&lost),
    );
    let details: Vec<(&Standing<'_>, Option<&PoolDetail>)> = standings
        .iter()
        .map(|standing| {
            let detail = standing.report.and_then(|report| match &report.detail {
                Detail::Pool(detail) => Some(detail),
                Detail::Grant(_) | Detail::None => None,
            });
            (standing, detail)
        })
        .collect();
    let sum = |take: fn(&PoolDetail) -> i64| details.iter().filter_map(|(_, detail)| *detail).map(take).fold(0, i64::saturating_add);
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
    conditions.set(
        ConditionType::NodesReady,
        nodes_ok && nodes_reason.is_none(),
        nodes_reason.unwrap_or(if nodes_ok { Reason::AsSpecified } else { Reason::InProgress }),
        bounded(&nodes_text),
    );
    if pool.spec.slurm.is_some() {
        let down: Vec<String> = details
            .iter()
            .filter_map(|(standing, detail)| {
                let (name, state) = detail.as_ref()?.partition.as_ref()?;
                (state != "Up").then(|| format!("{}: partition {name} is {state}", standing.key.display(namespace)))
            })
            .collect();
        let known = details.iter().any(|(_, detail)| detail.is_some_and(|detail| detail.partition.is_some()));
        conditions.set(
            ConditionType::PartitionReady,
            known && down.is_empty(),
            if known && down.is_empty() { Reason::AsSpecified } else { Reason::PartitionNotReady },
            bounded(&down),
        );
    }

    let committed = world
        .grants_of(&owner)
        .filter_map(|grant| Some((grant, world.grant(grant)?)))
        .filter(|(_, grant)| living(grant, now))
        .flat_map(|(reference, grant)| {
            grant.spec.pools.iter().filter(|entry| {
                entry.pool_ref.name == owner.name && entry.pool_ref.namespace.as_deref().unwrap_or(&reference.namespace) == owner.namespace
            })
        })
        .fold(0, |sum: i64, entry| sum.saturating_add(entry.gpu_hours));
    let allocated = details.iter().filter_map(|(_, detail)| detail.as_ref()?.allocated).fold(0, i64::saturating_add);
    let status = GPUPoolStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        summary: Some(PoolSummary { nodes: format!("{ready_nodes}/{wanted}"), gpus: format!("{allocated}/{}", sum(|detail| detail.gpus)) }),
        gpu_hours: Some(PoolGpuHours { committed, used: None }),
        sites: details
            .iter()
            .filter(|(standing, _)| standing.phase() != Some(SitePhase::Gone))
            .map(|(standing, detail)| site(standing, *detail, namespace))
            .collect(),
    };
    let finished = deleting && grants.is_empty() && standings.iter().all(|standing| standing.phase() == Some(SitePhase::Gone));
    Outcome { status, in_progress: progressing, finished }
}

fn site(standing: &Standing<'_>, detail: Option<&PoolDetail>, namespace: &str) -> PoolSiteStatus {
    let phase = match standing.phase() {
        _ if !standing.reachable => "Unknown",
        None | Some(SitePhase::Pending) => "Pending",
        Some(SitePhase::Draining) => "Draining",
        Some(SitePhase::Gone) => "Gone",
        Some(SitePhase::Refused) => "Degraded",
        Some(SitePhase::Bound | SitePhase::Paused | SitePhase::Locked) if standing.settled => "Ready",
        Some(SitePhase::Bound | SitePhase::Paused | SitePhase::Locked) => "Degraded",
    };
    let message = if standing.reachable {
        standing.findings().first().map(|finding| format!("{}: {}", finding.reason, finding.message))
    } else {
        Some(standing.unreachable_text(namespace))
    };
    PoolSiteStatus {
        name: standing.key.display(namespace),
        phase: phase.to_owned(),
        nodes: detail.map_or(NodeCount::default(), |detail| NodeCount { wanted: detail.wanted, ready: detail.ready, unhealthy: detail.unhealthy }),
        gpus: detail.map_or(GpuCount::default(), |detail| GpuCount { capacity: detail.gpus, allocated: detail.allocated.unwrap_or_default() }),
        partition: detail
            .and_then(|detail| detail.partition.as_ref())
            .map(|(name, state)| PartitionStatus { name: name.clone(), state: state.clone() }),
        message: message.map(|text| shorten(&text, 1000)),
    }
}
