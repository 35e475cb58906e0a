//! The audit trail: one line at info for each transition of a grant's access at a site. It names no member.

use aifactory_api::Reason;
use aifactory_plan::model::intent::{Body, Desired, GrantIntent, Intent};
use aifactory_plan::model::report::{Detail, Report, SitePhase};
use aifactory_plan::model::site_key::SiteKey;

/// Access of a grant at a site, from its report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    phase: SitePhase,
    /// How many members have access.
    members: i32,
    /// Whether nobody can start work or reach the tenant's objects any more.
    removed: bool,
}

impl Access {
    fn of(report: &Report) -> Option<Self> {
        match &report.detail {
            Detail::Grant(grant) => Some(Self { phase: report.phase, members: grant.members_bound, removed: grant.access_removed }),
            _ => None,
        }
    }
}

/// What a report changes in a grant's access.
#[derive(Debug, PartialEq, Eq)]
struct Transition {
    from: String,
    to: Access,
    reason: Reason,
}

/// Logs what a report changes in a grant's access. `before` is the site's report before it; `stored` is the phase in the grant's status, which stands for
/// it after a restart. `intent` is the one that the site was sent last.
pub fn log(key: &SiteKey, before: Option<&Report>, stored: Option<&str>, report: &Report, intent: Option<&Intent>) {
    let Some(Transition { from, to, reason }) = transition(before, stored, report, intent) else { return };
    let owner = &report.owner;
    tracing::info!(
        grant = %format_args!("{}/{}", owner.namespace, owner.name),
        site = %key,
        from,
        to = ?to.phase,
        members = to.members,
        access_removed = to.removed,
        reason = reason.as_str(),
        generation = report.generation,
        "Access changed"
    );
}

/// `None` where the access before and now is the same.
fn transition(before: Option<&Report>, stored: Option<&str>, report: &Report, intent: Option<&Intent>) -> Option<Transition> {
    let to = Access::of(report)?;
    let from = match before.and_then(Access::of) {
        Some(before) if before == to => return None,
        Some(before) => format!("{:?}", before.phase),
        None if stored == Some(format!("{:?}", to.phase).as_str()) => return None,
        None => stored.unwrap_or("Unknown").to_owned(),
    };
    let reason = match intent.map(|intent| &intent.body) {
        Some(Body::Grant(grant)) => reason(grant, report),
        Some(Body::Pool(_)) | None => found(report, Reason::InProgress),
    };
    Some(Transition { from, to, reason })
}

/// Why access is given or removed: by order, or, where the site gives less than it is asked for, by what it has found.
fn reason(asked: &GrantIntent, report: &Report) -> Reason {
    match (&asked.desired, report.phase) {
        (Desired::Ended { because, .. }, _) => *because,
        (_, SitePhase::Refused) => found(report, Reason::RefusedBySite),
        (Desired::Scheduled, _) => Reason::Scheduled,
        (Desired::Paused, _) => Reason::Paused,
        (Desired::Bound, SitePhase::Bound) if all_bound(report) => Reason::AsSpecified,
        (Desired::Bound, SitePhase::Bound) => {
            let waits = |reason: &Reason| matches!(reason, Reason::LocalAccountMissing | Reason::RefusedBySite | Reason::MembersWaiting);
            report.findings.iter().map(|finding| finding.reason).find(waits).unwrap_or(Reason::MembersWaiting)
        }
        // The site has not done what is asked for now.
        (Desired::Bound, _) => found(report, Reason::InProgress),
    }
}

fn all_bound(report: &Report) -> bool {
    matches!(&report.detail, Detail::Grant(grant) if grant.members_bound >= grant.members_wanted)
}

