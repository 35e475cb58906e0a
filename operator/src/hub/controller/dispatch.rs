//! Reconciles the resources that are due, and handles the results of the writes that this starts.

use std::panic::AssertUnwindSafe;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::model::freshness::Moment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use super::outcome::{Finished, Outcome};
use super::{DEPTH, Hub, PROTECTION_RETRY};
use crate::hub::broken::conditions;
use crate::hub::watch::AnyResource;
use crate::hub::writes::{Write, WriteError, write};
use crate::telemetry::metrics::ReconcileResult;

impl Hub {
    pub(super) fn dispatch(&mut self) {
        let now = Instant::now();
        while let Some(owner) = self.schedule.next(now) {
            let urgent = self.schedule.is_urgent(&owner);
            let begun = Instant::now();
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.reconcile(&owner)));
            let result = match &outcome {
                Ok(Outcome::Nothing | Outcome::Later) => ReconcileResult::Success,
                Ok(Outcome::Write(_) | Outcome::Release(_)) => ReconcileResult::RequeueAfter,
                Err(_) => ReconcileResult::Error,
            };
            self.settings.metrics.reconciled(owner.kind, result, begun.elapsed());
            if let Ok(next) = &outcome {
                tracing::debug!(%owner, urgent, next = next.as_str(), "Reconciled");
            }
            match outcome {
                Ok(Outcome::Nothing) => {
                    self.pending.remove(&owner);
                    self.schedule.done(&owner);
                }
                Ok(Outcome::Later) => {
                    self.pending.insert(&owner);
                    self.schedule.done(&owner);
                }
                Ok(Outcome::Write(write)) => match self.meta(&owner) {
                    Some(meta) => {
                        // Until the resource is reconciled again, after the write.
                        if matches!(write, Write::Status(_)) {
                            self.pending.insert(&owner);
                        }
                        self.spawn_write(owner, meta, write);
                    }
                    None => self.schedule.done(&owner),
                },
                Ok(Outcome::Release(secrets)) => {
                    let reader = self.settings.reader.clone();
                    let last = self.is_last_in_namespace(&owner);
                    self.spawn(Finished::Released(owner.clone(), false), async move {
                        let mut released = true;
                        for secret in &secrets {
                            released &= reader.release_secret(&secret.namespace, &secret.name).await.is_ok();
                        }
                        if released && last {
                            released = reader.release_binding(&owner.namespace).await.is_ok();
                        }
                        Finished::Released(owner, released)
                    });
                }
                Err(_) => {
                    self.pending.remove(&owner);
                    tracing::error!(%owner, "Reconciling panicked");
                    self.settings.metrics.panicked(owner.kind);
                    self.broken(owner);
                }
            }
        }
    }

    pub(super) fn finished(&mut self, done: Finished) {
        let now = Instant::now();
        match done {
            Finished::Written { owner, result, status, asked } => match result {
                Ok(Some(found)) => {
                    if status {
                        self.settings.metrics.status_written(owner.kind);
                        if let Some(pace) = self.pace.get_mut(&owner) {
                            pace.written(now);
                        }
                    }
                    self.schedule.done(&owner);
                    self.answered(found, asked);
                    self.schedule.add(owner);
                }
                Ok(None) => self.schedule.done(&owner),
                Err(error) => {
                    tracing::debug!(%owner, error = crate::hub::writes::explain(&error), "A write to the hub failed");
                    self.schedule.failed(&owner, now);
                }
            },
            Finished::ConditionsWritten { owner, result, asked } => {
                self.schedule.failed(&owner, now);
                match result {
                    Ok(found) => found.into_iter().for_each(|found| self.answered(found, asked)),
                    Err(error) => tracing::debug!(%owner, error = crate::hub::writes::explain(&error), "A write to the hub failed"),
                }
            }
            Finished::Released(owner, released) => match self.meta(&owner) {
                Some(meta) if released => self.spawn_write(owner, meta, Write::RemoveFinalizer),
                Some(_) => self.schedule.failed(&owner, now),
                None => self.schedule.done(&owner),
            },
            Finished::KnownStored(known, result) => self.known_stored(known, result),
            Finished::KnownRead(writes, result) => self.known_read(writes, result),
            Finished::SecretReleased(secret, true) => self.releases.done(&secret),
            Finished::SecretReleased(secret, false) => self.releases.failed(&secret, now),
            Finished::ProtectionStored(stored) => {
                self.storing_protection = false;
                self.protection_stored = stored;
                self.protection_retry_at = (!stored).then(|| now + PROTECTION_RETRY);
            }
        }
    }

    fn spawn_write(&mut self, owner: OwnerRef, meta: ObjectMeta, change: Write) {
        let client = self.settings.client.clone();
        let status = matches!(change, Write::Status(_));
        let asked = self.asked();
        let failed = Finished::Written { owner: owner.clone(), result: Err(WriteError::Panicked { owner: owner.clone() }), status: false, asked };
        self.spawn(failed, async move {
            let result = write(&client, &owner, &meta, change).await;
            Finished::Written { owner, result, status, asked }
        });
    }

    /// Writes a condition that reconciling the resource failed, and requeues it.
    fn broken(&mut self, owner: OwnerRef) {
        const MESSAGE: &str = "the operator failed while reconciling this resource; its log says where";
        let stored = match self.undecodable.get(&owner) {
            Some(found) => found.conditions.clone(),
            None => self.object(&owner).map(|object| object.conditions().to_vec()).unwrap_or_default(),
        };
        let meta = self.meta(&owner).unwrap_or_default();
        let Some(conditions) = conditions(&stored, meta.generation, Reason::InternalError, MESSAGE) else {
            return self.schedule.failed(&owner, Instant::now());
        };
        let client = self.settings.client.clone();
        let asked = self.asked();
        let failed = Finished::ConditionsWritten { owner: owner.clone(), result: Err(WriteError::Panicked { owner: owner.clone() }), asked };
        self.spawn(failed, async move {
            let result = write(&client, &owner, &meta, Write::Conditions(conditions)).await;
            Finished::ConditionsWritten { owner, result, asked }
        });
    }

    /// The moment at which a write begins.
    fn asked(&mut self) -> Moment {
        self.moment = self.moment.next();
        self.moment
    }

    pub(super) fn object(&self, owner: &OwnerRef) -> Option<AnyResource> {
        match owner.kind {
            Kind::AIFactory => self.cache.factory(owner).cloned().map(AnyResource::Factory),
            Kind::GPUPool => self.cache.pool(owner).cloned().map(AnyResource::Pool),
            Kind::AccessGrant => self.cache.grant(owner).cloned().map(AnyResource::Grant),
        }
    }

    pub(super) fn meta(&self, owner: &OwnerRef) -> Option<ObjectMeta> {
        let undecodable = self.undecodable.get(owner).map(|found| found.meta.clone());
        undecodable.or_else(|| self.object(owner).map(|object| object.meta().clone()))
    }

    /// Updates the queue depth metric. Counting a long queue is expensive, so that is done at intervals.
    pub(super) fn report_queue_depth(&mut self) {
        let now = Instant::now();
        if self.schedule.depth() > 0 && self.depth_at > now {
            return;
        }
        self.depth_at = now + DEPTH;
        for kind in [Kind::AIFactory, Kind::GPUPool, Kind::AccessGrant] {
            self.settings.metrics.set_queue_depth(kind, self.schedule.waiting().filter(|owner| owner.kind == kind).count());
        }
    }
}
