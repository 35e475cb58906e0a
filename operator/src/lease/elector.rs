//! Getting, keeping and giving back the lease.

use std::{future::Future, pin::pin, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Leadership, LeaseError, LeaseSettings, Role, WriteGate,
    record::{Record, readable},
};
use crate::tolerant_decode::Tolerant;

/// Longest pause between two reads of a lease that another process holds.
const STANDBY_INTERVAL: Duration = Duration::from_secs(2);
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Takes part in the election. Its client must not be behind the [`WriteGate`] that it opens.
#[derive(Debug)]
pub struct Elector {
    leases: Api<Tolerant<Lease>>,
    settings: LeaseSettings,
    gate: WriteGate,
    role: watch::Sender<Role>,
}

/// Result of an attempt to write the Lease.
enum Attempt {
    /// It is ours.
    Held(Record),
    /// Somebody else was faster, or holds it.
    Other(Record),
    /// It is not there.
    Gone,
    /// Nothing is known: no answer, or an error.
    Unknown,
}

impl Elector {
    /// An elector, and the state of its election.
    pub fn new(client: Client, settings: LeaseSettings) -> Result<(Self, Leadership), LeaseError> {
        settings.validate()?;
        let (role, receiver) = watch::channel(Role::Standby);
        let gate = WriteGate::closed();
        let leadership = Leadership { role: receiver, gate: gate.clone() };
        Ok((Self { leases: Api::namespaced(client, &settings.namespace), settings, gate, role }, leadership))
    }

