//! The status of a grant.

use aifactory_api::factory::NetworkImplementation;
use aifactory_api::grant::{AccessGrant, AccessGrantStatus, GrantSummary};
use aifactory_api::{ConditionType, Kind, OwnerRef, Reason};
use jiff::Timestamp;

use super::site_status::{Reach, Standing, was_confirmed};
use super::{Outcome, Reports, usage};
use crate::hub::conditions::{Conditions, Status};
use crate::hub::project::{Asked, GrantProjection};
use crate::hub::world::World;
use crate::model::intent::{Body, Desired, Intent};
use crate::model::report::{Detail, Finding, GrantDetail, SitePhase};
use crate::model::text::{bounded, shorten};

mod sites;

struct Row<'a> {
    standing: Standing<'a>,
    intent: &'a Intent,
    name: String,
    /// The name, and which part of the site.
    label: String,
    phase: String,
    /// The site holds what is asked for, or did when it was last heard of for this generation.
    confirmed: bool,
    refused: bool,
    /// Why the hub gives no access here, though spec and clock ask for it.
    denied: Option<String>,
    access_removed: bool,
    placed: bool,
}

/// Aggregates a grant.
pub fn grant(world: &World, grant: &AccessGrant, projection: &GrantProjection, reports: &Reports<'_>, now: Timestamp) -> Outcome<AccessGrantStatus> {
    let generation = grant.metadata.generation.unwrap_or_default();
    let namespace = grant.metadata.namespace.as_deref().unwrap_or_default();
    let previous = grant.status.as_ref();
    let rows: Vec<Row<'_>> = projection
        .sites
        .iter()
        .filter(|(key, _)| !reports.abandoned.contains(key) || reports.sites.get(key).is_some_and(|site| site.reachable))
        .map(|(key, intent)| row(key, intent, projection, reports, previous, generation, namespace))
        .collect();

    let asked = projection.asked;
    let ended = asked.ended();
    let open: Vec<&Row<'_>> = rows.iter().filter(|row| !row.confirmed).collect();
    let reach = Reach::of(rows.iter().map(|row| &row.standing), namespace);
    let awaiting: Vec<&Standing<'_>> = rows.iter().filter(|row| !row.access_removed).map(|row| &row.standing).collect();
    let site_refusals: Vec<(&Row<'_>, &Finding)> =
        rows.iter().filter(|row| row.refused).filter_map(|row| Some((row, row.standing.findings().first()?))).collect();
    let stalled: Vec<String> = rows
        .iter()
        .flat_map(|row| row.standing.findings().iter().filter(|finding| finding.stalled).map(|finding| format!("{}: {}", row.label, finding.message)))
        .collect();
    let merged = sites::merge(&rows, ended);
    let bound = merged.iter().filter(|site| site.parts.iter().any(|row| row.phase == "Bound")).count();
    let manned = |row: &&Row<'_>| row.phase == "Bound" && row.detail().is_some_and(|detail| detail.members_bound > 0);
    let usable_at = merged.iter().filter(|site| site.parts.iter().any(manned)).count();
    let told: Vec<usage::Told<'_>> =
        rows.iter().map(|row| usage::Told { name: &row.name, placed: row.placed, standing: &row.standing, intent: row.intent }).collect();
    let owner = OwnerRef::new(Kind::AccessGrant, namespace, grant.metadata.name.as_deref().unwrap_or_default());
    let used = usage::entries(world, &owner, grant, &told);
    let exhausted = projection.asked == Asked::Active && usage::nothing_left(&used);
    let any_placed = rows.iter().any(|row| row.placed);
    let refusal = projection
        .problems
        .first()
        .map(|refusal| (refusal.reason, refusal.message.clone()))
        .or_else(|| site_refusals.first().map(|(row, finding)| (finding.reason, format!("{}: {}", row.label, finding.message))));

    let mut conditions = Conditions::new(previous.map_or(&[], |status| status.conditions.as_slice()), generation, now);
    let ended_reason = match asked {
        Asked::Scheduled => Reason::Scheduled,
        Asked::Active => Reason::AsSpecified,
        Asked::Paused => Reason::Paused,
        Asked::Expired => Reason::Expired,
        Asked::Revoked => Reason::Revoked,
        Asked::Deleted => Reason::Deleting,
    };
    let all_confirmed = open.is_empty();
    let blocked = !ended && (refusal.is_some() || (!any_placed && asked == Asked::Active));
    let ready = all_confirmed && !blocked && asked != Asked::Deleted;
    let reachable_open = open.iter().any(|row| row.standing.reachable && !row.refused);
    let stuck = !ready && (blocked || !stalled.is_empty()) && !reachable_open;
    let in_progress = !ready && reachable_open;
    let waiting_text = || {
        let names: Vec<String> = open.iter().map(|row| format!("{} ({})", row.label, row.detail_text(namespace))).collect();
        bounded(&names)
    };
    match (&refusal, ready) {
        (_, true) if exhausted => conditions.set(
            ConditionType::Ready,
            true,
            Reason::Exhausted,
            "the budget is used up at every site; raise pools[].gpuHours to go on, what was used stays counted",
        ),
        (_, true) => conditions.set(ConditionType::Ready, true, ended_reason, ready_text(grant, asked, bound)),
        (Some((reason, message)), false) if !ended => conditions.set(ConditionType::Ready, false, *reason, message),
        _ => {
            let reason = if reach.lost.is_empty() { Reason::InProgress } else { reach.reason };
            conditions.set(ConditionType::Ready, false, reason, format!("not confirmed by: {}", waiting_text()));
        }
    }
    conditions.set(
        ConditionType::Reconciling,
        !ready && !stuck,
        if ready {
            Reason::AsSpecified
        } else if stuck {
            Reason::NotApplicable
        } else {
            Reason::InProgress
        },
        if ready || stuck { String::new() } else { format!("waiting for: {}", waiting_text()) },
    );
    let stuck_text = refusal.as_ref().map(|(_, message)| message.clone()).or_else(|| stalled.first().cloned());
    conditions.set(
        ConditionType::Stalled,
        stuck,
        if stuck { refusal.as_ref().map_or(Reason::SiteError, |(reason, _)| *reason) } else { Reason::NotApplicable },
        stuck_text.filter(|_| stuck).unwrap_or_default(),
    );
    let running = asked == Asked::Active && !exhausted;
    let (usable, nobody) = (running && usable_at > 0, running && usable_at == 0 && bound > 0);
    conditions.set(
        ConditionType::Usable,
        usable,
        if usable {
            Reason::AsSpecified
        } else if exhausted {
            Reason::Exhausted
        } else if blocked {
            refusal.as_ref().map_or(Reason::Pending, |(reason, _)| *reason)
        } else if nobody {
            Reason::MembersWaiting
        } else if asked == Asked::Active {
            Reason::InProgress
        } else {
            ended_reason
        },
        if usable {
            format!("members can start work at {usable_at} of {} sites", merged.iter().filter(|site| site.placed()).count())
        } else if nobody {
            "nobody can start work: sites[].members counts them, sites[].message says what they wait for".to_owned()
        } else {
            String::new()
        },
    );
    conditions.set(ConditionType::SitesReachable, reach.status, reach.reason, bounded(&reach.lost));
    match &refusal {
        Some((reason, message)) if !ended => conditions.set(ConditionType::Authorised, false, *reason, message),
        _ => conditions.set(ConditionType::Authorised, true, Reason::AsSpecified, ""),
    }
    let bound_everywhere = rows.iter().filter(|row| row.placed).all(|row| matches!(row.phase.as_str(), "Bound" | "Paused")) && any_placed;
    conditions.set(
        ConditionType::Bound,
        bound_everywhere && !ended && asked != Asked::Scheduled,
        if ended || asked == Asked::Scheduled {
            ended_reason
        } else if bound_everywhere {
            Reason::AsSpecified
        } else {
            refusal.as_ref().map_or(Reason::InProgress, |(reason, _)| *reason)
        },
        "",
    );
    isolation(&mut conditions, world, &rows);
    usage::within_budget(&mut conditions, &used);
    if ended {
        let gone = awaiting.is_empty();
        // Sites that answer take it away in this moment; worth a word is the one that does not, or finds something.
        let hindered = awaiting.iter().any(|standing| !standing.reachable || !standing.findings().is_empty());
        let names: Vec<String> = awaiting.iter().map(|standing| standing.progress_text(namespace)).collect();
        conditions.set(
            ConditionType::AccessRemoved,
            gone,
            if gone {
                Reason::AccessGone
            } else if hindered {
                Reason::AwaitingSite
            } else {
                Reason::InProgress
            },
            if gone { "every site has confirmed that access is gone".to_owned() } else { format!("not confirmed by: {}", bounded(&names)) },
        );
    } else {
        let reason = if blocked && bound == 0 { Reason::NotApplicable } else { Reason::AccessGiven };
        conditions.set(ConditionType::AccessRemoved, false, reason, "");
    }

    let phase = match asked {
        Asked::Scheduled => "Scheduled",
        Asked::Expired => "Expired",
        Asked::Revoked | Asked::Deleted => "Revoked",
        Asked::Paused if blocked && bound == 0 => "Refused",
        Asked::Paused => "Paused",
        Asked::Active if exhausted && bound > 0 => "Exhausted",
        // As soon as one site gives access the grant is living, whatever others say.
        Asked::Active if rows.iter().any(|row| matches!(row.phase.as_str(), "Bound" | "Paused")) => "Active",
        Asked::Active if blocked => "Refused",
        Asked::Active => "Pending",
    };
    let placed = merged.iter().filter(|site| site.placed()).count();
    let good = merged.iter().filter(|site| site.placed() && site.parts.iter().all(|row| !row.placed || (row.confirmed && !row.refused))).count();
    let status = AccessGrantStatus {
        observed_generation: Some(generation),
        phase: Some(phase.to_owned()),
        conditions: conditions.finish(),
        summary: Some(GrantSummary {
            organisation: grant.spec.organisation.short_name(),
            sites: format!("{good}/{placed}"),
            gpu_hours: usage::summary(&used),
            expires: grant.spec.not_after.0.strftime("%Y-%m-%d").to_string(),
        }),
        pools: usage::pools(&used),
        sites: merged.iter().filter(|site| site.placed() || site.phase != "Gone").map(|site| site.status(world, grant)).collect(),
    };
    Outcome { status, in_progress, finished: asked == Asked::Deleted && awaiting.is_empty() }
}

fn row<'a>(
    key: &'a crate::model::site_key::SiteKey,
    intent: &'a Intent,
    projection: &GrantProjection,
    reports: &Reports<'a>,
    previous: Option<&AccessGrantStatus>,
    generation: i64,
    namespace: &str,
) -> Row<'a> {
    let standing = Standing::of(key, intent, reports);
    let name = key.display(namespace);
    let expected = match &intent.body {
        Body::Grant(grant) => match grant.desired {
            Desired::Bound => "Bound",
            Desired::Paused => "Paused",
            Desired::Scheduled => "Gone",
            Desired::Ended { .. } => "Locked",
        },
        Body::Pool(_) => "Bound",
    };
    let confirmed = standing.settled || (!standing.reachable && !standing.current && was_confirmed(previous, generation, &name, expected));
    let denied = match &intent.body {
        Body::Grant(grant) => match &grant.desired {
            Desired::Ended { because, message, .. } if !projection.asked.ended() => Some(format!("{because}: {message}")),
            Desired::Ended { .. } | Desired::Bound | Desired::Paused | Desired::Scheduled => None,
        },
        Body::Pool(_) => None,
    };
    let phase = match standing.phase() {
        Some(SitePhase::Refused) => "Refused",
        Some(SitePhase::Gone) if denied.is_some() && projection.placed.contains(key) => "Refused",
        Some(_) if !standing.reachable && !standing.settled => "Unknown",
        Some(SitePhase::Pending) => "Pending",
        Some(SitePhase::Bound | SitePhase::Draining) if standing.settled => "Bound",
        Some(SitePhase::Paused) if standing.settled => "Paused",
        Some(SitePhase::Locked) => "Locked",
        Some(SitePhase::Gone) => "Gone",
        Some(_) => "Pending",
        None if confirmed => expected,
        None if standing.reachable => "Pending",
        None => "Unknown",
    };
    Row {
        intent,
        label: standing.label(namespace),
        refused: standing.phase() == Some(SitePhase::Refused),
        denied,
        access_removed: standing.access_removed(),
        placed: projection.placed.contains(key),
        phase: phase.to_owned(),
        confirmed,
        name,
        standing,
    }
}

