//! The problems of a grant, and which of them `Ready` names.

use aifactory_api::Reason;

use super::View;
use crate::hub::project::Asked;
use crate::model::text::bounded;

/// The order in which `Ready` names problems: first those that only a person can solve, of these first the ones that the hub finds by itself and then
/// those that sites report; then problems that may pass by themselves. Where progress is impossible `Stalled` has the same reason as `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// What the grant names is missing, or the grant may not use it: in the order of the spec.
    Spec,
    /// A site does not take the grant.
    Refused,
    /// Only a person can help at a site.
    Stalled,
    /// A site can not be asked.
    Unreachable,
    /// Work is under way.
    InProgress,
}

/// A problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    pub rank: Rank,
    pub reason: Reason,
    pub message: String,
}

/// Whether a grant has what it asks for, and what is to be expected.
pub struct Progress {
    pub ready: bool,
    /// Part of the grant, or all of it, can not be given until a person decides.
    pub blocked: bool,
    /// The grant is expected to progress by itself soon.
    pub progressing: bool,
    /// Only a person can help.
    pub stuck: bool,
    /// The problem that `Ready` names.
    pub first: Option<Trouble>,
    /// The parts that have not confirmed.
    pub waiting: String,
}

impl Progress {
    pub fn of(view: &View<'_>) -> Self {
        let open = || view.rows.iter().filter(|row| !row.confirmed);
        let waiting = bounded(&open().map(|row| format!("{} ({})", row.label, row.detail_text(&view.home))).collect::<Vec<_>>());
        let mut troubles = troubles(view);
        // Stable: of the same rank the first stays the first.
        troubles.sort_by_key(|trouble| trouble.rank);
        let first = troubles.into_iter().next();
        let blocked = !view.asked().ended() && first.as_ref().is_some_and(|first| first.rank <= Rank::Refused);
        let ready = open().next().is_none() && !blocked && view.asked() != Asked::Deleted;
        let progressing = !ready && open().any(|row| row.standing.reachable && !row.stalled());
        let stuck = !ready && !progressing && first.as_ref().is_some_and(|first| first.rank <= Rank::Stalled);
        let rest = || {
            let (rank, reason) =
                if view.reach.lost.is_empty() { (Rank::InProgress, Reason::InProgress) } else { (Rank::Unreachable, view.reach.reason) };
            Trouble { rank, reason, message: format!("not confirmed by: {waiting}") }
        };
        let first = (!ready).then(|| first.unwrap_or_else(rest));
        Self { ready, blocked, progressing, stuck, first, waiting }
    }
}

/// Problems that only a person can solve.
fn troubles(view: &View<'_>) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let ended = view.asked().ended();
    if !ended {
        let problems = view.projection.problems.iter();
        troubles.extend(problems.map(|problem| Trouble { rank: Rank::Spec, reason: problem.reason, message: problem.message.clone() }));
        troubles.extend(nowhere(view));
    }
    for row in &view.rows {
        // A site that refuses the grant is no problem once the grant has ended there.
        if row.refused && !(ended && row.confirmed) {
            let first = row.standing.findings().first();
            troubles.extend(first.map(|finding| Trouble {
                rank: Rank::Refused,
                reason: finding.reason,
                message: format!("{}: {}", row.label, finding.message),
            }));
        } else if !row.confirmed {
            let findings = row.standing.findings().iter().filter(|finding| finding.stalled);
            troubles.extend(findings.map(|finding| Trouble {
                rank: Rank::Stalled,
                reason: finding.reason,
                message: format!("{}: {}", row.label, finding.message),
            }));
        }
    }
    troubles
}

/// A grant in force that no site is meant for.
fn nowhere(view: &View<'_>) -> Option<Trouble> {
    if view.asked() != Asked::Active || view.rows.iter().any(|row| row.meant) {
        return None;
    }
    let (reason, message) = if view.projection.placed.is_empty() {
        (Reason::SiteNotFound, "no pool that the grant names is at a site; add one to the pool's spec.sites")
    } else {
        (Reason::SiteAbandoned, "every site that the grant names was given up and does not answer")
    };
    Some(Trouble { rank: Rank::Spec, reason, message: message.to_owned() })
}
