//! The conditions of a grant, each set once.

use aifactory_api::{ConditionType, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use aifactory_api::grant::SiteRowPhase;

use super::sites::Merged;
use super::trouble::{Progress, Rank};
use super::{View, access, isolation};
use crate::hub::aggregate::usage;
use crate::hub::conditions::Conditions;
use crate::hub::project::Asked;
use crate::model::text::bounded;

/// All conditions, in the order in which status shows them.
pub fn all(view: &View<'_>, merged: &[Merged<'_, '_>], progress: &Progress, now: Timestamp) -> Vec<Condition> {
    let generation = view.grant.metadata.generation.unwrap_or_default();
    let mut conditions = Conditions::new(view.previous().map_or(&[], |status| status.conditions.as_slice()), generation, now);
    ready(view, merged, progress, &mut conditions);
    reconciling(progress, &mut conditions);
    stalled(progress, &mut conditions);
    access::usable(view, merged, progress, &mut conditions);
    conditions.set(ConditionType::SitesReachable, view.reach.status, view.reach.reason, bounded(&view.reach.lost));
    authorised(progress, &mut conditions);
    access::bound(view, progress, &mut conditions);
    isolation::isolation(view, &mut conditions);
    usage::within_budget(&mut conditions, &view.used);
    access::removed(view, &mut conditions);
    conditions.finish()
}

fn ready(view: &View<'_>, merged: &[Merged<'_, '_>], progress: &Progress, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Ready;
    match &progress.first {
        Some(first) => conditions.set(kind, false, first.reason, &first.message),
        None if view.exhausted => conditions.set(
            kind,
            true,
            Reason::Exhausted,
            "the budget is used up at every site; raise pools[].gpuHours to go on, what was used stays counted",
        ),
        None => conditions.set(kind, true, settled_reason(view.asked()), ready_text(view, merged)),
    }
}

fn ready_text(view: &View<'_>, merged: &[Merged<'_, '_>]) -> String {
    match view.asked() {
        Asked::Active => {
            let bound = merged.iter().filter(|site| site.parts.iter().any(|row| row.phase == SiteRowPhase::Bound)).count();
            format!("{bound} sites give access until {}", view.grant.spec.not_after.0)
        }
        Asked::Scheduled => format!("access begins at {}", view.grant.spec.not_before.0),
        Asked::Paused => "no new work may start".to_owned(),
        Asked::Expired | Asked::Revoked | Asked::Deleted => {
            format!("access is gone everywhere{}; {}", view.except_abandoned(), data_text(merged))
        }
    }
}

/// Where data of a grant that has ended is kept.
fn data_text(merged: &[Merged<'_, '_>]) -> String {
    let locked = |site: &&Merged<'_, '_>| site.parts.iter().any(|row| row.phase == SiteRowPhase::Locked);
    let names: Vec<String> = merged.iter().filter(locked).filter_map(|site| Some(site.parts.first()?.name.clone())).collect();
    if names.is_empty() { "no site keeps data".to_owned() } else { format!("data is kept at {}", bounded(&names)) }
}

/// The reason of a grant that is what spec and clock ask for.
pub fn settled_reason(asked: Asked) -> Reason {
    match asked {
        Asked::Scheduled => Reason::Scheduled,
        Asked::Active => Reason::AsSpecified,
        Asked::Paused => Reason::Paused,
        Asked::Expired => Reason::Expired,
        Asked::Revoked => Reason::Revoked,
        Asked::Deleted => Reason::Deleting,
    }
}

fn reconciling(progress: &Progress, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Reconciling;
    if progress.ready {
        conditions.set(kind, false, Reason::AsSpecified, "");
    } else if progress.stuck {
        conditions.set(kind, false, Reason::NotApplicable, "");
    } else {
        conditions.set(kind, true, Reason::InProgress, format!("waiting for: {}", progress.waiting));
    }
}

fn stalled(progress: &Progress, conditions: &mut Conditions<'_>) {
    match progress.first.as_ref().filter(|_| progress.stuck) {
        Some(first) => conditions.set(ConditionType::Stalled, true, first.reason, &first.message),
        None => conditions.set(ConditionType::Stalled, false, Reason::NotApplicable, ""),
    }
}

fn authorised(progress: &Progress, conditions: &mut Conditions<'_>) {
    match progress.first.as_ref().filter(|first| progress.blocked && first.rank <= Rank::Refused) {
        Some(first) => conditions.set(ConditionType::Authorised, false, first.reason, &first.message),
        None => conditions.set(ConditionType::Authorised, true, Reason::AsSpecified, ""),
    }
}