impl Row<'_> {
    fn detail_text(&self, namespace: &str) -> String {
        if !self.standing.reachable {
            return self.standing.unreachable_text(namespace);
        }
        self.standing.findings().first().map_or_else(|| self.phase.clone(), |finding| shorten(&finding.message, 300))
    }

    fn detail(&self) -> Option<&GrantDetail> {
        match self.standing.report.map(|report| &report.detail) {
            Some(Detail::Grant(detail)) => Some(detail),
            Some(Detail::Pool(_) | Detail::None) | None => None,
        }
    }

    fn live(&self) -> bool {
        matches!(self.phase.as_str(), "Bound" | "Paused" | "Locked")
    }
}

fn isolation(conditions: &mut Conditions<'_>, world: &World, rows: &[Row<'_>]) {
    let mut missing = Vec::new();
    let mut widened = Vec::new();
    let mut unenforced = Vec::new();
    let mut unknown = Vec::new();
    let mut present = 0;
    for row in rows {
        let Some(Detail::Grant(detail)) = row.standing.report.map(|report| &report.detail) else { continue };
        if detail.namespace.is_empty() {
            continue;
        }
        present += 1;
        if !detail.isolated {
            missing.push(row.name.clone());
        }
        if row.standing.findings().iter().any(|finding| finding.reason == Reason::ForeignPolicy) {
            widened.push(row.name.clone());
        }
        match world.site(row.standing.key).map(|site| site.network.implementation) {
            Some(NetworkImplementation::None) => unenforced.push(row.name.clone()),
            Some(NetworkImplementation::Unknown) | None => unknown.push(row.name.clone()),
            Some(_) => {}
        }
    }
    let fabrics = "RDMA and NVLink fabrics are not covered by network policies: unknown";
    if present == 0 {
        conditions.set(ConditionType::NetworkIsolated, Status::Unknown, Reason::NotApplicable, "");
    } else if !missing.is_empty() {
        conditions.set(ConditionType::NetworkIsolated, false, Reason::InProgress, format!("no default deny yet at: {}", bounded(&missing)));
    } else if !widened.is_empty() {
        let message = format!("network policies of somebody else, which the site's message names, widen this at: {}. {fabrics}", bounded(&widened));
        conditions.set(ConditionType::NetworkIsolated, false, Reason::ForeignPolicy, message);
    } else if !unenforced.is_empty() {
        let message = format!("nothing enforces network policies at: {}. {fabrics}", bounded(&unenforced));
        conditions.set(ConditionType::NetworkIsolated, false, Reason::EngineMissing, message);
    } else if !unknown.is_empty() {
        let message = format!(
            "policies are in place; whether something enforces them is not declared (network.implementation) at: {}. {fabrics}",
            bounded(&unknown)
        );
        conditions.set(ConditionType::NetworkIsolated, Status::Unknown, Reason::Pending, message);
    } else {
        conditions.set(ConditionType::NetworkIsolated, true, Reason::AsSpecified, format!("policies are in place at {present} sites. {fabrics}"));
    }
}

fn ready_text(grant: &AccessGrant, asked: Asked, bound: usize) -> String {
    match asked {
        Asked::Active => format!("{bound} sites give access until {}", grant.spec.not_after.0),
        Asked::Scheduled => format!("access begins at {}", grant.spec.not_before.0),
        Asked::Paused => "no new work may start".to_owned(),
        Asked::Expired | Asked::Revoked | Asked::Deleted => "access is gone everywhere; data is kept for the retention".to_owned(),
    }
}
