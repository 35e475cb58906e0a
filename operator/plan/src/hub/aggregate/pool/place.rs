//! A pool at one site, from the reports of both parts of the site.

use aifactory_api::OwnerRef;
use aifactory_api::factory::GpuCount;
use aifactory_api::pool::{NodeCount, PartitionState, PartitionStatus, PoolSitePhase, PoolSiteStatus};

use crate::hub::aggregate::site_status::Standing;
use crate::model::id::PartitionName;
use crate::model::report::{Detail, PoolDetail, SitePhase};
use crate::model::site_key::Part;
use crate::model::text::shorten;

/// A site with its parts, and the details of their reports joined.
pub struct Place<'s, 'a> {
    pub parts: Vec<&'s Standing<'a>>,
    pub detail: Option<PoolDetail>,
}

/// The sites of these parts, in their order.
pub fn places<'s, 'a>(standings: &'s [Standing<'a>]) -> Vec<Place<'s, 'a>> {
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
        // The nodes of a Slinky partition are counted in Kubernetes; the partition's state and its GPUs in use are known by slurmctld.
        place.detail = kubernetes.or(slurm).cloned().map(|mut detail| {
            if let Some(slurm) = slurm {
                let is_known = |state: &str| PartitionState::parse(state) != PartitionState::Unknown;
                let known = slurm.partition.as_ref().filter(|(_, state)| is_known(state)).or(detail.partition.as_ref()).or(slurm.partition.as_ref());
                detail.partition = known.cloned();
                detail.allocated = slurm.allocated.or(detail.allocated);
            }
            detail
        });
    }
    places
}

impl Place<'_, '_> {
    pub fn name(&self, home: &OwnerRef) -> String {
        self.parts.first().map(|part| part.key.display(home)).unwrap_or_default()
    }

    /// Why the site can not be asked, by the part that knows what is asked about: `teller`, or the only one that there is.
    pub fn silent(&self, teller: Part, home: &OwnerRef) -> Option<String> {
        let part = self.parts.iter().find(|part| part.key.part == teller).or(self.parts.first())?;
        (!part.reachable && part.phase() != Some(SitePhase::Gone)).then(|| part.unreachable_text(home))
    }

    /// The partition with its state, where the pool is one and the site has reported it.
    pub fn partition(&self) -> Option<(&PartitionName, PartitionState)> {
        self.detail.as_ref()?.partition.as_ref().map(|(name, state)| (name, PartitionState::parse(state)))
    }

    pub fn status(&self, home: &OwnerRef) -> PoolSiteStatus {
        let down = self.partition().is_some_and(|(_, state)| state != PartitionState::Up);
        let rank = |phase: &PoolSitePhase| ORDER.iter().position(|known| known == phase);
        let phase = self.parts.iter().map(|standing| phase_of(standing)).min_by_key(rank).unwrap_or_default();
        let message = self.parts.iter().find_map(|standing| match standing.findings().first() {
            _ if !standing.reachable => Some(standing.unreachable_text(home)),
            Some(finding) if standing.key.part == Part::Slurm && self.parts.len() > 1 => {
                Some(format!("Slurm: {}: {}", finding.reason, finding.message))
            }
            finding => finding.map(|finding| format!("{}: {}", finding.reason, finding.message)),
        });
        let detail = self.detail.as_ref();
        PoolSiteStatus {
            name: self.name(home),
            phase: if phase == PoolSitePhase::Ready && down { PoolSitePhase::Degraded } else { phase },
            nodes: detail.map_or(NodeCount::default(), |detail| NodeCount {
                wanted: detail.wanted,
                ready: detail.ready,
                unhealthy: detail.unhealthy,
            }),
            gpus: detail.map_or(GpuCount::default(), |detail| GpuCount { capacity: detail.gpus, allocated: detail.allocated.unwrap_or_default() }),
            partition: self.partition().map(|(name, state)| PartitionStatus { name: name.to_string(), state }),
            message: message.map(|text| shorten(&text, 1000)),
        }
    }
}

/// Which part's phase a site shows: that which comes first.
const ORDER: [PoolSitePhase; 6] =
    [PoolSitePhase::Unknown, PoolSitePhase::Degraded, PoolSitePhase::Pending, PoolSitePhase::Draining, PoolSitePhase::Ready, PoolSitePhase::Gone];

/// The phase of a pool at a part of a site.
fn phase_of(standing: &Standing<'_>) -> PoolSitePhase {
    match standing.phase() {
        _ if !standing.reachable => PoolSitePhase::Unknown,
        None | Some(SitePhase::Pending) => PoolSitePhase::Pending,
        Some(SitePhase::Draining) => PoolSitePhase::Draining,
        Some(SitePhase::Gone) => PoolSitePhase::Gone,
        Some(SitePhase::Refused) => PoolSitePhase::Degraded,
        Some(SitePhase::Bound | SitePhase::Paused | SitePhase::Locked) if standing.settled => PoolSitePhase::Ready,
        Some(SitePhase::Bound | SitePhase::Paused | SitePhase::Locked) => PoolSitePhase::Degraded,
    }
}
