//! The end of a grant at a site: access goes, the namespace is locked, work ends, and data is kept for the retention that was granted.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{Reason, labels};

use crate::engine::grant_stages::GrantStages;
use crate::engine::tenancy::{self, Access, Mark};
use crate::model::intent::SiteIntent;
use crate::model::lifecycle::Ended;
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use crate::model::plan::{Action, Plan, Purpose, applies};
use crate::model::report::{Detail, Finding, SitePhase};

use super::staged::Decided;
use super::{BoundMembers, NamespaceView, Planner, access, marks, retained};

impl Planner<'_> {
    /// Takes access away and keeps data: locked for the retention, then kept or deleted.
    pub(super) fn end(&self, ended: &Ended, phase: SitePhase) -> Plan {
        let unknown = NamespaceView::default();
        let found = match self.view.namespace {
            Some(found) if !found.terminating => found,
            // It is asked for anew; the site says whether it may be taken for ours.
            None if self.view.occupied => &unknown,
            // What is in it goes with it; until then its role bindings may still give access.
            Some(_) | None => return self.remove_all_access(),
        };
        let stages = self.stages_of_locked(&self.annotations(ended), found);
        let access_gone = self.access_gone(stages.access());
        let observed = self.view.objects;
        let mut plan = Plan::nothing(phase, self.detail(BoundMembers::default(), access_gone, true));
        let removes = stages.write_removals(observed, &mut plan);
        if let Detail::Grant(grant) = &mut plan.detail {
            grant.retained_until = Some(ended.retained_until);
        }
        let over = ended.over(self.now) && !removes;
        if over && !self.view.policy.keep_namespaces {
            let key = ObjectKey::cluster(ObjectKind::NAMESPACE, self.namespace.as_str());
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
        if ended.cancels(self.now) {
            plan.step(Purpose::Establish, vec![Action::EndWork { namespace: self.namespace.clone() }]);
            plan.step(Purpose::Establish, applies(vec![self.locked(&ended.cancelled(self.now), found)], observed));
        }
        self.within_bounds(&mut plan);
        plan
    }

    /// Only access is taken away, since nothing else can be done: every role binding goes.
    fn remove_all_access(&self) -> Plan {
        let stale = access::stale(self.view.objects, self.view.strangers, &BTreeSet::new());
        let mut plan = Plan::nothing(SitePhase::Pending, self.detail(BoundMembers::default(), self.access_gone(&[]), true));
        plan.step(Purpose::RemoveAccess, stale);
        plan.findings.push(Finding::note(Reason::InProgress, format!("Namespace {} is being deleted", self.namespace)));
        plan
    }

    /// Where what is said about networks is not known, the policies that are there stay.
    fn knows_networks(&self) -> bool {
        !self.site.left && !self.grant.keep
    }

    /// What a locked namespace says beside whose it is.
    fn annotations(&self, ended: &Ended) -> BTreeMap<String, String> {
        let mut annotations = self.used();
        annotations.extend(marks::annotations(ended));
        annotations
    }

    fn locked(&self, ended: &Ended, found: &NamespaceView) -> Object {
        let mark = Mark { annotations: self.annotations(ended) };
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
    pub(super) fn previous_incarnation(&self, ended: &Ended) -> Plan {
        let Some(found) = self.view.namespace else { return self.remove_all_access() };
        let message = format!(
            "Namespace {} holds data of an earlier grant of this name with code {:?}, this one has {:?}. It stays locked while a \
             grant of this name exists. Give this grant another name, or take it over: kubectl annotate accessgrant {} -n {} {}=true",
            self.namespace,
            found.annotation(labels::CODE).unwrap_or_default(),
            self.grant.code,
            self.ownership.owner.name,
            self.ownership.owner.namespace,
            labels::ADOPT_PREVIOUS,
        );
        let (observed, strangers) = (self.view.objects, self.view.strangers);
        let stale = if found.locked() { access::letting_work(observed, strangers) } else { access::stale(observed, strangers, &BTreeSet::new()) };
        let closed = if found.locked() { access::none_lets_work(observed, strangers) } else { access::only(observed, strangers, &[]) };
        let gone = closed && self.widened().is_empty();
        let mut plan = Plan::nothing(SitePhase::Refused, self.detail(BoundMembers::default(), gone, true));
        plan.step(Purpose::RemoveAccess, self.tokens(!stale.is_empty()));
        plan.step(Purpose::RemoveAccess, stale);
        if !ended.seen_locked() {
            let uid = found.annotation(labels::OWNER_UID).unwrap_or_default();
            let earlier = Ownership::new(&self.site.hub, &self.ownership.owner, uid);
            let mark = Mark { annotations: marks::annotations(ended) };
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
}