fn found(report: &Report, otherwise: Reason) -> Reason {
    report.findings.first().map_or(otherwise, |finding| finding.reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aifactory_api::{Kind, OwnerRef};
    use aifactory_plan::model::digest::digest_of;
    use aifactory_plan::model::intent::VERSION;
    use aifactory_plan::model::report::{Finding, GrantDetail};
    use jiff::Timestamp;

    use super::*;

    fn report(phase: SitePhase, members: i32, removed: bool) -> Report {
        Report {
            owner: OwnerRef::new(Kind::AccessGrant, "n", "g"),
            uid: "u".to_owned(),
            generation: 3,
            answers: digest_of(&phase),
            phase,
            settled: true,
            findings: Vec::new(),
            detail: Detail::Grant(GrantDetail { members_bound: members, access_removed: removed, ..GrantDetail::default() }),
        }
    }

    /// An intent that asks for this.
    fn intent(desired: Desired) -> Intent {
        let owner = OwnerRef::new(Kind::AccessGrant, "n", "g");
        let body = Body::Grant(Box::new(GrantIntent::bare("c", desired)));
        Intent { version: VERSION, owner, uid: "u".to_owned(), generation: 3, created: Timestamp::UNIX_EPOCH, serial: 0, body }
    }

    fn ended(because: Reason) -> Desired {
        Desired::Ended { because, message: "it is over".to_owned(), at: None }
    }

    fn finding(report: Report, reason: Reason) -> Report {
        Report { findings: vec![Finding::stalled(reason, "what the site found")], ..report }
    }

    #[test]
    fn every_transition_of_access_is_logged_once() {
        let bound = report(SitePhase::Bound, 3, false);
        let from = |before: Option<&Report>, stored, now: &Report| transition(before, stored, now, None).map(|found| found.from);
        assert_eq!(from(None, None, &bound).as_deref(), Some("Unknown"));
        assert_eq!(from(Some(&bound), None, &bound), None, "nothing moved");
        assert_eq!(from(Some(&bound), None, &report(SitePhase::Bound, 2, false)).as_deref(), Some("Bound"), "a member lost access");
        assert_eq!(from(Some(&bound), None, &report(SitePhase::Locked, 0, true)).as_deref(), Some("Bound"));
        assert_eq!(from(None, Some("Bound"), &bound), None, "a restart is no transition");
        assert_eq!(from(None, Some("Bound"), &report(SitePhase::Locked, 0, true)).as_deref(), Some("Bound"));
        let pool = Report { detail: Detail::None, ..bound };
        assert_eq!(from(None, None, &pool), None, "a pool gives no access");
    }

    #[test]
    fn a_transition_says_why_access_was_given_or_removed() {
        let bound = || report(SitePhase::Bound, 3, false);
        let locked = || report(SitePhase::Locked, 0, true);
        let pending = || report(SitePhase::Pending, 0, false);
        let paused = || report(SitePhase::Paused, 3, false);
        let mut one_waits = finding(report(SitePhase::Bound, 2, false), Reason::LocalAccountMissing);
        if let Detail::Grant(detail) = &mut one_waits.detail {
            detail.members_wanted = 3;
        }
        let cases = [
            (bound(), Desired::Bound, Reason::AsSpecified),
            // What a site finds beside the access is not why it was given.
            (finding(bound(), Reason::ForeignPolicy), Desired::Bound, Reason::AsSpecified),
            (one_waits, Desired::Bound, Reason::LocalAccountMissing),
            (paused(), Desired::Paused, Reason::Paused),
            (report(SitePhase::Gone, 0, true), Desired::Scheduled, Reason::Scheduled),
            (locked(), ended(Reason::Revoked), Reason::Revoked),
            (finding(locked(), Reason::ForeignBinding), ended(Reason::Revoked), Reason::Revoked),
            (pending(), ended(Reason::Expired), Reason::Expired),
            (locked(), ended(Reason::Deleting), Reason::Deleting),
            (locked(), ended(Reason::PlacementRemoved), Reason::PlacementRemoved),
            (finding(report(SitePhase::Refused, 0, true), Reason::RefusedBySite), Desired::Bound, Reason::RefusedBySite),
            (finding(pending(), Reason::PausedBySite), Desired::Bound, Reason::PausedBySite),
            (pending(), Desired::Bound, Reason::InProgress),
            // The site locked it by a former order.
            (locked(), Desired::Bound, Reason::InProgress),
        ];
        let before = report(SitePhase::Bound, 1, false);
        for (report, desired, wanted) in cases {
            let found = transition(Some(&before), None, &report, Some(&intent(desired.clone()))).map(|found| found.reason);
            assert_eq!(found, Some(wanted), "{desired:?}, {:?}", report.phase);
        }
    }
}
