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
        let now = Instant::now();
        let generation = generation.unwrap_or_default();
        let progress = self.progress.entry(owner.clone()).or_insert(Progress { generation, since: now, written: None });
        if progress.generation != generation {
            progress.generation = generation;
            progress.since = now;
        }
        if stored == Some(&outcome.status) {
            return Next::Nothing;
        }
        if outcome.in_progress {
            let ready_at = match progress.written.filter(|written| *written > progress.since) {
                Some(written) => written + STILL,
                None => progress.since + PATIENCE,
            };
            if ready_at > now {
                self.schedule.add_at(owner.clone(), ready_at);
                return Next::Nothing;
            }
        } else {
            progress.since = now;
        }
        let stripped = |status: &S| {
            let mut status = status.clone();
            strip(&mut status);
            status
        };
        if stored.is_some_and(|stored| stripped(stored) == stripped(&outcome.status))
            && let Some(at) = progress.written.map(|written| written + NUMBERS).filter(|at| *at > now)
        {
            self.schedule.add_at(owner.clone(), at);
            return Next::Nothing;
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
