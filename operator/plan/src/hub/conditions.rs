//! Builds condition lists: the transition time changes only with the status.

use aifactory_api::{ConditionType, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::model::text::shorten;
use crate::model::time::whole_seconds;

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It is not known.
    Unknown,
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Status::True } else { Status::False }
    }
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

/// A list of conditions under construction.
#[derive(Debug)]
pub struct Conditions<'a> {
    previous: &'a [Condition],
    generation: i64,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    /// Starts from the conditions of the last status.
    pub fn new(previous: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        Self { previous, generation, now, list: Vec::new() }
    }

    /// Adds a condition.
    pub fn set(&mut self, type_: ConditionType, status: impl Into<Status>, reason: Reason, message: impl AsRef<str>) {
        let status = status.into().as_str();
        let since = self
            .previous
            .iter()
            .find(|condition| condition.type_ == type_.as_str() && condition.status == status)
            // A condition from the schema's default has no transition time.
            .filter(|condition| condition.last_transition_time.0 != Timestamp::UNIX_EPOCH)
            .map_or_else(|| Time(whole_seconds(self.now)), |condition| condition.last_transition_time.clone());
        self.list.push(Condition {
            type_: type_.as_str().to_owned(),
            status: status.to_owned(),
            reason: reason.as_str().to_owned(),
            message: shorten(message.as_ref(), 1000),
            observed_generation: Some(self.generation),
            last_transition_time: since,
        });
    }

    /// The finished list.
    pub fn finish(self) -> Vec<Condition> {
        self.list
    }
}

/// The condition of this type.
pub fn find(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == type_.as_str())
}

/// Whether the condition of this type is True.
pub fn is_true(conditions: &[Condition], type_: ConditionType) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}
