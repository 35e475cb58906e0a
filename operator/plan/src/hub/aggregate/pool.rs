//! The status of a pool.

mod conditions;
mod place;

use aifactory_api::pool::{GPUPool, GPUPoolStatus, PartitionState, PoolGpuHours, PoolSummary};
use aifactory_api::{ConditionType, Kind, OwnerRef, Reason};
use jiff::Timestamp;

use super::site_status::{Reach, Standing};
use super::{Outcome, Reports, usage};
use crate::hub::cache::{Cache, factory_of_pool};
use crate::hub::conditions::is_true;
use crate::hub::project::PoolProjection;
use crate::hub::reports::ReportIndex;
use crate::model::intent::{Body, Intent, Presence};
use crate::model::report::{Finding, PoolDetail, SitePhase};
use place::{Place, places};

/// As many rows as the schema allows.
const ROWS: usize = 64;

/// A pool with everything that is known of it.
struct View<'s, 'a> {
    pool: &'a GPUPool,
    home: OwnerRef,
    generation: i64,
    deleting: bool,
    standings: &'s [Standing<'a>],
    places: Vec<Place<'s, 'a>>,
    reach: Reach,
    /// Grants that use the pool; read only on its way out.
    grants: Vec<String>,
    /// Problems that only a person can solve.
    problem: Option<(Reason, String)>,
    /// Partitions that are not up, each with why.
    down: Vec<String>,
}

/// Aggregates a pool. `index` holds what its grants have used.
pub fn pool(
    cache: &Cache,
    pool: &GPUPool,
    projection: &PoolProjection,
    reports: &Reports<'_>,
    index: &ReportIndex,
    now: Timestamp,
) -> Outcome<GPUPoolStatus> {
    let namespace = pool.metadata.namespace.as_deref().unwrap_or_default();
    let owner = OwnerRef::new(Kind::GPUPool, namespace, pool.metadata.name.as_deref().unwrap_or_default());
    let (standings, suspects) = standings(pool, &owner, projection, reports);
    let view = View::of(cache, pool, &owner, projection, &standings);
    let progressing = view.progressing();
    let allocated = view.sum(|detail| detail.allocated.unwrap_or_default());
    let (ready, wanted) = (view.sum(|detail| detail.ready.into()), view.sum(|detail| detail.wanted.into()));
    let status = GPUPoolStatus {
        observed_generation: Some(view.generation),
        conditions: conditions::all(&view, now),
        summary: Some(PoolSummary { nodes: format!("{ready}/{wanted}"), gpus: format!("{allocated}/{}", view.sum(|detail| detail.gpus)) }),
        gpu_hours: Some(PoolGpuHours { committed: cache.committed(&owner, now), used: usage::of_pool(index, &owner, pool.spec.accounting) }),
        living_grants: Some(i32::try_from(cache.count_living_grants_of(&owner)).unwrap_or(i32::MAX)),
        sites: view
            .places
            .iter()
            .take(ROWS)
            .filter(|place| place.parts.iter().any(|standing| standing.phase() != Some(SitePhase::Gone)))
            .map(|place| place.status(&view.home))
            .collect(),
    };
    // A part is added to the known ones before the first write there.
    let gone = |standing: &Standing<'_>| {
        standing.phase() == Some(SitePhase::Gone)
            || (standing.report.is_none() && !cache.known.contains(standing.key) && !held(&owner, standing, reports))
    };
    let finished = view.deleting && view.grants.is_empty() && standings.iter().chain(&suspects).all(gone);
    Outcome { status, in_progress: progressing, finished }
}

/// The parts that the pool concerns, and those that may hold something of it and are asked before it goes.
fn standings<'a>(pool: &GPUPool, owner: &OwnerRef, projection: &'a PoolProjection, reports: &Reports<'a>) -> (Vec<Standing<'a>>, Vec<Standing<'a>>) {
    let all = projection.sites.iter().map(|(key, intent)| (intent, Standing::of(key, intent, reports)));
    let (concerned, suspects): (Vec<_>, Vec<_>) = all
        .filter(|(_, standing)| !standing.abandoned || standing.reachable)
        .partition(|(intent, standing)| concerns(pool, owner, intent, standing, reports));
    let bare = |list: Vec<(&'a Intent, Standing<'a>)>| list.into_iter().map(|(_, standing)| standing).collect();
    (bare(concerned), bare(suspects))
}

