//! When a status is written: at once what people must know, later what only moves.

use super::*;

impl Hub {
    pub(super) fn about(&self, owner: &OwnerRef) -> Reports<'_> {
        Reports {
            about: self.reports.get(owner).into_iter().flatten().map(|(key, report)| (key.clone(), report)).collect(),
            sites: &self.site_reports,
            abandoned: &self.abandoned,
        }
    }

    /// Whether each of these sites has said since the start what is there of this resource, or why it can not.
    pub(super) fn heard_of(&self, owner: &OwnerRef, keys: &BTreeSet<SiteKey>) -> bool {
        self.begun.elapsed() > HEARING
            || keys.iter().all(|key| {
                self.site_reports.get(key).is_some_and(|report| {
                    let about = !self.sites.knows(key, owner) || self.reports.get(owner).is_some_and(|reports| reports.contains_key(key));
                    !report.reachable || (report.synced && about) || report.problem.is_some()
                })
            })
    }

    /// What status said before the restart stands for now.
    pub(super) fn later(&mut self, owner: &OwnerRef) -> Next {
        self.schedule.add_at(owner.clone(), self.begun + HEARING + Duration::from_millis(10));
        Next::Nothing
    }

    /// Whether the status is to be written, now or later.
    pub(super) fn status<S>(
        &mut self,
        owner: &OwnerRef,
        generation: Option<i64>,
        stored: Option<&S>,
        outcome: Outcome<S>,
        strip: impl Fn(&mut S),
    ) -> Next
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
            Due::Never => return Next::Nothing,
            Due::At(at) => {
                self.schedule.add_at(owner.clone(), at);
                return Next::Nothing;
            }
            Due::Now => {}
        }
        match serde_json::to_value(&outcome.status) {
            Ok(status) => {
                tracing::debug!(%owner, %status, "Writing status");
                Next::Write(Write::Status(status))
            }
            Err(error) => {
                tracing::error!(%owner, %error, "A status can not be written down");
                Next::Nothing
            }
        }
    }
}
