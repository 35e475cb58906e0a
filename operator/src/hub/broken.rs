//! The status of a resource that can not be reconciled: two conditions are set, and the rest of its status is left as it is.

use aifactory_api::{ConditionType, Reason, labels};
use aifactory_plan::model::time::whole_seconds;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use serde_json::Value;
use serde_json::value::RawValue;

/// A resource that can not be decoded.
#[derive(Clone, Debug)]
pub struct Undecodable {
    /// What is known of it.
    pub meta: ObjectMeta,
    /// The conditions that it has, as far as they can be read.
    pub conditions: Vec<Condition>,
    /// Why it can not be decoded.
    pub why: String,
}

impl Undecodable {
    /// Whether it carries our finalizer.
    pub fn is_held(&self) -> bool {
        self.meta.finalizers.iter().flatten().any(|finalizer| finalizer == labels::FINALIZER)
    }

    /// Whether a person has released it by annotation, although the operator can not remove what sites hold of it.
    pub fn may_go(&self) -> bool {
        let confirmed = self.meta.annotations.as_ref().and_then(|annotations| annotations.get(labels::RELEASE_UNDECODABLE));
        self.meta.deletion_timestamp.is_some() && confirmed.is_some() && confirmed == self.meta.uid.as_ref()
    }

    /// The message for people: the cause, and what they can do.
    pub fn message(&self) -> String {
        let mut text = format!("the stored object can not be read by this release: {}", self.why);
        if self.meta.deletion_timestamp.is_some() {
            text.push_str(&format!(
                ". It is being deleted, but what sites hold of it can not be removed without its spec. Correct the spec; or let it go, and what \
                 sites hold becomes an orphan there: annotate it with {}={}",
                labels::RELEASE_UNDECODABLE,
                self.meta.uid.as_deref().unwrap_or_default(),
            ));
        }
        text
    }
}

/// The conditions of a stored object; one that can not be decoded is left out.
pub fn conditions_of(object: &str) -> Vec<Condition> {
    #[derive(Default, serde::Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        status: Option<&'a RawValue>,
    }
    #[derive(Default, serde::Deserialize)]
    struct Status<'a> {
        #[serde(borrow, default)]
        conditions: Vec<&'a RawValue>,
    }
    let object: Object<'_> = serde_json::from_str(object).unwrap_or_default();
    let status: Status<'_> = object.status.and_then(|status| serde_json::from_str(status.get()).ok()).unwrap_or_default();
    status.conditions.iter().filter_map(|condition| serde_json::from_str(condition.get()).ok()).collect()
}

/// All conditions of a resource that can not be reconciled, of which two explain why; `None` where those are stored already.
pub fn conditions(stored: &[Condition], generation: Option<i64>, reason: Reason, message: &str) -> Option<Value> {
    let now = whole_seconds(Timestamp::now());
    let wanted = [(ConditionType::Ready, "False"), (ConditionType::Stalled, "True")].map(|(type_, status)| {
        let before = stored.iter().find(|condition| condition.type_ == type_.as_str());
        Condition {
            type_: type_.as_str().to_owned(),
            status: status.to_owned(),
            reason: reason.as_str().to_owned(),
            message: crate::text::cut(message.to_owned(), 1024),
            observed_generation: generation,
            last_transition_time: before.filter(|before| before.status == status).map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    });
    if wanted.iter().all(|wanted| stored.contains(wanted)) {
        return None;
    }
    let others = stored.iter().filter(|condition| wanted.iter().all(|wanted| wanted.type_ != condition.type_));
    serde_json::to_value(wanted.iter().chain(others).collect::<Vec<_>>()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_written_until_they_stand_and_keep_their_time() {
        let first = conditions(&[], Some(3), Reason::Undecodable, "why").unwrap();
        let mut stored: Vec<Condition> = serde_json::from_value(first).unwrap();
        assert_eq!(conditions(&stored, Some(3), Reason::Undecodable, "why"), None);
        for condition in &mut stored {
            condition.last_transition_time = Time("2026-01-01T00:00:00Z".parse().unwrap());
        }
        assert_eq!(conditions(&stored, Some(3), Reason::Undecodable, "why"), None);
        let other = conditions(&stored, Some(4), Reason::Undecodable, "another").unwrap();
        assert_eq!(other[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        stored[0].status = "True".to_owned();
        let turned = conditions(&stored, Some(3), Reason::Undecodable, "why").unwrap();
        assert_ne!(turned[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(turned[1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(turned.as_array().unwrap().len(), 2);
        let other = Condition { type_: "Usable".to_owned(), ..stored[0].clone() };
        let beside = conditions(std::slice::from_ref(&other), Some(3), Reason::Undecodable, "why").unwrap();
        assert_eq!(beside[2], serde_json::to_value(other).unwrap(), "what else is said stays");
    }

    #[test]
    fn conditions_are_found_in_an_object_that_can_not_be_decoded() {
        let ready = json!({"type": "Ready", "status": "True", "reason": "AsSpecified", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let object = json!({"spec": {"notAfter": "9999-12-31T23:59:59Z"}, "status": {"phase": 7, "conditions": [{"type": 7}, ready, null]}});
        let found = conditions_of(&object.to_string());
        assert_eq!(found.iter().map(|condition| condition.type_.as_str()).collect::<Vec<_>>(), ["Ready"]);
        for text in ["", "null", "[]", "{\"status\": 7}", "{\"status\": {\"conditions\": 7}}"] {
            assert!(conditions_of(text).is_empty());
        }
    }

    #[test]
    fn a_person_may_let_an_undecodable_resource_go() {
        let mut undecodable = Undecodable { meta: ObjectMeta::default(), conditions: Vec::new(), why: "why".to_owned() };
        undecodable.meta.annotations = Some([(labels::RELEASE_UNDECODABLE.to_owned(), "u-1".to_owned())].into());
        assert!(!undecodable.may_go(), "it has no UID and is not being deleted");
        undecodable.meta.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(!undecodable.may_go());
        undecodable.meta.uid = Some("u-1".to_owned());
        assert!(undecodable.may_go());
        assert!(undecodable.message().contains("release-undecodable=u-1"));
    }
}
