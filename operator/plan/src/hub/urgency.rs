//! Which changes are urgent: those that remove somebody's access.

use std::collections::BTreeSet;

use aifactory_api::AccessGrant;
use aifactory_api::grant::MemberState;
use jiff::Timestamp;

use super::project::Asked;

/// Whether reconciling a grant takes access from all of its members or from one of them: it is deleted, revoked, paused or over, a member is
/// suspended, or a member of `before` is not named any more.
pub fn takes_access(before: Option<&AccessGrant>, grant: &AccessGrant, now: Timestamp) -> bool {
    let asked = Asked::of(grant, now);
    asked.ended() || asked == Asked::Paused || suspends(grant) || before.is_some_and(|before| removes_member(before, grant))
}

fn suspends(grant: &AccessGrant) -> bool {
    grant.spec.members.iter().any(|member| member.state == MemberState::Suspended)
}

fn removes_member(before: &AccessGrant, grant: &AccessGrant) -> bool {
    let named: BTreeSet<&str> = grant.spec.members.iter().map(|member| member.id.as_str()).collect();
    before.spec.members.iter().any(|member| !named.contains(member.id.as_str()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn grant(change: Value) -> AccessGrant {
        let mut object = json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"name": "g", "namespace": "n"}, "spec": {
            "factoryRef": {"name": "f"}, "organisation": {"name": "o", "country": "FR", "category": "SME"}, "code": "EHPC-1",
            "accessMode": "Regular", "members": [{"id": "p-1"}, {"id": "p-2"}],
            "pools": [{"name": "h100", "poolRef": {"name": "h100"}, "gpuHours": 1, "maxGPUs": 1}],
            "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2026-02-01T00:00:00Z"}});
        json_merge(&mut object, change);
        serde_json::from_value(object).unwrap()
    }

    fn json_merge(into: &mut Value, change: Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                change.into_iter().for_each(|(key, value)| json_merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, change) => *into = change,
        }
    }

    #[test]
    fn whatever_takes_access_is_urgent_and_nothing_else() {
        let now: Timestamp = "2026-01-15T00:00:00Z".parse().unwrap();
        let plain = grant(json!({}));
        let urgent = |change| takes_access(Some(&plain), &grant(change), now);
        assert!(!takes_access(None, &plain, now));
        assert!(!urgent(json!({"spec": {"pools": [{"name": "h100", "poolRef": {"name": "h100"}, "gpuHours": 9, "maxGPUs": 1}]}})));
        assert!(!urgent(json!({"spec": {"members": [{"id": "p-1"}, {"id": "p-2"}, {"id": "p-3"}]}})));
        assert!(urgent(json!({"spec": {"state": "Revoked"}})));
        assert!(urgent(json!({"spec": {"state": "Paused"}})));
        assert!(urgent(json!({"spec": {"notAfter": "2026-01-15T00:00:00Z"}})));
        assert!(urgent(json!({"metadata": {"deletionTimestamp": "2026-01-14T00:00:00Z"}})));
        assert!(urgent(json!({"spec": {"members": [{"id": "p-1"}, {"id": "p-2", "state": "Suspended"}]}})));
        assert!(urgent(json!({"spec": {"members": [{"id": "p-1"}]}})));
        assert!(takes_access(Some(&plain), &plain, "2026-02-01T00:00:00Z".parse().unwrap()));
    }
}