impl<'s, 'a> View<'s, 'a> {
    fn of(cache: &Cache, pool: &'a GPUPool, owner: &OwnerRef, projection: &PoolProjection, standings: &'s [Standing<'a>]) -> Self {
        let home = factory_of_pool(owner, pool);
        let deleting = pool.metadata.deletion_timestamp.is_some();
        let using = deleting.then(|| cache.grants_of(owner)).into_iter().flatten();
        let places = places(standings);
        let view = Self {
            pool,
            generation: pool.metadata.generation.unwrap_or_default(),
            deleting,
            standings,
            reach: Reach::of(standings.iter(), &home),
            grants: using.map(|grant| format!("{}/{}", grant.namespace, grant.name)).collect(),
            problem: None,
            down: down(&places, &home),
            places,
            home,
        };
        let refusal = projection.problems.first().map(|refusal| (refusal.reason, refusal.message.clone()));
        let stalled = || {
            let (site, finding) = view.findings().find(|(_, finding)| finding.stalled)?;
            Some((finding.reason, format!("{site}: {}", finding.message)))
        };
        let problem = refusal.or_else(stalled);
        Self { problem, ..view }
    }

    fn previous(&self) -> Option<&'a GPUPoolStatus> {
        self.pool.status.as_ref()
    }

    /// What sites find, each with the site's name.
    fn findings(&self) -> impl Iterator<Item = (String, &'s Finding)> {
        self.standings.iter().flat_map(move |standing| standing.findings().iter().map(move |finding| (standing.label(&self.home), finding)))
    }

    /// The parts that have not confirmed their intents. A part that was lost after it had confirmed this generation counts as confirmed.
    fn open(&self) -> Vec<&'s Standing<'a>> {
        let was_ready = self
            .previous()
            .is_some_and(|status| status.observed_generation == Some(self.generation) && is_true(&status.conditions, ConditionType::Ready));
        let confirmed = |standing: &&Standing<'_>| standing.settled || (!standing.reachable && was_ready);
        self.standings.iter().filter(|standing| !confirmed(standing)).collect()
    }

    fn ready(&self) -> bool {
        self.open().is_empty() && self.problem.is_none() && self.down.is_empty() && !self.deleting
    }

    fn progressing(&self) -> bool {
        !self.ready() && self.problem.is_none() && self.open().iter().any(|standing| standing.reachable)
    }

    fn sum(&self, take: fn(&PoolDetail) -> i64) -> i64 {
        self.places.iter().filter_map(|place| place.detail.as_ref()).map(take).fold(0, i64::saturating_add)
    }
}

/// Partitions that are not up, each with why.
fn down(places: &[Place<'_, '_>], home: &OwnerRef) -> Vec<String> {
    let text = |place: &Place<'_, '_>| {
        let (name, state) = place.partition().filter(|(_, state)| *state != PartitionState::Up)?;
        let mut findings = place.parts.iter().flat_map(|standing| standing.findings());
        let why = findings.find(|finding| finding.reason == Reason::PartitionNotReady);
        let why = why.map_or_else(|| format!("partition {name} is {state}"), |finding| finding.message.clone());
        Some(format!("{}: {why}", place.name(home)))
    };
    let bound = |place: &&Place<'_, '_>| place.parts.iter().any(|standing| standing.phase() == Some(SitePhase::Bound));
    places.iter().filter(bound).filter_map(text).collect()
}

/// Whether the pool is placed at this part, or its report or status shows it there. Other parts that may hold the pool are only waited for before it
/// is deleted.
fn concerns(pool: &GPUPool, owner: &OwnerRef, intent: &Intent, standing: &Standing<'_>, reports: &Reports<'_>) -> bool {
    let placed = matches!(&intent.body, Body::Pool(body) if body.presence != Presence::Absent);
    let name = standing.key.display(&factory_of_pool(owner, pool));
    let shown = || pool.status.as_ref().is_some_and(|status| status.sites.iter().any(|row| row.name == name));
    let said = standing.report.is_some_and(|report| report.phase != SitePhase::Gone);
    placed || said || (!standing.current && (held(owner, standing, reports) || shown()))
}

fn held(owner: &OwnerRef, standing: &Standing<'_>, reports: &Reports<'_>) -> bool {
    reports.sites.get(standing.key).is_some_and(|site| site.held.contains_key(owner))
}
