//! The audit trail: one line at info for each transition of a grant's access at a site. It names no member.

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

/// Logs what a report changes in a grant's access. `before` is the site's report before it; `stored` is the phase in the grant's status, which stands for
/// it after a restart.
pub fn log(key: &SiteKey, before: Option<&Report>, stored: Option<&str>, report: &Report) {
    let Some((from, now)) = transition(before, stored, report) else { return };
    let owner = &report.owner;
    let reason = report.findings.first().map_or("AsSpecified", |finding| finding.reason.as_str());
    tracing::info!(
        grant = %format_args!("{}/{}", owner.namespace, owner.name),
        site = %key,
        from,
        to = ?now.phase,
        members = now.members,
        access_removed = now.removed,
        reason,
        generation = report.generation,
        "Access changed"
    );
}

/// The phase before, and the access now, where they differ.
fn transition(before: Option<&Report>, stored: Option<&str>, report: &Report) -> Option<(String, Access)> {
    let now = Access::of(report)?;
    match before.and_then(Access::of) {
        Some(before) if before == now => None,
        Some(before) => Some((format!("{:?}", before.phase), now)),
        None if stored == Some(format!("{:?}", now.phase).as_str()) => None,
        None => Some((stored.unwrap_or("Unknown").to_owned(), now)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aifactory_api::{Kind, OwnerRef};
    use aifactory_plan::model::digest::digest_of;
    use aifactory_plan::model::report::GrantDetail;

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

    #[test]
    fn every_transition_of_access_is_logged_once() {
        let bound = report(SitePhase::Bound, 3, false);
        let from = |before: Option<&Report>, stored, now: &Report| transition(before, stored, now).map(|(from, _)| from);
        assert_eq!(from(None, None, &bound).as_deref(), Some("Unknown"));
        assert_eq!(from(Some(&bound), None, &bound), None, "nothing moved");
        assert_eq!(from(Some(&bound), None, &report(SitePhase::Bound, 2, false)).as_deref(), Some("Bound"), "a member lost access");
        assert_eq!(from(Some(&bound), None, &report(SitePhase::Locked, 0, true)).as_deref(), Some("Bound"));
        assert_eq!(from(None, Some("Bound"), &bound), None, "a restart is no transition");
        assert_eq!(from(None, Some("Bound"), &report(SitePhase::Locked, 0, true)).as_deref(), Some("Bound"));
        let pool = Report { detail: Detail::None, ..bound };
        assert_eq!(from(None, None, &pool), None, "a pool gives no access");
    }
}
