//! Whether network policies keep a grant apart from others.

use aifactory_api::factory::NetworkImplementation;
use aifactory_api::{ConditionType, Reason};

use super::View;
use super::row::Row;
use crate::hub::conditions::{Conditions, Status};
use crate::model::site_key::Part;
use crate::model::text::bounded;

const FABRICS: &str = "RDMA and NVLink fabrics are not covered by network policies: unknown";

/// The sites at which the grant has a namespace, or may have one, by what is known of its network policies.
#[derive(Default)]
struct Found {
    sites: usize,
    missing: Vec<String>,
    widened: Vec<String>,
    unenforced: Vec<String>,
    /// Sites that can not be asked, each with why.
    unreachable: Vec<String>,
    /// Sites whose last report is about a former intent.
    unanswered: Vec<String>,
    undeclared: Vec<String>,
}

impl Found {
    fn of(view: &View<'_>) -> Self {
        let mut found = Self::default();
        for row in view.rows.iter().filter(|row| row.standing.key.part == Part::Kubernetes) {
            found.add(view, row);
        }
        found
    }

    fn add(&mut self, view: &View<'_>, row: &Row<'_>) {
        let detail = row.detail().filter(|detail| !detail.namespace.is_empty());
        let unheard = !row.standing.reachable && !row.standing.current && row.may_give;
        if detail.is_none() && !unheard {
            return;
        }
        self.sites += 1;
        if !row.standing.reachable {
            self.unreachable.push(row.standing.unreachable_text(&view.home));
        } else if !row.standing.current {
            self.unanswered.push(row.name.clone());
        } else if detail.is_some_and(|detail| !detail.isolated) {
            self.missing.push(row.name.clone());
        } else if row.standing.findings().iter().any(|finding| finding.reason == Reason::ForeignPolicy) {
            self.widened.push(row.name.clone());
        }
        match view.cache.site(row.standing.key).map(|site| site.network.implementation) {
            Some(NetworkImplementation::None) => self.unenforced.push(row.name.clone()),
            Some(NetworkImplementation::Unknown) | None => self.undeclared.push(row.name.clone()),
            Some(_) => {}
        }
    }
}

/// Sets `NetworkIsolated`.
pub fn isolation(view: &View<'_>, conditions: &mut Conditions<'_>) {
    let found = Found::of(view);
    let (status, reason, message) = if found.sites == 0 {
        (Status::Unknown, Reason::NotApplicable, String::new())
    } else if !found.missing.is_empty() {
        (Status::False, Reason::InProgress, format!("no default deny yet at: {}", bounded(&found.missing)))
    } else if !found.widened.is_empty() {
        let names = bounded(&found.widened);
        let message = format!("network policies of somebody else, which the site's message names, widen this at: {names}. {FABRICS}");
        (Status::False, Reason::ForeignPolicy, message)
    } else if !found.unenforced.is_empty() {
        let message = format!("nothing enforces network policies at: {}. {FABRICS}", bounded(&found.unenforced));
        (Status::False, Reason::EngineMissing, message)
    } else if !found.unreachable.is_empty() {
        (Status::Unknown, view.reach.reason, format!("can not be asked: {}", bounded(&found.unreachable)))
    } else if !found.unanswered.is_empty() {
        (Status::Unknown, Reason::InProgress, format!("no answer yet to what is asked for now: {}", bounded(&found.unanswered)))
    } else if !found.undeclared.is_empty() {
        let names = bounded(&found.undeclared);
        let message =
            format!("policies are in place; whether something enforces them is not declared (network.implementation) at: {names}. {FABRICS}");
        (Status::Unknown, Reason::Pending, message)
    } else {
        (Status::True, Reason::AsSpecified, format!("policies are in place at {} sites. {FABRICS}", found.sites))
    };
    conditions.set(ConditionType::NetworkIsolated, status, reason, message);
}
