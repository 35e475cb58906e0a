//! A grant that is in force at a site, or is paused there.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::grant::RunningWork;
use aifactory_api::{Reason, labels};

use crate::engine::network;
use crate::engine::tenancy::{self, Access, Mark};
use crate::model::intent::MemberIntent;
use crate::model::lifecycle::Work;
use crate::model::plan::{Action, Plan, Purpose, applies};
use crate::model::report::{Detail, Finding, SitePhase};
use crate::model::text::bounded;

use super::staged::Decided;
use super::{BoundMembers, Planner, access};

impl Planner<'_> {
    pub(super) fn establish(&self, access: Access) -> Plan {
        let closed = self.closed();
        let mut granted = self.grant.clone();
        for pool in granted.pools.iter_mut().filter(|pool| closed.contains(pool.pool.as_str())) {
            pool.open = false;
        }
        let mut annotations = self.used();
        if !closed.is_empty() {
            annotations.insert(labels::CANCEL_PODS.to_owned(), closed.iter().copied().collect::<Vec<_>>().join(","));
        }
        let mut stages = self.stages(&Decided {
            site: self.site,
            grant: &granted,
            access,
            annotations: &annotations,
            resources: None,
            held: &self.held(&closed),
            used_up: &closed,
            networks_known: true,
        });
        let bound = BoundMembers::by(stages.access());
        let observed = self.view.objects;
        let phase = if access == Access::Open { SitePhase::Bound } else { SitePhase::Paused };
        let mut plan = Plan::nothing(phase, self.detail(bound, false, true));
        if self.view.namespace.is_some_and(|found| found.terminating) {
            plan.phase = SitePhase::Pending;
            plan.findings.push(Finding::note(Reason::InProgress, format!("Namespace {} is being deleted", self.namespace)));
            return plan;
        }
        stages.usage(self.end_pods(&closed));
        stages.write_removals(observed, &mut plan);
        stages.write_rest(observed, &mut plan);
        self.not_before_it_is_written(&mut plan);
        plan.findings.extend(self.waiting());
        plan.findings.extend(self.exhausted(closed));
        if self.site.left {
            let message = format!("the factory does not name the Kubernetes of site {} any more: only access is taken away there", self.site.site);
            self.only_removals(&mut plan, Finding::note(Reason::SiteNotFound, message));
        }
        self.within_bounds(&mut plan);
        plan
    }

    fn exhausted(&self, closed: BTreeSet<&str>) -> Vec<Finding> {
        let running = match self.grant.end.running_work {
            RunningWork::Cancel => "what runs is cancelled",
            RunningWork::Finish => "what runs may finish",
        };
        let message = |pool: &str| format!("pool {pool}: the GPU-hours for this site are used up; nothing more starts, {running}");
        closed.into_iter().map(|pool| Finding::note(Reason::Exhausted, message(pool))).collect()
    }

    /// Not in force, and locked before: it stays so, and nobody works there.
    pub(super) fn wait(&self) -> Plan {
        let working = access::letting_work(self.view.objects, self.view.strangers);
        let gone = access::none_lets_work(self.view.objects, self.view.strangers) && self.widened().is_empty();
        let mut plan = Plan::nothing(SitePhase::Locked, self.detail(BoundMembers::default(), gone, true));
        plan.step(Purpose::RemoveAccess, self.tokens(!working.is_empty()));
        plan.step(Purpose::RemoveAccess, working);
        plan
    }

    /// Something that the grant names can not be read: what is held stays, members who are not listed lose access, and a pause lets nothing start.
    pub(super) fn keep(&self, work: Work) -> Plan {
        let observed = self.view.objects;
        let found = self.view.namespace;
        let (paused, access) = match work {
            Work::Open => (false, Access::Open),
            Work::Paused => (true, Access::Paused),
        };
        let (members, _) = self.members();
        let wanted: Vec<_> = tenancy::bindings(&members, &self.namespace, access, &self.ownership)
            .into_iter()
            .filter(|object| observed.contains_key(&object.key))
            .collect();
        let mut plan = Plan::nothing(if paused { SitePhase::Paused } else { SitePhase::Bound }, self.detail(BoundMembers::by(&wanted), false, true));
        let stale = access::stale(observed, self.view.strangers, &wanted.iter().map(|object| &object.key).collect());
        plan.step(Purpose::RemoveAccess, self.tokens(!stale.is_empty()));
        plan.step(Purpose::RemoveAccess, stale);
        if let Some(found) = found.filter(|found| paused && !found.terminating) {
            let site = self.site_with_resources_of(found);
            let mark = Mark { annotations: self.used() };
            let mut namespace = tenancy::namespace(&site, self.grant, &self.namespace, access, &mark, &self.ownership);
            tenancy::keep_resources(&mut namespace, found.annotation(labels::RESOURCES));
            plan.step(Purpose::Establish, applies(vec![namespace], observed));
            let limits = tenancy::limits(&site, self.grant, &self.namespace, access, &BTreeMap::new(), &self.ownership);
            plan.step(Purpose::Establish, applies(limits, observed));
        }
        let deny = applies(vec![network::default_deny(&self.namespace, &self.ownership)], observed);
        self.not_before_it_is_written(&mut plan);
        if let Detail::Grant(detail) = &mut plan.detail {
            detail.isolated &= deny.is_empty();
        }
        self.within_bounds(&mut plan);
        plan
    }

    /// Pools of which the grant has used up what this site may let it use.
    pub(super) fn closed(&self) -> BTreeSet<&str> {
        let Some(hours) = &self.view.hours else { return BTreeSet::new() };
        let spent = |pool: &str| hours.used.get(pool).is_some_and(|usage| usage.used >= self.grant.closes_at(pool));
        let pools = self.grant.pools.iter().filter(|pool| pool.partition.is_none());
        pools.map(|pool| pool.pool.as_str()).filter(|pool| spent(pool)).collect()
    }

    /// GPUs of these pools that Pods still hold: the quota is one over all pools of a resource, and those that are open are not to wait for them.
    fn held(&self, closed: &BTreeSet<&str>) -> BTreeMap<String, i64> {
        let pods = self.view.hours.iter().flat_map(|hours| &hours.pods).filter(|(pool, _)| closed.contains(pool.as_str()));
        pods.map(|(pool, pods)| (pool.clone(), pods.values().fold(0_i64, |sum, pod| sum.saturating_add(pod.gpus)))).collect()
    }

    /// The end of the Pods of these pools, of those that wait for a node in any case, once the namespace says so.
    fn end_pods(&self, closed: &BTreeSet<&str>) -> Vec<Action> {
        let Some(hours) = &self.view.hours else { return Vec::new() };
        let written = self.view.namespace.and_then(|found| found.annotation(labels::CANCEL_PODS)).unwrap_or_default();
        let pools = written.split(',').filter(|pool| closed.contains(pool));
        let cancelled = pools.filter_map(|pool| hours.pods.get(pool)).flatten();
        let cancelled = cancelled.filter(|(_, pod)| !pod.bound || self.grant.end.running_work == RunningWork::Cancel);
        let end = |name: &String, grace: u32| Action::EndPod { namespace: self.namespace.clone(), name: name.clone(), grace };
        cancelled.filter_map(|(name, pod)| Some(end(name, pod.grace?))).collect()
    }

    /// Members who are given nothing here, and why.
    fn waiting(&self) -> Vec<Finding> {
        let (mut missing, refused) = self.members();
        missing.retain(|member| member.subject.is_none());
        let named = |members: Vec<MemberIntent>| members.into_iter().map(|member| member.id).collect::<Vec<_>>();
        let policy = format!("are listed under refuseMembers of the site's ConfigMap {}", labels::SITE_POLICY);
        let subject =
            "have no members[].kubernetes subject that begins as the factory's policy.subjectPrefixes say, for example oidc:4711".to_owned();
        [(named(refused), policy), (named(missing), subject)]
            .into_iter()
            .filter(|(ids, _)| !ids.is_empty())
            .map(|(ids, why)| Finding::note(Reason::MembersWaiting, format!("members {} wait: they {why}", bounded(&ids))))
            .collect()
    }
}
