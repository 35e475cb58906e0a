//! A pool at one site, from the reports of both parts of the site.

use aifactory_api::OwnerRef;
use aifactory_api::factory::GpuCount;
use aifactory_api::pool::{NodeCount, PartitionStatus, PoolSiteStatus};

use crate::hub::aggregate::site_status::Standing;
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
    pub fn name(&self, home: &OwnerRef) -> String {
        self.parts.first().map(|part| part.key.display(home)).unwrap_or_default()
    }

    /// Why the site can not be asked, by the part that knows what is asked about: `teller`, or the only one that there is.
    pub fn silent(&self, teller: Part, home: &OwnerRef) -> Option<String> {
        let part = self.parts.iter().find(|part| part.key.part == teller).or(self.parts.first())?;
        (!part.reachable && part.phase() != Some(SitePhase::Gone)).then(|| part.unreachable_text(home))
    }

    pub fn status(&self, home: &OwnerRef) -> PoolSiteStatus {
        let down = self.detail.as_ref().and_then(|detail| detail.partition.as_ref()).is_some_and(|(_, state)| state != "Up");
        let phase = self.parts.iter().map(|standing| RowPhase::of(standing)).min().unwrap_or(RowPhase::Unknown);
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
            phase: if phase == RowPhase::Ready && down { RowPhase::Degraded } else { phase }.as_str().to_owned(),
            nodes: detail.map_or(NodeCount::default(), |detail| NodeCount {
                wanted: detail.wanted,
                ready: detail.ready,
                unhealthy: detail.unhealthy,
            }),
            gpus: detail.map_or(GpuCount::default(), |detail| GpuCount { capacity: detail.gpus, allocated: detail.allocated.unwrap_or_default() }),
            partition: detail
                .and_then(|detail| detail.partition.as_ref())
                .map(|(name, state)| PartitionStatus { name: name.to_string(), state: state.clone() }),
            message: message.map(|text| shorten(&text, 1000)),
        }
    }
}

/// The phase of a pool at a part of a site. A site shows the phase of the part that comes first in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RowPhase {
    Unknown,
    Degraded,
    Pending,
    Draining,
    Ready,
    Gone,
}

impl RowPhase {
    fn of(standing: &Standing<'_>) -> Self {
        match standing.phase() {
            _ if !standing.reachable => RowPhase::Unknown,
            None | Some(SitePhase::Pending) => RowPhase::Pending,
            Some(SitePhase::Draining) => RowPhase::Draining,
            Some(SitePhase::Gone) => RowPhase::Gone,
            Some(SitePhase::Refused) => RowPhase::Degraded,
            Some(SitePhase::Bound | SitePhase::Paused | SitePhase::Locked) if standing.settled => RowPhase::Ready,
            Some(SitePhase::Bound | SitePhase::Paused | SitePhase::Locked) => RowPhase::Degraded,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            RowPhase::Unknown => "Unknown",
            RowPhase::Degraded => "Degraded",
            RowPhase::Pending => "Pending",
            RowPhase::Draining => "Draining",
            RowPhase::Ready => "Ready",
            RowPhase::Gone => "Gone",
        }
    }
}
