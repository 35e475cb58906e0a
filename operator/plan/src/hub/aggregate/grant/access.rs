//! Whether anybody may still have access, and whether members can work, by what sites have reported.

use aifactory_api::grant::SiteRowPhase;
use aifactory_api::{ConditionType, Reason};

use super::View;
use super::conditions::settled_reason;
use super::row::Row;
use super::sites::Merged;
use super::trouble::Progress;
use crate::hub::conditions::{Conditions, Status};
use crate::hub::project::Asked;
use crate::model::text::bounded;

impl View<'_> {
    /// Whether the grant may still give access somewhere. It is false only where every part that may hold the grant has reported, in answer to its
    /// present intent, that it gives no access; a part that a person has abandoned does not count while it does not answer.
    pub fn may_give_access(&self) -> bool {
        self.awaited().next().is_some()
    }

    /// The parts that have not reported that they give no access.
    fn awaited(&self) -> impl Iterator<Item = &Row<'_>> {
        self.rows.iter().chain(&self.suspects).filter(|row| row.may_give)
    }

    /// For a message which says that access is gone: where nobody knows that.
    pub fn except_abandoned(&self) -> String {
        let names = bounded(&self.abandoned);
        match self.abandoned.len() {
            0 => String::new(),
            1 => format!(", except {names}, which was abandoned and has not answered"),
            _ => format!(", except {names}, which were abandoned and have not answered"),
        }
    }

    /// The unreachable parts that may give access, where that matters: the grant is active, or what it has there was never confirmed.
    fn unknown(&self) -> Vec<&Row<'_>> {
        let working = self.asked() == Asked::Active && !self.exhausted;
        self.rows.iter().filter(|row| row.may_give && !row.standing.reachable && (working || !row.confirmed)).collect()
    }
}

/// Sets `AccessRemoved`.
pub fn removed(view: &View<'_>, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::AccessRemoved;
    if !view.asked().ended() {
        if view.may_give_access() {
            return conditions.set(kind, false, Reason::AccessGiven, "");
        }
        let message = if view.abandoned.is_empty() { String::new() } else { format!("no site gives access{}", view.except_abandoned()) };
        return conditions.set(kind, false, Reason::NotApplicable, message);
    }
    let awaited: Vec<&Row<'_>> = view.awaited().collect();
    if awaited.is_empty() {
        let message = format!("every site has confirmed that access is gone{}", view.except_abandoned());
        return conditions.set(kind, true, Reason::AccessGone, message);
    }
    // A site that answers is removing access right now; only one that does not answer, or has a finding, is waited for.
    let hindered = awaited.iter().any(|row| !row.standing.reachable || !row.standing.findings().is_empty());
    let names: Vec<String> = awaited.iter().map(|row| row.standing.progress_text(&view.home)).collect();
    let reason = if hindered { Reason::AwaitingSite } else { Reason::InProgress };
    conditions.set(kind, false, reason, format!("not confirmed by: {}", bounded(&names)));
}

/// Sets `Usable`.
pub fn usable(view: &View<'_>, merged: &[Merged<'_, '_>], progress: &Progress, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Usable;
    let running = view.asked() == Asked::Active && !view.exhausted;
    let open: Vec<&Merged<'_, '_>> = merged.iter().filter(|site| site.parts.iter().any(|row| manned(row) && row.closed().is_none())).collect();
    let closed = closed(merged, &open);
    if running && !open.is_empty() {
        let names: Vec<String> = closed.iter().map(|(_, text)| text.clone()).collect();
        let but = if names.is_empty() { String::new() } else { format!("; not at {}", bounded(&names)) };
        let sites = merged.iter().filter(|site| site.placed()).count().max(open.len());
        return conditions.set(kind, true, Reason::AsSpecified, format!("members can start work at {} of {sites} sites{but}", open.len()));
    }
    let unknown = view.unknown();
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|row| row.standing.unreachable_text(&view.home)).collect();
        let text = format!("members may still work at a site that can not be asked: {}", bounded(&names));
        return conditions.set(kind, Status::Unknown, view.reach.reason, text);
    }
    let bound = view.rows.iter().any(|row| row.phase == SiteRowPhase::Bound);
    let (reason, message) = match closed.first() {
        _ if view.asked() != Asked::Active => (settled_reason(view.asked()), String::new()),
        _ if view.exhausted => (Reason::Exhausted, String::new()),
        Some((reason, _)) => {
            let names: Vec<String> = closed.iter().map(|(_, text)| text.clone()).collect();
            (*reason, format!("nothing new can start: {}", bounded(&names)))
        }
        None if progress.blocked => (progress.first.as_ref().map_or(Reason::Pending, |first| first.reason), String::new()),
        None if bound => {
            let text = "nobody can start work: sites[].members counts them, sites[].message says what they wait for";
            (Reason::MembersWaiting, text.to_owned())
        }
        None => (Reason::InProgress, String::new()),
    };
    conditions.set(kind, false, reason, message);
}

/// Whether a member who can start work is bound there, by the word of a site that answers.
fn manned(row: &Row<'_>) -> bool {
    row.phase == SiteRowPhase::Bound && row.standing.reachable && row.detail().is_some_and(|detail| detail.members_bound > detail.members_reading)
}

/// The sites where members have access and can start nothing, each with why.
fn closed(merged: &[Merged<'_, '_>], open: &[&Merged<'_, '_>]) -> Vec<(Reason, String)> {
    let open = |site: &Merged<'_, '_>| open.iter().any(|other| std::ptr::eq(*other, site));
    let mut closed = Vec::new();
    for row in merged.iter().filter(|site| !open(site)).flat_map(|site| &site.parts).filter(|row| manned(row)) {
        closed.extend(row.closed().map(|(reason, why)| (reason, format!("{}: {why}", row.label))));
    }
    closed
}

/// Sets `Bound`.
pub fn bound(view: &View<'_>, progress: &Progress, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Bound;
    let over = view.asked().ended() || view.asked() == Asked::Scheduled;
    let meant: Vec<&Row<'_>> = view.rows.iter().filter(|row| row.meant).collect();
    let silent = |row: &Row<'_>| row.may_give && !row.standing.reachable;
    let holds = |row: &Row<'_>| matches!(row.phase, SiteRowPhase::Bound | SiteRowPhase::Paused);
    if !over && !meant.is_empty() && meant.iter().all(|row| holds(row) && !silent(row)) {
        return conditions.set(kind, true, Reason::AsSpecified, "");
    }
    let unknown: Vec<&Row<'_>> = if over {
        view.unknown()
    } else if meant.iter().all(|row| holds(row) || silent(row)) {
        meant.into_iter().filter(|row| silent(row)).collect()
    } else {
        Vec::new()
    };
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|row| row.standing.unreachable_text(&view.home)).collect();
        return conditions.set(kind, Status::Unknown, view.reach.reason, bounded(&names));
    }
    let reason = if over {
        settled_reason(view.asked())
    } else {
        progress.first.as_ref().filter(|_| progress.blocked).map_or(Reason::InProgress, |first| first.reason)
    };
    conditions.set(kind, false, reason, "");
}