    /// Stands for election, leads, and ends with an error when the lease is lost.
    ///
    /// When `shutdown` resolves, the gate is closed and the lease given back, so that a successor need not wait. Let it resolve only after
    /// all work is drained.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), LeaseError> {
        let mut shutdown = pin!(shutdown);
        let held = tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            held = self.acquire() => held,
        };
        tracing::info!(namespace = self.settings.namespace, lease = self.settings.name, identity = self.settings.identity, "Acquired the lease");
        let mut last = held;
        let outcome = tokio::select! {
            biased;
            () = &mut shutdown => Ok(()),
            error = self.keep(&mut last) => Err(error),
        };
        self.gate.close();
        self.role.send_replace(Role::Standby);
        match &outcome {
            Ok(()) => self.release(last).await,
            Err(error) => tracing::error!(%error, "Lost the lease"),
        }
        outcome
    }

    /// Waits until the lease is free and takes it.
    async fn acquire(&self) -> Record {
        let mut known: Option<Record> = None;
        loop {
            let free = known.as_ref().is_none_or(|record| record.free_at(self.settings.lease_duration) <= Instant::now());
            let begun = Instant::now();
            let former = known.as_ref().filter(|_| free).and_then(Record::renewed);
            let attempt = match (known.take(), free) {
                (Some(record), true) => self.write(&record, true).await,
                // A Lease that was deleted under a living leader is left alone until that leader has noticed.
                (Some(record), false) => match self.read(Some(record.clone())).await {
                    Attempt::Gone | Attempt::Unknown => Attempt::Other(record),
                    seen => seen,
                },
                (None, _) => match self.read(None).await {
                    Attempt::Gone => self.create().await,
                    seen => seen,
                },
            };
            match attempt {
                Attempt::Held(record) => {
                    self.gate.succeed(former);
                    self.lead_from(begun);
                    return record;
                }
                Attempt::Other(record) => known = Some(record),
                Attempt::Gone | Attempt::Unknown => {}
            }
            let free_at = known.as_ref().map(|record| record.free_at(self.settings.lease_duration));
            let look = Instant::now() + self.settings.renew_interval.min(STANDBY_INTERVAL);
            // Never without a pause: a lease that others change all the time is free again and again.
            let pause = Instant::now() + self.settings.renew_interval / 10;
            sleep_until(free_at.map_or(look, |free_at| free_at.min(look)).max(pause)).await;
        }
    }

    /// Renews until that fails for good.
    async fn keep(&self, held: &mut Record) -> LeaseError {
        let mut renewed = Instant::now();
        let retry = ((self.settings.renew_deadline - self.settings.renew_interval) / 5).min(Duration::from_secs(1));
        let mut next = renewed + self.settings.renew_interval;
        loop {
            sleep_until(next).await;
            let begun = Instant::now();
            // Also after a time in which this process was stopped: the gate knows, whatever the timers say.
            if !self.gate.is_open() {
                return self.expired();
            }
            let mut attempt = self.write(held, false).await;
            if let Attempt::Gone = attempt {
                attempt = self.create().await;
            }
            match attempt {
                Attempt::Held(record) => {
                    *held = record;
                    renewed = begun;
                    self.lead_from(begun);
                    next = begun + self.settings.renew_interval;
                }
                Attempt::Other(record) if record.holder() == Some(&self.settings.identity) => {
                    *held = record;
                    next = Instant::now();
                    // Somebody edits labels of our Lease; not more than that, and not in a tight loop.
                    sleep(retry / 10).await;
                }
                Attempt::Other(record) => {
                    let holder = record.holder().unwrap_or("nobody").to_owned();
                    return LeaseError::Taken { namespace: self.settings.namespace.clone(), name: self.settings.name.clone(), holder };
                }
                Attempt::Gone | Attempt::Unknown => {
                    next = (Instant::now() + retry).min(renewed + self.settings.renew_deadline);
                }
            }
        }
    }

    /// The lease counts from before the request: others may see the renewal, and count from it, at any moment after that.
    fn lead_from(&self, begun: Instant) {
        self.gate.open_until(begun + self.settings.renew_deadline);
        self.role.send_if_modified(|role| std::mem::replace(role, Role::Leader) != Role::Leader);
    }

    async fn release(&self, held: Record) {
        let spec = json!({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": MicroTime(Timestamp::now())});
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": held.version}, "spec": spec}));
        let params = PatchParams::default();
        match timeout(RELEASE_TIMEOUT, self.leases.patch(&self.settings.name, &params, &patch)).await {
            Ok(Ok(_)) => tracing::info!(namespace = self.settings.namespace, lease = self.settings.name, "Released the lease"),
            Ok(Err(error)) => tracing::warn!(%error, "Could not release the lease; it runs out by itself"),
            Err(_) => tracing::warn!("The lease was not released in time; it runs out by itself"),
        }
    }

    /// Takes or renews the lease if it is still in the state of `record`.
    async fn write(&self, record: &Record, take: bool) -> Attempt {
        let now = MicroTime(Timestamp::now());
        let mut spec = json!({"holderIdentity": self.settings.identity, "leaseDurationSeconds": self.seconds(), "renewTime": now});
        if take && let Some(spec) = spec.as_object_mut() {
            spec.insert("acquireTime".to_owned(), json!(now));
            spec.insert("leaseTransitions".to_owned(), json!(record.transitions().saturating_add(1)));
        }
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": record.version}, "spec": spec}));
        let params = PatchParams::default();
        match timeout(self.call_timeout(), self.leases.patch(&self.settings.name, &params, &patch)).await {
            Ok(Ok(lease)) => Attempt::Held(Record::observe(None, readable(lease), Instant::now())),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => self.read(Some(record.clone())).await,
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Attempt::Gone,
            Ok(Err(error)) => self.unknown(&error),
            Err(elapsed) => self.unknown(&elapsed),
        }
    }

    async fn create(&self) -> Attempt {
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: Some(self.seconds()),
            lease_transitions: Some(0),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let lease = Lease { metadata: ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() }, spec: Some(spec) };
        match timeout(self.call_timeout(), self.leases.create(&PostParams::default(), &Tolerant::Read(lease))).await {
            Ok(Ok(lease)) => Attempt::Held(Record::observe(None, readable(lease), Instant::now())),
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => self.read(None).await,
            Ok(Err(error)) => self.unknown(&error),
            Err(elapsed) => self.unknown(&elapsed),
        }
    }

    async fn read(&self, previous: Option<Record>) -> Attempt {
        match timeout(self.call_timeout(), self.leases.get_opt(&self.settings.name)).await {
            Ok(Ok(Some(lease))) => Attempt::Other(Record::observe(previous, readable(lease), Instant::now())),
            Ok(Ok(None)) => Attempt::Gone,
            Ok(Err(error)) => self.unknown(&error),
            Err(elapsed) => self.unknown(&elapsed),
        }
    }

    fn unknown(&self, error: &(dyn std::error::Error + 'static)) -> Attempt {
        tracing::warn!(
            error,
            namespace = self.settings.namespace,
            lease = self.settings.name,
            "The lease could not be read or written; trying again"
        );
        Attempt::Unknown
    }

    fn expired(&self) -> LeaseError {
        LeaseError::Expired { namespace: self.settings.namespace.clone(), name: self.settings.name.clone(), deadline: self.settings.renew_deadline }
    }

    /// Short enough for a second attempt before the deadline.
    fn call_timeout(&self) -> Duration {
        (self.settings.renew_deadline - self.settings.renew_interval) / 2
    }

    /// The API knows whole seconds only.
    fn seconds(&self) -> i32 {
        i32::try_from(self.settings.lease_duration.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
    }
}

#[cfg(test)]
#[path = "elector_tests.rs"]
mod tests;
