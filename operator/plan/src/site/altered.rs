//! Objects that a site changes when they are written, through a mutating webhook or policy of its own.
//!
//! The object is then not in force as planned: a finding names it, it is written again only slowly, and no access is given behind a fence that is not
//! as planned.

use std::collections::BTreeMap;

use aifactory_api::Reason;
use jiff::{SignedDuration, Timestamp};

use crate::model::digest::Digest;
use crate::model::object::ObjectKey;
use crate::model::plan::{Action, Plan, Purpose, Step};
use crate::model::report::Finding;
use crate::model::text::{bounded, shorten};

/// Pause before such an object is written again.
const AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// A write after which the stored object differs from what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Altered {
    /// Which object.
    pub key: ObjectKey,
    /// Digest of what was written.
    pub sent: Digest,
    /// Fields that differ.
    pub fields: Vec<String>,
}

/// The objects of one owner that a site alters.
#[derive(Clone, Debug, Default)]
pub struct AlteredObjects(BTreeMap<ObjectKey, (Altered, Timestamp)>);

impl AlteredObjects {
    /// Adds a write.
    pub fn note(&mut self, altered: Altered, now: Timestamp) {
        self.0.insert(altered.key.clone(), (altered, now));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes from a plan the writes that would be repeated too soon, and the access that must not be given behind them. Returns when they may be
    /// repeated.
    pub fn withhold(&mut self, plan: &mut Plan, now: Timestamp) -> Option<Timestamp> {
        let planned: BTreeMap<&ObjectKey, Digest> = applied(plan).map(|object| (&object.key, object.digest())).collect();
        // Forgets objects that are not wanted any more, or are right by now.
        self.0.retain(|key, (altered, _)| planned.get(key) == Some(&altered.sent));
        let mut again = None;
        let mut unfenced = false;
        for step in plan.steps.iter_mut().filter(|step| step.purpose == Purpose::Establish) {
            if unfenced {
                withhold_access(step);
            }
            step.actions.retain(|action| {
                let Action::Apply(object) = action else { return true };
                let Some((_, at)) = self.0.get(&object.key) else { return true };
                unfenced |= object.key.kind.fences();
                let due = at.checked_add(AGAIN).unwrap_or(now);
                if due > now {
                    again = Some(again.map_or(due, |again: Timestamp| again.min(due)));
                }
                due <= now
            });
        }
        plan.steps.retain(|step| !step.actions.is_empty());
        again
    }

    /// One finding for each object.
    pub fn findings(&self) -> Vec<Finding> {
        self.0.values().map(|(altered, _)| altered.finding()).collect()
    }
}

impl Altered {
    fn finding(&self) -> Finding {
        let fields = if self.fields.is_empty() { String::new() } else { format!(" ({})", shorten(&bounded(&self.fields), 300)) };
        let message = format!(
            "{}: the site makes something else of it than was written{fields}, so it is not in force as planned. A mutating webhook or policy of the \
             site does so; whoever administers the site leaves objects with the label aifactory.dev/managed out of it",
            self.key
        );
        Finding::stalled(Reason::ChangedBySite, message)
    }
}

fn applied(plan: &Plan) -> impl Iterator<Item = &crate::model::object::Object> {
    plan.steps.iter().flat_map(|step| &step.actions).filter_map(|action| match action {
        Action::Apply(object) => Some(object),
        _ => None,
    })
}

/// Removes from a step the objects that give access.
pub fn withhold_access(step: &mut Step) {
    step.actions.retain(|action| !matches!(action, Action::Apply(object) if object.key.kind.gives_access()));
}
