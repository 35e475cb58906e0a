//! The state of a grant at one part of a site.

use aifactory_api::grant::{AccessGrant, GrantSiteStatus, SiteRowPhase};
use aifactory_api::{OwnerRef, Reason};

use crate::hub::aggregate::site_status::{Standing, was_confirmed};
use crate::hub::aggregate::{Reports, usage};
use crate::hub::cache::{Cache, factory_of_grant};
use crate::hub::project::GrantProjection;
use crate::model::intent::{Body, Desired, GrantIntent, GrantPoolIntent, Intent};
use crate::model::report::{Detail, GrantDetail, SitePhase};
use crate::model::site_key::{Part, SiteKey};
use crate::model::text::shorten;

/// A grant at one part of a site.
pub struct Row<'a> {
    pub standing: Standing<'a>,
    pub intent: &'a Intent,
    pub name: String,
    /// The name, and which part of the site.
    pub label: String,
    pub phase: SiteRowPhase,
    /// The site holds what is asked for, or did when it last reported for this generation.
    pub confirmed: bool,
    pub refused: bool,
    /// Why the hub gives no access here, though spec and clock ask for it.
    pub denied: Option<String>,
    /// The part may hold something, and has not reported that it gives no access.
    pub may_give: bool,
    /// Pool and grant name the site.
    pub placed: bool,
    /// The grant is to be here, or to stay.
    pub meant: bool,
    /// The part's report or the last status shows that something of the grant is here.
    pub evident: bool,
}

impl<'a> Row<'a> {
    pub fn of(
        cache: &Cache,
        grant: &AccessGrant,
        projection: &GrantProjection,
        (key, intent): (&'a SiteKey, &'a Intent),
        reports: &Reports<'a>,
        owner: &OwnerRef,
    ) -> Self {
        let standing = Standing::of(key, intent, reports);
        let home = factory_of_grant(owner, grant);
        let name = key.display(&home);
        let placed = projection.placed.contains(key);
        let body = grant_of(intent);
        let expected = body.map_or(SiteRowPhase::Bound, |body| expected(&body.desired));
        let (previous, generation) = (grant.status.as_ref(), grant.metadata.generation.unwrap_or_default());
        let confirmed = standing.settled || (!standing.reachable && !standing.current && was_confirmed(previous, generation, &name, expected));
        let denied = body.filter(|_| !projection.asked.ended()).and_then(|body| match &body.desired {
            Desired::Ended { because, message, .. } => Some(format!("{because}: {message}")),
            Desired::Bound | Desired::Paused | Desired::Scheduled => None,
        });
        let held = reports.sites.get(key).is_some_and(|site| site.held.contains_key(owner));
        // A part is added to the known ones before the first write there.
        let never = !cache.known.contains(key) && standing.report.is_none() && !held;
        let shown = previous.is_some_and(|status| status.sites.iter().any(|row| row.name == name && shows(row, key.part)));
        let row = Self {
            phase: phase(&standing, denied.is_some() && placed, confirmed.then_some(expected)),
            label: standing.label(&home),
            refused: standing.phase() == Some(SitePhase::Refused),
            denied,
            may_give: !never && !standing.access_removed(),
            placed,
            meant: placed,
            evident: false,
            confirmed,
            name,
            intent,
            standing,
        };
        let kept = body.is_some_and(|body| !matches!(body.desired, Desired::Ended { .. }));
        // A report that answers the present intent decides what is there; until there is one, every sign counts.
        let evident = if row.standing.current { row.holds() } else { held || shown || row.holds() };
        Self { meant: placed || (kept && evident), evident, ..row }
    }

    /// Whether the last report names something that is there.
    fn holds(&self) -> bool {
        let Some(report) = self.standing.report else { return false };
        let something = self.detail().is_some_and(|detail| !detail.namespace.is_empty() || detail.slurm.is_some() || !detail.access_removed);
        something || !matches!(report.phase, SitePhase::Gone | SitePhase::Refused)
    }

