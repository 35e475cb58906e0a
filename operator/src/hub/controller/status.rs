//! Decides whether the status of a resource is written now, later or not at all.

use std::collections::BTreeSet;
use std::time::Duration;

use aifactory_api::OwnerRef;
use aifactory_plan::hub::aggregate::{self, Reports};
use aifactory_plan::model::report::SiteReport;
use aifactory_plan::model::site_key::SiteKey;
use tokio::time::Instant;

use super::outcome::Outcome;
use super::pace::{Change, Due};
use super::{Hub, RECOUNT, REPORT_GRACE};
use crate::hub::writes::Write;

impl Hub {
    pub(super) fn about(&self, owner: &OwnerRef) -> Reports<'_> {
        Reports {
            about: self.reports.about(owner).map(|(key, report)| (key.clone(), report)).collect(),
            sites: &self.site_reports,
            abandoned: &self.abandoned,
        }
    }

    /// Whether each of these parts has reported on this resource since the start, or has a problem that keeps it from reporting.
    pub(super) fn has_reported(&self, owner: &OwnerRef, keys: &BTreeSet<SiteKey>) -> bool {
        self.begun.elapsed() > REPORT_GRACE
            || keys.iter().all(|key| {
                self.site_reports.get(key).is_some_and(|report| {
                    let about = !self.sites.is_recipient(key, owner) || self.reports.get(owner, key).is_some();
                    !report.reachable || (report.synced && about) || report.problem.is_some()
                })
            })
    }

    /// Whether a part has reported on everything that it was sent since the start, or has a problem that keeps it from reporting.
    pub(super) fn has_reported_all(&self, key: &SiteKey) -> bool {
        let all = |report: &SiteReport| !report.reachable || (report.synced && self.reports.has_answered(key)) || report.problem.is_some();
        self.begun.elapsed() > REPORT_GRACE || self.site_reports.get(key).is_some_and(all)
    }

    /// Keeps the status from before the restart, and reconciles again when the time for reports is over.
    pub(super) fn later(&mut self, owner: &OwnerRef) -> Outcome {
        self.schedule.add_at(owner.clone(), self.begun + REPORT_GRACE + Duration::from_millis(10));
        Outcome::Later
    }

    /// Queues a pool or a factory with a delay to update its figures, since changes of grants come in series.
    pub(super) fn recount(&mut self, owner: OwnerRef) {
        self.pending.insert(&owner);
        self.schedule.add_at(owner, Instant::now() + RECOUNT);
    }

    /// Whether the status is to be written, now or later.
    pub(super) fn status<S>(
        &mut self,
        owner: &OwnerRef,
        generation: Option<i64>,
        stored: Option<&S>,
        outcome: aggregate::Outcome<S>,
        strip: impl Fn(&mut S),
    ) -> Outcome
    where
        S: Clone + PartialEq + serde::Serialize,
    {
        let stripped = |status: &S| {
            let mut status = status.clone();
            strip(&mut status);
            status
        };
        let change = match stored {
            Some(stored) if *stored == outcome.status => Change::Nothing,
            Some(stored) if stripped(stored) == stripped(&outcome.status) => Change::Numbers,
            _ => Change::Words,
        };
        let now = Instant::now();
        let pace = self.pace.entry(owner.clone()).or_default();
        match pace.due(generation.unwrap_or_default(), outcome.in_progress, change, now) {
            Due::Never => return Outcome::Nothing,
            Due::At(at) => {
                self.schedule.add_at(owner.clone(), at);
                return Outcome::Later;
            }
            Due::Now => {}
        }
        match serde_json::to_value(&outcome.status) {
            Ok(status) => {
                tracing::debug!(%owner, %status, "Writing status");
                Outcome::Write(Write::Status(status))
            }
            Err(error) => {
                tracing::error!(%owner, %error, "A status can not be written down");
                Outcome::Nothing
            }
        }
    }
}
