//! The end of a grant at a site: access goes, the namespace is locked, work ends, and data is kept for the retention that was granted.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::grant::{AfterRetention, RunningWork};
use aifactory_api::{Reason, labels};
use jiff::Timestamp;

use crate::engine::grant_stages::GrantStages;
use crate::engine::tenancy::{self, Access, Mark};
use crate::model::intent::SiteIntent;
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use crate::model::plan::{Action, Plan, Purpose, applies};
use crate::model::report::{Detail, Finding, SitePhase};
use crate::model::text::shorten;

use super::staged::Decided;
use super::{NamespaceView, Planner, access, after, retained};

/// What is written on a locked namespace, and what follows from it.
struct Marks {
    annotations: BTreeMap<String, String>,
    /// Whether an earlier reconciliation has seen it locked, with the moment of the lock on it.
    locked: bool,
    cancel_at: Option<Timestamp>,
    cancelled: bool,
    retained_until: Timestamp,
}

impl Planner<'_> {
    /// Takes access away and keeps data: locked for the retention, then kept or deleted.
    pub(super) fn end(&self, because: Reason, message: &str, at: Option<Timestamp>, phase: SitePhase) -> Plan {
        let unknown = NamespaceView::default();
        let found = match self.view.namespace {
            Some(found) if !found.terminating => found,
            // It is asked for anew; the site says whether it may be taken for ours.
            None if self.view.occupied && self.remains() => &unknown,
            None if !self.remains() => {
                let mut plan = Plan::nothing(if phase == SitePhase::Refused { phase } else { SitePhase::Gone }, self.detail(0, true, false));
                plan.step(Purpose::Establish, self.outside());
                self.within_bounds(&mut plan);
                return plan;
            }
            // What is in it goes with it; until then its role bindings may still give access.
            Some(_) | None => return self.remove_all_access(),
        };
        let marks = self.marks(found, because, message, at);
        let stages = self.stages_of_locked(&marks.annotations, found);
        let access_gone = self.access_gone(stages.access());
        let observed = self.view.objects;
        let mut plan = Plan::nothing(phase, self.detail(0, access_gone, true));
        let removes = stages.write_removals(observed, &mut plan);
        if let Detail::Grant(grant) = &mut plan.detail {
            grant.retained_until = Some(marks.retained_until);
        }
        let over = marks.locked && !removes && marks.retained_until <= self.now && self.deletes_data();
        if over && !self.view.policy.keep_namespaces {
            let key = ObjectKey::cluster(ObjectKind::NAMESPACE, self.namespace.clone());
            plan.step(Purpose::Establish, self.outside());
            plan.step(Purpose::Establish, vec![Action::Delete { key, uid: Some(found.uid.clone()) }]);
            self.within_bounds(&mut plan);
            return plan;
        }
        if over {
            plan.findings.push(retained::kept_by_site(&self.namespace));
        }
        stages.write_rest(observed, &mut plan);
        self.not_before_it_is_written(&mut plan);
        if marks.cancel_at.is_some_and(|at| at <= self.now) && !marks.cancelled {
            plan.step(Purpose::Establish, vec![Action::EndWork { namespace: self.namespace.clone() }]);
            let mut annotations = marks.annotations;
            annotations.insert(labels::WORK_CANCELLED_AT.to_owned(), self.now.to_string());
            plan.step(Purpose::Establish, vec![Action::Apply(self.locked(&annotations, found))]);
        }
        let cancel = marks.cancel_at.filter(|_| !marks.cancelled);
        let times = [cancel, self.deletes_data().then_some(marks.retained_until)];
        plan.wake = times.into_iter().flatten().filter(|at| *at > self.now).min();
        self.within_bounds(&mut plan);
        plan
    }

    /// Only access is taken away, since nothing else can be done: every role binding goes.
    fn remove_all_access(&self) -> Plan {
        let stale = access::stale(self.view.objects, self.view.strangers, &BTreeSet::new());
        let mut plan = Plan::nothing(SitePhase::Pending, self.detail(0, self.access_gone(&[]), true));
        plan.step(Purpose::RemoveAccess, stale);
        plan.findings.push(Finding::note(Reason::InProgress, format!("Namespace {} is being deleted", self.namespace)));
        plan
    }

    fn deletes_data(&self) -> bool {
        self.grant.end.after_retention == AfterRetention::Delete
    }

    /// Where what is said about networks is not known, the policies that are there stay.
    fn knows_networks(&self) -> bool {
        !self.site.left && !self.grant.keep
    }

    /// When access ended and why, and what follows. All of it is counted from the moment of the lock, if that is later than the end: a site may hear of
    /// an end late, and a date may be set back by mistake.
    fn marks(&self, found: &NamespaceView, because: Reason, message: &str, at: Option<Timestamp>) -> Marks {
        let already = found.locked();
        let mark = |key: &str| found.time(key).filter(|_| already);
        let ended = mark(labels::ENDED_AT).or(at).unwrap_or(self.now);
        let locked_at = mark(labels::LOCKED_AT);
        let from = locked_at.unwrap_or(self.now).max(ended);
        let retained_until = after(from, self.grant.end.retention_seconds);
        let cancel_at = match self.grant.end.running_work {
            RunningWork::Cancel => Some(after(from, self.grant.end.grace_seconds)),
            RunningWork::Finish => None,
        };
        let cancelled = mark(labels::WORK_CANCELLED_AT);
        // The reason of the first lock stays: later ones (a deletion after an expiry) end nothing that has not ended.
        let earlier = found.annotation(labels::ENDED_BECAUSE).filter(|_| already);
        let because = earlier.map_or_else(|| format!("{because}: {}", shorten(message, 400)), str::to_owned);
        let mut annotations = self.used();
        annotations.extend([
            (labels::ENDED_AT.to_owned(), ended.to_string()),
            (labels::ENDED_BECAUSE.to_owned(), because),
            (labels::LOCKED_AT.to_owned(), locked_at.unwrap_or(self.now).to_string()),
            (labels::RETAINED_UNTIL.to_owned(), retained_until.to_string()),
            (labels::AFTER_RETENTION.to_owned(), self.grant.end.after_retention.as_str().to_owned()),
        ]);
        annotations.extend(cancel_at.map(|at| (labels::CANCEL_WORK_AT.to_owned(), at.to_string())));
        annotations.extend(cancelled.map(|at| (labels::WORK_CANCELLED_AT.to_owned(), at.to_string())));
        Marks { annotations, locked: already && locked_at.is_some(), cancel_at, cancelled: cancelled.is_some(), retained_until }
    }

    fn locked(&self, annotations: &BTreeMap<String, String>, found: &NamespaceView) -> Object {
        let mark = Mark { annotations: annotations.clone() };
        let mut namespace = tenancy::namespace(self.site, self.grant, &self.namespace, Access::Locked, &mark, &self.ownership);
        if self.grant.keep {
            tenancy::keep_resources(&mut namespace, found.annotation(labels::RESOURCES));
        }
        namespace
    }

    fn stages_of_locked(&self, annotations: &BTreeMap<String, String>, found: &NamespaceView) -> GrantStages {
        self.stages(&Decided {
            site: &self.site_with_resources_of(found),
            grant: self.grant,
            access: Access::Locked,
            annotations,
            resources: found.annotation(labels::RESOURCES),
            held: &BTreeMap::new(),
            used_up: &BTreeSet::new(),
            networks_known: self.knows_networks(),
        })
    }

    /// The site, with the accelerators that the namespace names beside: where not all pools are known, a quota closes these all the same.
    pub(super) fn site_with_resources_of(&self, found: &NamespaceView) -> SiteIntent {
        let mut site = self.site.clone();
        let named = found.annotation(labels::RESOURCES).unwrap_or_default().split(',').filter(|name| !name.is_empty());
        site.accelerators.extend(named.map(str::to_owned));
        site
    }

    /// What an earlier grant of this name with another code left: nobody may work there any more, and its data is kept until a person decides.
    pub(super) fn previous_incarnation(&self, found: &NamespaceView) -> Plan {
        let message = format!(
            "Namespace {} holds data of an earlier grant of this name with code {:?}, this one has {:?}. Wait until it is gone, or take it \
             over: kubectl annotate accessgrant {} -n {} {}=true",
            self.namespace,
            found.annotation(labels::CODE).unwrap_or_default(),
            self.grant.code,
            self.ownership.owner.name,
            self.ownership.owner.namespace,
            labels::ADOPT_PREVIOUS,
        );
        let (observed, strangers) = (self.view.objects, self.view.strangers);
        let stale = if found.locked() { access::letting_work(observed, strangers) } else { access::stale(observed, strangers, &BTreeSet::new()) };
        let gone = stale.is_empty() && (found.locked() || access::only(observed, strangers, &[]));
        let mut plan = Plan::nothing(SitePhase::Refused, self.detail(0, gone, true));
        plan.step(Purpose::RemoveAccess, self.tokens(!stale.is_empty()));
        plan.step(Purpose::RemoveAccess, stale);
        if !found.locked() {
            let uid = found.annotation(labels::OWNER_UID).unwrap_or_default();
            let earlier = Ownership::new(&self.site.hub, &self.ownership.owner, uid);
            let mark = Mark { annotations: self.marks_of_previous(found) };
            let namespace = tenancy::locked_namespace(self.site, &self.namespace, &found.annotations, &mark, &earlier);
            plan.step(Purpose::Establish, applies(vec![namespace], observed));
            plan.step(Purpose::Establish, applies(vec![tenancy::closed_quota(self.site, &self.namespace, &earlier)], observed));
        }
        // What was used is the earlier grant's.
        if let Detail::Grant(detail) = &mut plan.detail {
            detail.usage.clear();
        }
        plan.findings.push(Finding::stalled(Reason::PreviousIncarnation, message));
        self.within_bounds(&mut plan);
        plan.phase = SitePhase::Refused;
        plan
    }

    /// What a namespace lacks that is locked for want of its own grant. What that grant said of its data is not known, so nothing deletes it.
    fn marks_of_previous(&self, found: &NamespaceView) -> BTreeMap<String, String> {
        let now = self.now.to_string();
        let because = format!("{}: another grant of this name has taken its place", Reason::PreviousIncarnation);
        [
            (labels::ENDED_AT, now.clone()),
            (labels::ENDED_BECAUSE, because),
            (labels::LOCKED_AT, now),
            (labels::RETAINED_UNTIL, after(self.now, self.grant.end.retention_seconds).to_string()),
            (labels::AFTER_RETENTION, AfterRetention::Retain.as_str().to_owned()),
        ]
        .into_iter()
        .filter(|(key, _)| !found.annotations.contains_key(*key))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}
