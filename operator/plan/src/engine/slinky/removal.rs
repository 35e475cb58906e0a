//! Removes a partition step by step. slurmctld crashes in a loop when a NodeSet is deleted while jobs, or records of jobs that have just ended, refer
//! to its partition (slurm-operator issue 138). So the partition first takes no new jobs; once no job runs, its nodes are removed; and after
//! MinJobAge the NodeSet is deleted.

use jiff::{SignedDuration, Timestamp};

use super::render::State;
use super::view::NodeSetView;
use crate::model::object::{Object, ObjectKey, Ownership};

/// Slurm's default MinJobAge: how long slurmctld keeps the record of a job that has ended.
pub const MIN_JOB_AGE: SignedDuration = SignedDuration::from_secs(300);

/// The next step of the removal.
#[derive(Clone, Debug, PartialEq)]
pub enum RemovalStep {
    /// Write this: no new jobs, or no nodes any more.
    Drain(Object),
    /// Nothing to do until something changes.
    Wait {
        /// What is waited for, and what to do if it does not come.
        message: String,
        /// When to look again though nothing has changed.
        until: Option<Timestamp>,
    },
    /// Nothing in Slurm refers to it any more.
    Delete,
}

/// The next step of removing a NodeSet. `min_job_age` is the site's MinJobAge.
///
/// What to write is taken from the NodeSet itself, since pool and site may describe another one by now, or none.
pub fn removal(key: &ObjectKey, view: Option<&NodeSetView>, ownership: &Ownership, min_job_age: SignedDuration, now: Timestamp) -> RemovalStep {
    let wait = |message: String| RemovalStep::Wait { message, until: None };
    let Some(view) = view.filter(|view| view.name == key.name && view.namespace == key.namespace) else {
        return wait(format!("{key} has not been read yet"));
    };
    let drained = |replicas: i64, idle_since: Option<String>| {
        let replicas = u32::try_from(replicas.max(0)).unwrap_or(u32::MAX);
        RemovalStep::Drain(view.parts.object(key.clone(), ownership, replicas, State::Drain, idle_since))
    };
    if view.declared_state() != "DRAIN" {
        return drained(view.replicas, None);
    }
    if !view.is_seen() {
        return wait(format!("slurm-operator has not seen generation {} of {key} yet; if this stays, see whether it runs", view.generation));
    }
    if view.allocated > 0 {
        return wait(format!("partition {} drains: {} nodes still run jobs; squeue -p {0} shows them", view.name, view.allocated));
    }
    if view.is_blind() {
        return wait(format!("partition {} drains: {}", view.name, view.blindness()));
    }
    let Some(idle_since) = view.idle_since.filter(|_| view.replicas == 0) else {
        return drained(0, Some(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
    };
    if view.pods > 0 || view.desired > 0 {
        return wait(format!("partition {} is drained: {} slurmd Pods of {key} still end", view.name, view.pods.max(view.desired)));
    }
    let until = idle_since.checked_add(min_job_age).unwrap_or(Timestamp::MAX);
    if now < until {
        let message = format!("partition {} is empty; {key} is deleted at {until}, when Slurm has forgotten its last jobs (MinJobAge)", view.name);
        return RemovalStep::Wait { message, until: Some(until) };
    }
    RemovalStep::Delete
}
