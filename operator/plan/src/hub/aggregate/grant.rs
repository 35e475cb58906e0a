//! The status of a grant.

use aifactory_api::grant::{AccessGrant, AccessGrantStatus, GrantPhase, GrantSummary, SiteRowPhase};
use aifactory_api::{Kind, OwnerRef};
use jiff::Timestamp;

use super::site_status::Reach;
use super::{Outcome, Reports, usage};
use crate::hub::cache::{Cache, factory_of_grant};
use crate::hub::project::{Asked, GrantProjection};

mod access;
mod conditions;
mod isolation;
mod row;
mod sites;
mod trouble;

use row::Row;
use sites::Merged;
use trouble::Progress;

/// As many rows as the schema allows.
const ROWS: usize = 128;

/// A grant with everything that is known of it.
struct View<'a> {
    cache: &'a Cache,
    grant: &'a AccessGrant,
    projection: &'a GrantProjection,
    home: OwnerRef,
    /// The parts that the grant is meant for, and those of which it is known that they hold something of it.
    rows: Vec<Row<'a>>,
    /// Parts that may hold something and have not reported yet, without any sign that they hold something.
    suspects: Vec<Row<'a>>,
    /// Parts that a person has abandoned and that have not answered: nobody waits for them, and members may still have access there.
    abandoned: Vec<String>,
    used: Vec<usage::Entry>,
    /// Nothing more can start anywhere, since the budget is used up.
    exhausted: bool,
    reach: Reach,
}

/// Aggregates a grant.
pub fn grant(cache: &Cache, grant: &AccessGrant, projection: &GrantProjection, reports: &Reports<'_>, now: Timestamp) -> Outcome<AccessGrantStatus> {
    let view = View::of(cache, grant, projection, reports);
    let merged = sites::merge(&view.rows, view.asked().ended());
    let progress = Progress::of(&view);
    let may_give = view.may_give_access();
    let status = AccessGrantStatus {
        observed_generation: Some(grant.metadata.generation.unwrap_or_default()),
        phase: Some(view.phase(&progress)),
        may_give_access: Some(may_give),
        conditions: conditions::all(&view, &merged, &progress, now),
        summary: Some(view.summary(&merged)),
        pools: usage::pools(&view.used),
        sites: merged.iter().filter(|site| site.shown()).take(ROWS).map(|site| site.status(cache, grant, &view.home)).collect(),
    };
    Outcome { status, in_progress: progress.progressing, finished: view.asked() == Asked::Deleted && !may_give }
}

impl<'a> View<'a> {
    fn of(cache: &'a Cache, grant: &'a AccessGrant, projection: &'a GrantProjection, reports: &Reports<'a>) -> Self {
        let namespace = grant.metadata.namespace.as_deref().unwrap_or_default();
        let owner = OwnerRef::new(Kind::AccessGrant, namespace, grant.metadata.name.as_deref().unwrap_or_default());
        let all = projection.sites.iter().map(|site| Row::of(cache, grant, projection, site, reports, &owner));
        let (abandoned, awaited): (Vec<Row<'a>>, Vec<Row<'a>>) = all.partition(|row| row.standing.abandoned && !row.standing.reachable);
        let (rows, suspects): (Vec<Row<'a>>, Vec<Row<'a>>) = awaited.into_iter().partition(|row| row.meant || row.evident);
        let usage: Vec<usage::SiteUsage<'_>> = rows.iter().map(Row::usage).collect();
        let used = usage::entries(cache, &owner, grant, &usage);
        let exhausted = projection.asked == Asked::Active && usage::nothing_left(&used);
        let home = factory_of_grant(&owner, grant);
        let reach = Reach::of(rows.iter().map(|row| &row.standing), &home);
        let abandoned = abandoned.into_iter().filter(|row| row.may_give).map(|row| row.label).collect();
        Self { cache, grant, projection, home, rows, suspects, abandoned, used, exhausted, reach }
    }

    fn asked(&self) -> Asked {
        self.projection.asked
    }

    fn previous(&self) -> Option<&'a AccessGrantStatus> {
        self.grant.status.as_ref()
    }

    /// Whether a part holds the grant in a way that lets members work, or work again.
    fn alive(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.phase, SiteRowPhase::Bound | SiteRowPhase::Paused))
    }

    fn phase(&self, progress: &Progress) -> GrantPhase {
        // A site that can not be asked keeps its phase: neither an outage nor an edit of the spec removes access there.
        let was_alive =
            matches!(self.previous().and_then(|status| status.phase), Some(GrantPhase::Active | GrantPhase::Paused | GrantPhase::Exhausted))
                && self.rows.iter().any(|row| row.may_give && !row.standing.reachable);
        let alive = self.alive() || was_alive;
        match self.asked() {
            Asked::Scheduled => GrantPhase::Scheduled,
            Asked::Expired => GrantPhase::Expired,
            Asked::Revoked | Asked::Deleted => GrantPhase::Revoked,
            Asked::Paused if progress.blocked && !alive => GrantPhase::Refused,
            Asked::Paused => GrantPhase::Paused,
            Asked::Active if self.exhausted && self.rows.iter().any(|row| row.phase == SiteRowPhase::Bound) => GrantPhase::Exhausted,
            // The grant is Active as soon as one site gives access, whatever the others report.
            Asked::Active if alive => GrantPhase::Active,
            Asked::Active if progress.blocked => GrantPhase::Refused,
            Asked::Active => GrantPhase::Pending,
        }
    }

    fn summary(&self, merged: &[Merged<'_, '_>]) -> GrantSummary {
        let placed = merged.iter().filter(|site| site.placed());
        let good = placed.clone().filter(|site| site.good()).count();
        GrantSummary {
            organisation: self.grant.spec.organisation.short_name(),
            sites: format!("{good}/{}", placed.count()),
            gpu_hours: usage::summary(&self.used),
            expires: self.grant.spec.not_after.0.strftime("%Y-%m-%d").to_string(),
        }
    }
}
