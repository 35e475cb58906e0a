//! Whether network policies keep a grant apart from others.

use aifactory_api::factory::NetworkImplementation;
use aifactory_api::{ConditionType, Reason};

use super::row::Row;
use crate::hub::cache::Cache;
use crate::hub::conditions::{Conditions, Status};
use crate::model::text::bounded;

/// Sets `NetworkIsolated`.
pub fn isolation(conditions: &mut Conditions<'_>, cache: &Cache, rows: &[Row<'_>]) {
    let mut missing = Vec::new();
    let mut widened = Vec::new();
    let mut unenforced = Vec::new();
    let mut unknown = Vec::new();
    let mut present = 0;
    for row in rows {
        let Some(detail) = row.detail() else { continue };
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
        match cache.site(row.standing.key).map(|site| site.network.implementation) {
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
