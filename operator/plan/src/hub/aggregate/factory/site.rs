//! The row of one site, from its parts.

use aifactory_api::factory::{CredentialStatus, EngineStatus, FactorySiteStatus};
use aifactory_api::{Reason, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::hub::reports::SiteTally;
use crate::model::report::SiteReport;
use crate::model::site_key::Part;
use crate::model::text::shorten;
use crate::model::time::whole_seconds;

/// Name of the engine behind Slurm's own REST.
pub const SLURM: &str = "Slurm";

/// What is known of one part.
pub struct PartRow<'a> {
    pub part: Part,
    pub report: Option<&'a SiteReport>,
    pub abandoned: bool,
    /// The factory does not name it any more.
    pub left: bool,
    /// The hub knows that it may hold something.
    pub claimed: bool,
}

/// The reason and the message of a part's problem.
type Trouble = (Option<Reason>, Option<String>);

pub fn row(name: &str, known: Option<&FactorySiteStatus>, parts: &[PartRow<'_>], tally: SiteTally) -> FactorySiteStatus {
    let mut row = FactorySiteStatus {
        name: name.to_owned(),
        cluster_uid: known.and_then(|known| known.cluster_uid.clone()),
        claimed: parts.iter().any(|part| part.claimed),
        ..FactorySiteStatus::default()
    };
    if parts.is_empty() {
        row.reason = Some(Reason::NotApplicable.as_str().to_owned());
        row.message = Some("neither kubernetes nor slurm.rest: the operator does nothing here".to_owned());
        return row;
    }
    row.reachable = parts.iter().all(|part| part.report.is_some_and(|report| report.reachable));
    set_trouble(&mut row, parts);
    let before = known.map(|known| known.engines.as_slice()).unwrap_or_default();
    for part in parts {
        let reachable = part.report.filter(|report| report.reachable);
        match reachable {
            Some(report) => row.engines.extend(report.engines.iter().cloned()),
            None => {
                let of_part = |engine: &&EngineStatus| (engine.name == SLURM) == (part.part == Part::Slurm);
                row.engines.extend(before.iter().filter(of_part).cloned());
                let known = known.and_then(|known| known.last_contact_time.clone());
                let last = part.report.and_then(|report| report.last_contact).map(|at| Time(whole_seconds(at))).or(known);
                row.last_contact_time = [row.last_contact_time.take(), last].into_iter().flatten().min();
            }
        }
        if part.part == Part::Kubernetes {
            row.cluster_uid = reachable.and_then(|report| report.cluster_uid.clone()).or(row.cluster_uid);
            row.kubernetes_version = match (reachable, part.report) {
                (Some(report), _) => report.kubernetes_version.clone(),
                (None, Some(_)) => known.and_then(|known| known.kubernetes_version.clone()),
                (None, None) => None,
            };
        }
        if let Some(report) = part.report {
            row.orphans = row.orphans.saturating_add(i32::try_from(report.orphans.len()).unwrap_or(i32::MAX));
        }
    }
    let expires = parts.iter().filter_map(|part| part.report?.credential_expires).min();
    row.credential = expires.map(|at| CredentialStatus { expires_at: Some(Time(whole_seconds(at))) });
    if parts.iter().any(|part| part.report.is_some()) {
        (row.pools, row.grants, row.gpus) = (tally.pools(), tally.grants(), Some(tally.gpus()));
    }
    row
}

/// Sets reason and message: the reason of the part with the most severe problem, and the messages of all parts.
fn set_trouble(row: &mut FactorySiteStatus, parts: &[PartRow<'_>]) {
    let troubles: Vec<(Part, Trouble)> = parts.iter().map(|part| (part.part, trouble(part))).collect();
    let rank = |reason: &Reason| match reason {
        Reason::NotApplicable => 2,
        Reason::Pending => 1,
        _ => 0,
    };
    let reason = troubles.iter().filter_map(|(_, (reason, _))| *reason).min_by_key(rank);
    row.reason = reason.map(|reason| reason.as_str().to_owned());
    let mut texts: Vec<String> = Vec::new();
    for (part, (_, text)) in troubles {
        // Both parts of an abandoned site have the same message.
        if let Some(text) = text.filter(|text| !texts.contains(text)) {
            let named = part == Part::Slurm && !text.starts_with("given up");
            texts.push(if named { format!("Slurm: {text}") } else { text });
        }
    }
    row.message = (!texts.is_empty()).then(|| shorten(&texts.join("; "), 1000));
}

fn trouble(part: &PartRow<'_>) -> Trouble {
    let Some(report) = part.report else { return (Some(Reason::Pending), Some("not contacted yet".to_owned())) };
    if part.abandoned {
        let reason = if report.reachable { Reason::SiteAbandoned } else { Reason::NotApplicable };
        return (Some(reason), Some(format!("given up by annotation {}", labels::ABANDON_SITE)));
    }
    if let Some(problem) = &report.problem {
        (Some(problem.reason), Some(problem.message.clone()))
    } else if part.left {
        let text = "the factory does not name this any more; it is let go once nothing of ours lives there: end the grants and pools that are there";
        (Some(Reason::SitesRemain), Some(text.to_owned()))
    } else if !report.synced {
        (Some(Reason::Pending), None)
    } else {
        (None, report.policy_problems.first().map(|problem| format!("{}: {problem}", labels::SITE_POLICY)))
    }
}
