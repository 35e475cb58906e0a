//! What is known of a Lease, and for how long it has been so.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::tolerant_decode::Tolerant;

/// A Lease of which others have written some field so that it can not be read: that field is left out, so that the election goes on.
pub(super) fn readable(lease: Tolerant<Lease>) -> Lease {
    #[derive(Default, Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default)]
        spec: BTreeMap<String, &'a RawValue>,
    }
    match lease {
        Tolerant::Read(lease) => lease,
        Tolerant::Broken(broken) => {
            let Fields { mut spec } = serde_json::from_str(&broken.text).unwrap_or_default();
            let alone = |name: &String, value: &RawValue| {
                let spec = format!("{{{}:{}}}", serde_json::Value::from(name.as_str()), value.get());
                serde_json::from_str::<LeaseSpec>(&spec).is_ok()
            };
            spec.retain(|name, value| alone(name, value));
            let spec = serde_json::to_string(&spec).ok().and_then(|spec| serde_json::from_str(&spec).ok());
            Lease { metadata: broken.meta, spec }
        }
    }
}

/// A record that asks for more than this is not believed.
const MAX_DURATION: Duration = Duration::from_secs(300);

/// The last version of a Lease that was seen.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Version to name when changing it.
    pub(super) version: String,
    spec: LeaseSpec,
    /// When this state was first seen.
    since: Instant,
}

impl Record {
    /// Takes note of a Lease. Time since the last change goes on as long as its spec stays the same.
    pub(super) fn observe(previous: Option<Record>, lease: Lease, now: Instant) -> Record {
        let version = lease.metadata.resource_version.unwrap_or_default();
        let spec = lease.spec.unwrap_or_default();
        let since = match previous {
            Some(previous) if previous.spec == spec => previous.since,
            _ => now,
        };
        Record { version, spec, since }
    }

    /// Who holds it; nobody after a release.
    pub(super) fn holder(&self) -> Option<&str> {
        self.spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// When it was renewed last, by its holder's clock.
    pub(super) fn renewed(&self) -> Option<Timestamp> {
        self.spec.renew_time.as_ref().map(|at| at.0)
    }

    /// How often it has changed hands.
    pub(super) fn transitions(&self) -> i32 {
        self.spec.lease_transitions.unwrap_or(0)
    }

    /// From when on it may be taken. The longer of the holder's duration and ours counts, so that replicas with different flags are safe.
    pub(super) fn free_at(&self, ours: Duration) -> Instant {
        if self.holder().is_none() {
            return self.since;
        }
        let theirs = self.spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(Duration::ZERO, Duration::from_secs);
        self.since + ours.max(theirs.min(MAX_DURATION))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
    use tokio::time::Instant;

    use super::{Record, readable};
    use crate::tolerant_decode::Tolerant;

    fn lease(version: &str, holder: &str, seconds: i32, transitions: i32) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.to_owned());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        });
        lease
    }

    #[test]
    fn only_a_change_of_the_spec_is_a_sign_of_life() {
        let ours = Duration::from_secs(15);
        let start = Instant::now();
        let first = Record::observe(None, lease("1", "a", 15, 0), start);
        assert_eq!(first.free_at(ours), start + ours);
        let labelled = Record::observe(Some(first), lease("2", "a", 15, 0), start + Duration::from_secs(9));
        assert_eq!((labelled.free_at(ours), labelled.version.as_str()), (start + ours, "2"));
        let renewed = Record::observe(Some(labelled), lease("3", "a", 15, 1), start + Duration::from_secs(9));
        assert_eq!(renewed.free_at(ours), start + Duration::from_secs(24));
    }

    #[test]
    fn a_field_that_can_not_be_read_does_not_end_the_election() {
        let text = r#"{"metadata": {"name": "l", "resourceVersion": "7"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15,
            "leaseTransitions": "many", "renewTime": "9999-12-31T23:59:59.999999Z", "acquireTime": "2026-01-01T00:00:00.000000Z"}}"#;
        let now = Instant::now();
        let record = Record::observe(None, readable(Tolerant::from_json(text)), now);
        assert_eq!((record.version.as_str(), record.holder(), record.renewed(), record.transitions()), ("7", Some("a"), None, 0));
        assert_eq!(record.free_at(Duration::from_secs(15)), now + Duration::from_secs(15));
    }

    #[test]
    fn a_released_lease_is_free_and_a_longer_one_is_respected_within_reason() {
        let now = Instant::now();
        let free_at = |holder, seconds| Record::observe(None, lease("1", holder, seconds, 0), now).free_at(Duration::from_secs(15)) - now;
        assert_eq!(free_at("", 15), Duration::ZERO);
        assert_eq!(free_at("a", 1), Duration::from_secs(15));
        assert_eq!(free_at("a", 60), Duration::from_secs(60));
        assert_eq!(free_at("a", i32::MAX), Duration::from_secs(300));
        assert_eq!(free_at("a", -1), Duration::from_secs(15));
    }
}
