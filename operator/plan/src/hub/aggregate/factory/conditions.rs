//! The conditions of a factory.

use aifactory_api::factory::{FactorySiteStatus, Site};
use aifactory_api::{ConditionType, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::View;
use crate::hub::conditions::{Conditions, Status};
use crate::model::site_key::{Part, SiteKey};
use crate::model::text::bounded;

/// Every condition of a factory.
pub fn all(view: &View<'_>, now: Timestamp) -> Vec<Condition> {
    let previous = view.factory.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
    let mut conditions = Conditions::new(previous, view.generation, now);
    let text = what_is_wrong(view);
    ready(view, &text, &mut conditions);
    reconciling(view, &text, &mut conditions);
    stalled(view, &text, &mut conditions);
    reachable(view, &mut conditions);
    engines(view, &mut conditions);
    orphans(view, &mut conditions);
    conditions.finish()
}

fn what_is_wrong(view: &View<'_>) -> String {
    let troubled = view.troubled();
    let texts = troubled.iter().map(|row| format!("{}: {}", row.name, row.message.clone().unwrap_or_default()));
    // A site that can not be used does not count as reachable either.
    let lost = view.lost.iter().filter(|(name, _)| troubled.iter().all(|row| row.name != *name)).map(|(_, text)| text.clone());
    bounded(&texts.chain(lost).collect::<Vec<_>>())
}

/// The reason of the first site that can not be used as specified.
fn first_trouble(view: &View<'_>) -> Option<Reason> {
    view.troubled().first().and_then(|row| reason(row))
}

fn reason(row: &FactorySiteStatus) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| Some(reason.as_str()) == row.reason.as_deref())
}

fn ready(view: &View<'_>, text: &str, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Ready;
    if view.deleting && view.remains() {
        let pools = view.pools.iter().map(|name| format!("GPUPool {name}"));
        let names: Vec<String> = pools.chain(view.grants.iter().map(|name| format!("AccessGrant {name}"))).collect();
        return conditions.set(kind, false, Reason::PoolsRemain, format!("still there: {}. Delete them first", bounded(&names)));
    }
    if view.deleting {
        let names: Vec<String> = view.rows.iter().map(|row| row.name.clone()).collect();
        return conditions.set(kind, false, Reason::SitesRemain, format!("not released: {}", bounded(&names)));
    }
    // A site that is lost after it was confirmed for this generation does not change Ready, only SitesReachable.
    if view.ready() || (view.was_ready() && view.troubled().is_empty()) {
        return conditions.set(kind, true, Reason::AsSpecified, format!("{} sites", view.rows.len()));
    }
    let reason = first_trouble(view).unwrap_or(if view.lost.is_empty() { Reason::Pending } else { Reason::SiteUnreachable });
    conditions.set(kind, false, reason, text);
}

fn reconciling(view: &View<'_>, text: &str, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Reconciling;
    if view.progressing() {
        conditions.set(kind, true, Reason::InProgress, text);
    } else {
        conditions.set(kind, false, Reason::NotApplicable, "");
    }
}

fn stalled(view: &View<'_>, text: &str, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Stalled;
    if view.stalled() {
        conditions.set(kind, true, first_trouble(view).unwrap_or(Reason::PoolsRemain), text);
    } else {
        conditions.set(kind, false, Reason::NotApplicable, "");
    }
}

fn reachable(view: &View<'_>, conditions: &mut Conditions<'_>) {
    let (status, reason) = match (view.lost.is_empty(), view.pending) {
        (false, _) => (Status::False, Reason::SiteUnreachable),
        (true, true) => (Status::Unknown, Reason::Pending),
        (true, false) => (Status::True, Reason::AsSpecified),
    };
    let lost: Vec<String> = view.lost.iter().map(|(_, text)| text.clone()).collect();
    conditions.set(ConditionType::SitesReachable, status, reason, bounded(&lost));
}

fn orphans(view: &View<'_>, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::OrphansFound;
    if view.rows.iter().any(|row| row.orphans > 0) {
        conditions.set(kind, true, Reason::OrphansFound, bounded(&orphan_names(view)));
    } else {
        conditions.set(kind, false, Reason::NoOrphans, "");
    }
}

fn engines(view: &View<'_>, conditions: &mut Conditions<'_>) {
    let View { owner, factory, sites, rows, .. } = view;
    let unserved = factory
        .spec
        .sites
        .iter()
        .filter(|site| site.slurm.as_ref().is_some_and(|slurm| slurm.slinky.is_some()))
        .filter(|site| sites.get(&SiteKey::new((*owner).clone(), &site.name)).is_some_and(|report| report.reachable))
        .filter(|site| rows.iter().any(|row| row.name == site.name && !row.engines.iter().any(|engine| engine.name == "Slinky")))
        .map(|site| (Reason::EngineMissing, format!("{}: Slinky (slinky.slurm.net/v1beta1) is not served", site.name)));
    let slurm = factory.spec.sites.iter().filter_map(|site| {
        let problem = sites.get(&SiteKey::slurm((*owner).clone(), &site.name))?.problem.as_ref().filter(|problem| of_slurm(problem.reason))?;
        Some((problem.reason, format!("{}: Slurm: {}", site.name, problem.message)))
    });
    let troubles: Vec<(Reason, String)> = unserved.chain(slurm).collect();
    let unheard = unheard(view);
    if troubles.is_empty() && !unheard.is_empty() {
        let reason = if view.lost.is_empty() { Reason::Pending } else { Reason::SiteUnreachable };
        return conditions.set(ConditionType::EnginesReady, Status::Unknown, reason, format!("can not be asked: {}", bounded(&unheard)));
    }
    conditions.set(
        ConditionType::EnginesReady,
        troubles.is_empty(),
        troubles.first().map_or(Reason::AsSpecified, |(reason, _)| *reason),
        bounded(&troubles.into_iter().map(|(_, text)| text).collect::<Vec<_>>()),
    );
}

/// Sites at which the factory names an engine and whose part for it can not be asked.
fn unheard(view: &View<'_>) -> Vec<String> {
    let given_up = |name: &str| view.rows.iter().any(|row| row.name == name && row.reason.as_deref() == Some(Reason::NotApplicable.as_str()));
    let silent = |key: SiteKey| !view.sites.get(&key).is_some_and(|report| report.reachable);
    let asks = |site: &&Site| {
        let Some(slurm) = &site.slurm else { return false };
        let kubernetes = slurm.slinky.is_some() && silent(SiteKey::new(view.owner.clone(), &site.name));
        kubernetes || (slurm.rest.is_some() && silent(SiteKey::slurm(view.owner.clone(), &site.name)))
    };
    view.factory.spec.sites.iter().filter(asks).filter(|site| !given_up(&site.name)).map(|site| site.name.clone()).collect()
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

/// Also at sites and parts that left the spec: they have a row as long as they may hold something.
fn orphan_names(view: &View<'_>) -> Vec<String> {
    let owner = || view.owner.clone();
    let parts = view.rows.iter().flat_map(|row| [SiteKey::new(owner(), &row.name), SiteKey::slurm(owner(), &row.name)]);
    let reports = parts.filter_map(|key| Some((key.clone(), view.sites.get(&key)?)));
    reports
        .flat_map(|(key, report)| {
            let slurm = if key.part == Part::Slurm { " (Slurm)" } else { "" };
            report.orphans.iter().map(move |orphan| format!("{}{slurm}: {orphan}", key.site))
        })
        .collect()
}
