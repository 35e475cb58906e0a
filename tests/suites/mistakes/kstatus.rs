//! The rules of kstatus for kinds that it does not know, which Argo CD, Flux and `kubectl wait` go by.

use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Current,
    InProgress,
    Failed,
    Terminating,
}

/// What a pipeline makes of an object.
pub fn status(object: &Value) -> Status {
    let meta = &object["metadata"];
    if !meta["deletionTimestamp"].is_null() {
        return Status::Terminating;
    }
    if let Some(observed) = object["status"]["observedGeneration"].as_i64()
        && Some(observed) != meta["generation"].as_i64()
    {
        return Status::InProgress;
    }
    let is = |type_: &str, status: &str| condition(object, type_).is_some_and(|found| found["status"] == status);
    match () {
        () if is("Reconciling", "True") => Status::InProgress,
        () if is("Stalled", "True") => Status::Failed,
        () if is("Ready", "False") || is("Ready", "Unknown") => Status::InProgress,
        // Nothing that says otherwise: an object without a status is taken for finished.
        () => Status::Current,
    }
}

/// Whether the object itself says that it is Ready for its present generation.
pub fn ready(object: &Value) -> bool {
    let generation = &object["metadata"]["generation"];
    condition(object, "Ready").is_some_and(|ready| ready["status"] == "True" && ready["observedGeneration"] == *generation)
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}