    pub fn usage(&self) -> usage::SiteUsage<'_> {
        usage::SiteUsage { name: &self.name, placed: self.placed, standing: &self.standing, intent: self.intent }
    }

    pub fn detail_text(&self, home: &OwnerRef) -> String {
        if !self.standing.reachable {
            return self.standing.unreachable_text(home);
        }
        self.standing.findings().first().map_or_else(|| self.phase.to_string(), |finding| shorten(&finding.message, 300))
    }

    pub fn detail(&self) -> Option<&'a GrantDetail> {
        match self.standing.report.map(|report| &report.detail) {
            Some(Detail::Grant(detail)) => Some(detail),
            Some(Detail::Pool(_) | Detail::None) | None => None,
        }
    }

    /// Whether the site keeps what it has, since something that the grant names can not be read.
    pub fn keeps(&self) -> bool {
        grant_of(self.intent).is_some_and(|body| body.keep)
    }

    pub fn live(&self) -> bool {
        matches!(self.phase, SiteRowPhase::Bound | SiteRowPhase::Paused | SiteRowPhase::Locked)
    }

    /// Whether only a person can resolve this.
    pub fn stalled(&self) -> bool {
        self.refused || self.standing.findings().iter().any(|finding| finding.stalled)
    }

    /// Why members can start nothing here though they have access; `None`: they can, as far as budgets and placements go.
    pub fn closed(&self) -> Option<(Reason, String)> {
        let body = grant_of(self.intent)?;
        if body.keep {
            return None;
        }
        let mut closed: Vec<(Reason, String)> = Vec::new();
        for pool in &body.pools {
            closed.push(self.pool_closed(pool)?);
        }
        let reason = closed.first()?.0;
        Some((reason, closed.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ")))
    }

    fn pool_closed(&self, pool: &GrantPoolIntent) -> Option<(Reason, String)> {
        if !pool.open {
            Some((Reason::Draining, format!("pool {} is being drained", pool.entry)))
        } else if pool.max_gpus == 0 {
            Some((Reason::Exhausted, format!("pool {} has no GPUs for this grant here", pool.entry)))
        } else if pool.budget.device_minutes == 0 {
            Some((Reason::Exhausted, format!("pool {} has no GPU-hours for this grant here", pool.entry)))
        } else if usage::closed(&self.usage(), pool) {
            Some((Reason::Exhausted, format!("the GPU-hours of pool {} are used up here", pool.entry)))
        } else {
            None
        }
    }
}

/// Whether a row of the last status shows something at this part of the site.
fn shows(row: &GrantSiteStatus, part: Part) -> bool {
    let elsewhere = row.access.as_ref().is_some_and(|access| match part {
        Part::Kubernetes => access.kubernetes.is_none() && access.slurm.is_some(),
        Part::Slurm => access.slurm.is_none() && access.kubernetes.is_some(),
    });
    row.phase != SiteRowPhase::Gone && !elsewhere
}

fn grant_of(intent: &Intent) -> Option<&GrantIntent> {
    match &intent.body {
        Body::Grant(grant) => Some(grant),
        Body::Pool(_) => None,
    }
}

/// The phase that the site reaches when it holds what is asked for.
fn expected(desired: &Desired) -> SiteRowPhase {
    match desired {
        Desired::Bound => SiteRowPhase::Bound,
        Desired::Paused => SiteRowPhase::Paused,
        Desired::Scheduled => SiteRowPhase::Gone,
        Desired::Ended { .. } => SiteRowPhase::Locked,
    }
}

fn phase(standing: &Standing<'_>, denied: bool, confirmed: Option<SiteRowPhase>) -> SiteRowPhase {
    match standing.phase() {
        Some(SitePhase::Refused) => SiteRowPhase::Refused,
        Some(SitePhase::Gone) if denied => SiteRowPhase::Refused,
        Some(_) if !standing.reachable && !standing.settled => SiteRowPhase::Unknown,
        Some(SitePhase::Pending) => SiteRowPhase::Pending,
        Some(SitePhase::Bound | SitePhase::Draining) if standing.settled => SiteRowPhase::Bound,
        Some(SitePhase::Paused) if standing.settled => SiteRowPhase::Paused,
        Some(SitePhase::Locked) => SiteRowPhase::Locked,
        Some(SitePhase::Gone) => SiteRowPhase::Gone,
        Some(_) => SiteRowPhase::Pending,
        None => match confirmed {
            Some(phase) => phase,
            None if standing.reachable => SiteRowPhase::Pending,
            None => SiteRowPhase::Unknown,
        },
    }
}
