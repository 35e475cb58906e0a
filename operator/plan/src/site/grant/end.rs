//! The end of a grant at a site: access goes, the namespace is locked, work ends, and data is kept for the retention that was granted.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{Reason, labels};

use crate::engine::network;
use crate::engine::tenancy::{self, Access, Mark};
use crate::model::intent::{GrantIntent, SiteIntent};
use crate::model::lifecycle::Ended;
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use crate::model::plan::{Action, Plan, Purpose, applies, deletes};
use crate::model::report::{Detail, Finding, SitePhase};

use super::{NamespaceView, Planner, access, marks, retained};

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
        let namespace = self.locked(ended, found);
        let fence = self.fence_of_locked(found);
        let bindings = self.bindings_of_locked();
        let access_gone = self.access_gone(&bindings);
        let mut inside = bindings;
        inside.push(tenancy::access_note(self.site, self.grant, &self.namespace, Access::Locked, &BTreeSet::new(), &self.ownership));
        let keys: BTreeSet<ObjectKey> = std::iter::once(&namespace).chain(&fence).chain(&inside).map(|object| object.key.clone()).collect();

        let observed = self.view.objects;
        let stale = access::stale(observed, self.view.strangers, &keys.iter().collect());
        let mut plan = Plan::nothing(phase, self.detail(0, access_gone, true));
        if let Detail::Grant(grant) = &mut plan.detail {
            grant.retained_until = Some(ended.retained_until);
        }
        let over = ended.over(self.now) && stale.is_empty();
        plan.step(Purpose::RemoveAccess, self.tokens(!stale.is_empty()));
        plan.step(Purpose::RemoveAccess, stale);
        if over && !self.view.policy.keep_namespaces {
            let key = ObjectKey::cluster(ObjectKind::Namespace, self.namespace.clone());
            plan.step(Purpose::Establish, vec![Action::Delete { key, uid: Some(found.uid.clone()) }]);
            self.within_bounds(&mut plan);
            return plan;
        }
        if over {
            plan.findings.push(retained::kept_by_site(&self.namespace));
        }
        plan.step(Purpose::Establish, applies(vec![namespace], observed));
        plan.step(Purpose::Establish, applies(fence, observed));
        plan.step(Purpose::Establish, applies(inside, observed));
        plan.step(Purpose::Establish, deletes(observed, keys.iter(), |kind| self.goes_at_the_end(kind)));
        self.not_before_it_is_written(&mut plan);
        if ended.cancels(self.now) {
            plan.step(Purpose::Establish, vec![Action::EndWork { namespace: self.namespace.clone() }]);
            plan.step(Purpose::Establish, vec![Action::Apply(self.locked(&ended.cancelled(self.now), found))]);
        }
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

    /// Where what is said about networks is not known, the policies that are there stay.
    fn knows_networks(&self) -> bool {
        !self.site.left && !self.grant.keep
    }

    fn goes_at_the_end(&self, kind: ObjectKind) -> bool {
        match kind {
            ObjectKind::RoleBinding | ObjectKind::Namespace => false,
            ObjectKind::NetworkPolicy => self.knows_networks(),
            _ => true,
        }
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

    fn fence_of_locked(&self, found: &NamespaceView) -> Vec<Object> {
        let mut fence = if self.knows_networks() {
            // The grant's addresses at other sites may be another's as soon as this one is gone.
            let apart = GrantIntent { cross_site: None, ..self.grant.clone() };
            network::policies(self.site, &apart, &self.namespace, &self.ownership).objects
        } else {
            vec![network::default_deny(&self.namespace, &self.ownership)]
        };
        let site = self.site_with_resources_of(found);
        fence.extend(tenancy::limits(&site, self.grant, &self.namespace, Access::Locked, &BTreeMap::new(), &self.ownership));
        fence.push(tenancy::service_account(&self.namespace, &self.ownership));
        fence
    }

    /// The role bindings of the retention. Who may enter a Pod could go on with work that still runs, so until that has ended leads read only.
    fn bindings_of_locked(&self) -> Vec<Object> {
        let (members, _) = self.members();
        let mut bindings = if self.view.accelerators_in_use {
            tenancy::bindings_beside_work(&members, &self.namespace, &self.ownership)
        } else {
            tenancy::bindings(&members, &self.namespace, Access::Locked, &self.ownership)
        };
        if self.grant.keep {
            bindings.retain(|binding| self.view.objects.contains_key(&binding.key));
        }
        bindings
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
