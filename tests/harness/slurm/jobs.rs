//! Jobs of users.

use std::time::Duration;

use serde_json::{Value, json};

use crate::await_condition::eventually;
use crate::error::{Error, Result};

use super::cluster::Cluster;

/// A job to submit.
#[derive(Debug, Clone, Default)]
pub struct JobSpec {
    /// The account; the user's default without.
    pub account: Option<String>,
    /// The partition.
    pub partition: Option<String>,
    /// The QOS; the association's default without.
    pub qos: Option<String>,
    /// GPUs on its node.
    pub gpus: u32,
    /// The type asked for, as in `gpu:h100:1`.
    pub gres: Option<String>,
    /// CPUs of its one task; one without.
    pub cpus: Option<u32>,
    /// The time limit in minutes; with 0 the partition's default.
    pub minutes: u32,
    /// How long the script runs.
    pub seconds: u32,
}

impl JobSpec {
    /// One GPU, one CPU, a limit of one minute, and a script that ends at once.
    pub fn new(account: &str, partition: &str) -> Self {
        Self {
            account: Some(account.to_owned()),
            partition: Some(partition.to_owned()),
            qos: None,
            gpus: 1,
            gres: None,
            cpus: None,
            minutes: 1,
            seconds: 0,
        }
    }

    fn body(&self) -> Value {
        let mut job = json!({"name": "test", "current_working_directory": "/tmp", "environment": ["PATH=/usr/bin:/bin"], "tasks": 1, "cpus_per_task": self.cpus.unwrap_or(1),
            "standard_output": "/dev/null", "standard_error": "/dev/null"});
        let gpus = (self.gpus > 0).then(|| match &self.gres {
            Some(kind) => format!("gres/gpu:{kind}:{}", self.gpus),
            None => format!("gres/gpu:{}", self.gpus),
        });
        let texts = [("account", &self.account), ("partition", &self.partition), ("qos", &self.qos), ("tres_per_node", &gpus)];
        if let Some(fields) = job.as_object_mut() {
            for (field, value) in texts {
                if let Some(value) = value {
                    fields.insert(field.to_owned(), json!(value));
                }
            }
            if self.minutes > 0 {
                fields.insert("time_limit".to_owned(), json!({"set": true, "number": self.minutes}));
            }
        }
        json!({"script": format!("#!/bin/sh\nexec sleep {}\n", self.seconds), "job": job})
    }
}

/// Why Slurm did not take a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Slurm's error number, as 2045 for an invalid account.
    pub code: i64,
    /// Its output.
    pub text: String,
}

/// A job as slurmctld shows it.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its state, as `RUNNING`.
    pub state: String,
    /// Why it waits.
    pub reason: String,
    /// All that slurmctld tells.
    pub raw: Value,
}

impl Job {
    fn read(raw: Value) -> Self {
        let text = |pointer: &str| raw.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { state: text("/job_state/0"), reason: text("/state_reason"), raw }
    }
}

impl Cluster {
    /// Submits a job as this user: its id, or Slurm's refusal. Without an answer the refusal has code 0.
    pub async fn submit(&self, user: &str, job: JobSpec) -> Result<u32, Refused> {
        let asked = self.rest_as(user, "POST", "/slurm/v0.0.44/job/submit", Some(&job.body())).await;
        let (status, answer) = asked.map_err(|error| Refused { code: 0, text: error.to_string() })?;
        let id = answer.pointer("/job_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).filter(|id| *id > 0);
        match (status, id) {
            (200, Some(id)) => Ok(id),
            _ => Err(Refused {
                code: answer.pointer("/errors/0/error_number").and_then(Value::as_i64).unwrap_or_else(|| i64::from(status)),
                text: answer.pointer("/errors/0/error").and_then(Value::as_str).map_or_else(|| answer.to_string(), str::to_owned),
            }),
        }
    }

    /// A job that slurmctld still knows.
    pub async fn job(&self, id: u32) -> Result<Job> {
        let mut answer = self.rest("GET", &format!("/slurm/v0.0.44/job/{id}"), None).await?;
        match answer.pointer_mut("/jobs/0").map(Value::take) {
            Some(raw) => Ok(Job::read(raw)),
            None => Err(Error::Http { url: format!("{} job {id}", self.cluster_name()), message: answer.to_string() }),
        }
    }

    /// Waits until a job is in this state, as `COMPLETED`.
    pub async fn wait_job(&self, id: u32, state: &str, timeout: Duration) -> Result<Job> {
        eventually(timeout, format!("job {id} of {} is {state}", self.cluster_name()), async || {
            let job = self.job(id).await?;
            if job.state == state { Ok(job) } else { Err(format!("{} ({})", job.state, job.reason).into()) }
        })
        .await
    }
}
