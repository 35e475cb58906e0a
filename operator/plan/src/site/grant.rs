//! A grant at one site: from intent and observation to steps.
//!
//! Order is safety. On the way in: namespace, then default deny and quotas, then bindings. On the way out: tokens and bindings, then the
//! lock, then work, and data last.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::grant::{AfterRetention, RunningWork};
use aifactory_api::name::tenant_namespace;
use aifactory_api::{Reason, labels};
use jiff::{SignedDuration, Timestamp};

use crate::engine::network;
use crate::engine::tenancy::{self, Access, Mark};
use crate::model::intent::{Desired, GrantIntent, Intent, MemberIntent, Refusal, SiteIntent};
use crate::model::object::{ObjectKey, ObjectKind, Ownership};
use crate::model::plan::{Action, ObservedObjects, Plan, Purpose, applies, deletes};
use crate::model::report::{Detail, EntryUsage, Finding, GrantDetail, SitePhase};
use crate::model::text::{bounded, shorten};
use crate::site::policy::SitePolicy;

/// What the site worker knows about one grant.
#[derive(Clone, Debug)]
pub struct GrantView<'a> {
    /// Its namespace.
    pub namespace: Option<&'a NamespaceView>,
    /// Its objects, the namespace among them.
    pub objects: &'a ObservedObjects,
    /// Role bindings and network policies of others in its namespace, for example `RoleBinding debug`.
    pub foreign: &'a [ObjectKey],
    /// The site's own word.
    pub policy: &'a SitePolicy,
    /// The site's refusal of this grant.
    pub refused: Option<&'a Refusal>,
    /// Whether the namespace was deleted by somebody else while the grant was living.
    pub data_lost: bool,
    /// GPU time of its Pods; `None` where nobody counts.
    pub hours: Option<Hours>,
}

/// GPU time of a grant's Pods, as the site worker counts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hours {
    /// The annotation [`labels::USED`] as it shall be; `None`: nothing was used yet.
    pub annotation: Option<String>,
    /// By pool.
    pub used: BTreeMap<String, EntryUsage>,
    /// Times in which nobody watched and Pods came or went.
    pub gaps: Vec<(Timestamp, Timestamp)>,
    /// What keeps Pods from being seen now.
    pub blind: Option<String>,
    /// Pods that wait or run, by pool and name.
    pub pods: BTreeMap<String, BTreeMap<String, LivePod>>,
}

/// A Pod with GPUs that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivePod {
    /// Its GPUs.
    pub gpus: i64,
    /// Whether it was bound to a node.
    pub bound: bool,
    /// How many seconds it has where it is to end; `None`: it was given as few.
    pub grace: Option<u32>,
}

/// What the site worker keeps of a grant's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceView {
    /// UID.
    pub uid: String,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Its label [`labels::STATE`].
    pub state: String,
    /// Its annotations of ours.
    pub annotations: BTreeMap<String, String>,
}

impl NamespaceView {
    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    fn time(&self, key: &str) -> Option<Timestamp> {
        self.annotation(key)?.parse().ok()
    }

    /// Whether the namespace says itself that the grant has ended and data is retained.
    pub fn retained(&self) -> bool {
        self.state == labels::STATE_LOCKED && self.time(labels::RETAINED_UNTIL).is_some()
    }
}

/// Plans a grant at a site.
pub fn plan(site: &SiteIntent, intent: &Intent, grant: &GrantIntent, view: &GrantView<'_>, now: Timestamp) -> Plan {
    let ownership = Ownership::new(&site.hub, &intent.owner, &intent.uid);
    let namespace = tenant_namespace(&site.hub, &intent.owner);
    let planner = Planner { site, grant, view, now, ownership, namespace };
    planner.plan(&intent.uid)
}

/// What a retained namespace asks for by its mark alone, when its grant is gone from the hub.
pub fn plan_retained(namespace: &str, view: &NamespaceView, objects: &ObservedObjects, keep: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing(SitePhase::Locked, Detail::None);
    if view.terminating {
        return plan;
    }
    if let Some(at) = view.time(labels::CANCEL_WORK_AT)
        && view.annotation(labels::WORK_CANCELLED_AT).is_none()
    {
        if at <= now {
            plan.step(Purpose::Establish, vec![Action::EndWork { namespace: namespace.to_owned() }]);
        } else {
            plan.wake = Some(at);
        }
    }
    if view.annotation(labels::AFTER_RETENTION) == Some(AfterRetention::Delete.as_str())
        && let Some(until) = view.time(labels::RETAINED_UNTIL)
    {
        if until > now {
            plan.wake = Some(plan.wake.map_or(until, |wake| wake.min(until)));
        } else if keep {
            plan.findings.push(kept_by_site(namespace));
        } else {
            plan.steps.clear();
            let uid = objects.get(&ObjectKey::cluster(ObjectKind::Namespace, namespace)).map(|found| found.uid.clone());
            let key = ObjectKey::cluster(ObjectKind::Namespace, namespace);
            plan.step(Purpose::Establish, vec![Action::Delete { key, uid: uid.or_else(|| Some(view.uid.clone())) }]);
        }
    }
    plan
}

fn kept_by_site(namespace: &str) -> Finding {
    Finding::note(
        Reason::RefusedBySite,
        format!("Namespace {namespace} is kept: the site's ConfigMap {} says allowDeletion: \"false\"", labels::SITE_POLICY),
    )
}

struct Planner<'a> {
    site: &'a SiteIntent,
    grant: &'a GrantIntent,
    view: &'a GrantView<'a>,
    now: Timestamp,
    ownership: Ownership,
    namespace: String,
}

impl Planner<'_> {
    fn plan(&self, uid: &str) -> Plan {
        let mut plan = self.decide(uid);
        plan.findings.extend(self.foreign());
        plan.findings.extend(self.unseen());
        if self.view.data_lost {
            plan.findings.push(Finding::note(
                Reason::DataLost,
                format!("Namespace {} was deleted by somebody else with all that was in it; it is made anew, empty", self.namespace),
            ));
        }
        plan
    }

    fn decide(&self, uid: &str) -> Plan {
        let held = self.view.namespace;
        if let Some(found) = held
            && found.annotation(labels::OWNER_UID).is_some_and(|earlier| earlier != uid)
            && found.annotation(labels::CODE).is_some_and(|code| code != self.grant.code)
            && !self.grant.adopt_previous
        {
            return self.previous_incarnation(found);
        }
        let living = matches!(self.grant.desired, Desired::Bound | Desired::Paused | Desired::Scheduled);
        if let Some(refusal) = self.view.refused.filter(|_| living) {
            return self.refused(refusal.reason, &refusal.message);
        }
        match &self.grant.desired {
            Desired::Ended { because, message, at } => self.end(*because, message, *at, SitePhase::Locked),
            Desired::Bound | Desired::Paused if !self.held_alive() => match &self.grant.only_if_held {
                Some(refusal) => self.refused(refusal.reason, &refusal.message),
                None => self.establish(if matches!(self.grant.desired, Desired::Bound) { Access::Open } else { Access::Paused }),
            },
            Desired::Bound => self.establish(Access::Open),
            Desired::Paused => self.establish(Access::Paused),
            Desired::Scheduled if self.held_alive() => self.establish(Access::Paused),
            // A namespace that was retained before stays as it is until `notBefore`.
            Desired::Scheduled => Plan {
                wake: None,
                ..Plan::nothing(if held.is_some() { SitePhase::Locked } else { SitePhase::Gone }, self.detail(0, true, held.is_some()))
            },
        }
    }

    /// Whether the site gives access to this grant already.
    fn held_alive(&self) -> bool {
        self.view.namespace.is_some_and(|found| found.state != labels::STATE_LOCKED)
    }

    fn previous_incarnation(&self, found: &NamespaceView) -> Plan {
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
        let finding = Finding::stalled(Reason::PreviousIncarnation, message);
        let mut plan = if found.state == labels::STATE_LOCKED {
            Plan::nothing(SitePhase::Refused, self.detail(0, true, true))
        } else {
            // Its grant is gone, so nobody may work there any more; it stays what it is otherwise.
            let mut plan = Plan::nothing(SitePhase::Refused, self.detail(0, false, true));
            plan.step(Purpose::RemoveAccess, self.tokens(true));
            plan.step(Purpose::RemoveAccess, deletes(self.view.objects, [].into_iter(), |kind| kind == ObjectKind::RoleBinding));
            if plan.steps.is_empty() {
                plan.detail = self.detail(0, true, true);
            }
            plan
        };
        // What was used is the earlier grant's.
        if let Detail::Grant(detail) = &mut plan.detail {
            detail.usage.clear();
        }
        plan.findings.push(finding);
        plan
    }

    fn refused(&self, reason: Reason, message: &str) -> Plan {
        let mut plan = self.end(reason, message, None, SitePhase::Refused);
        plan.findings.insert(0, Finding::stalled(reason, message));
        plan
    }

    fn establish(&self, access: Access) -> Plan {
        let (members, _) = self.members();
        let rendered = network::policies(self.site, self.grant, &self.namespace, &self.ownership);
        let closed = self.closed();
        let mut granted = self.grant.clone();
        for pool in granted.pools.iter_mut().filter(|pool| closed.contains(pool.pool.as_str())) {
            pool.open = false;
        }
        let mut annotations = self.used();
        if !closed.is_empty() {
            annotations.insert(labels::CANCEL_PODS.to_owned(), closed.iter().copied().collect::<Vec<_>>().join(","));
        }
        let namespace = tenancy::namespace(self.site, &granted, &self.namespace, access, &Mark { annotations }, &self.ownership);
        let mut fence = rendered.objects;
        fence.extend(tenancy::limits(self.site, &granted, &self.namespace, access, &self.held(&closed), &self.ownership));
        fence.push(tenancy::service_account(&self.namespace, &self.ownership));
        let bindings = tenancy::bindings(&members, &self.namespace, access, &self.ownership);
        let bound = bindings.len();
        let mut inside = bindings;
        inside.push(tenancy::access_note(self.site, self.grant, &self.namespace, access, &closed, &self.ownership));

        let keys: Vec<ObjectKey> = std::iter::once(&namespace).chain(&fence).chain(&inside).map(|object| object.key.clone()).collect();
        let observed = self.view.objects;
        let phase = if access == Access::Open { SitePhase::Bound } else { SitePhase::Paused };
        let mut plan = Plan::nothing(phase, self.detail(bound, false, true));
        if self.view.namespace.is_some_and(|found| found.terminating) {
            plan.phase = SitePhase::Pending;
            plan.findings.push(Finding::note(Reason::InProgress, format!("Namespace {} is being deleted", self.namespace)));
            return plan;
        }
        let stale = deletes(observed, keys.iter(), |kind| kind == ObjectKind::RoleBinding);
        plan.step(Purpose::RemoveAccess, self.tokens(!stale.is_empty()));
        plan.step(Purpose::RemoveAccess, stale);
        plan.step(Purpose::Establish, applies(vec![namespace], observed));
        plan.step(Purpose::Establish, applies(fence, observed));
        plan.step(Purpose::Establish, applies(inside, observed));
        plan.step(Purpose::Establish, deletes(observed, keys.iter(), |kind| !matches!(kind, ObjectKind::RoleBinding | ObjectKind::Namespace)));
        // What is not written yet is not in force: until then more may start.
        let fenced = !plan.steps.iter().flat_map(|step| &step.actions).any(|action| match action {
            Action::Apply(object) => matches!(object.key.kind, ObjectKind::Namespace | ObjectKind::ResourceQuota),
            _ => false,
        });
        if let Detail::Grant(detail) = &mut plan.detail {
            detail.usage.values_mut().for_each(|usage| usage.closed &= fenced);
        }
        plan.step(Purpose::Establish, self.end_pods(&closed));
        plan.findings.extend(rendered.findings.into_iter().map(|text| Finding::note(Reason::InvalidSpec, text)));
        plan.findings.extend(self.waiting());
        let running = match self.grant.end.running_work {
            RunningWork::Cancel => "what runs is cancelled",
            RunningWork::Finish => "what runs may finish",
        };
        plan.findings.extend(closed.into_iter().map(|pool| {
            Finding::note(Reason::Exhausted, format!("pool {pool}: the GPU-hours for this site are used up; nothing more starts, {running}"))
        }));
        if self.view.policy.paused {
            self.only_removals(&mut plan);
        }
        plan
    }

    /// Pools of which the grant has used up what this site may let it use.
    fn closed(&self) -> BTreeSet<&str> {
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

    /// Takes access away and keeps data: locked for the retention, then kept or deleted.
    fn end(&self, because: Reason, message: &str, at: Option<Timestamp>, phase: SitePhase) -> Plan {
        let Some(found) = self.view.namespace else {
            return Plan::nothing(if phase == SitePhase::Refused { phase } else { SitePhase::Gone }, self.detail(0, true, false));
        };
        if found.terminating {
            return Plan::nothing(SitePhase::Pending, self.detail(0, true, true));
        }
        let already = found.state == labels::STATE_LOCKED;
        let ended = found.time(labels::ENDED_AT).filter(|_| already).or(at).unwrap_or(self.now);
        let retained_until = after(ended, self.grant.end.retention_seconds);
        let cancel_at = match self.grant.end.running_work {
            RunningWork::Cancel => Some(after(ended, self.grant.end.grace_seconds)),
            RunningWork::Finish => None,
        };
        let cancelled = found.time(labels::WORK_CANCELLED_AT).filter(|_| already);
        let due = cancel_at.is_some_and(|at| at <= self.now) && cancelled.is_none();

        let mut annotations = self.used();
        annotations.extend([
            (labels::ENDED_AT.to_owned(), ended.to_string()),
            (labels::ENDED_BECAUSE.to_owned(), format!("{because}: {}", shorten(message, 400))),
            (labels::RETAINED_UNTIL.to_owned(), retained_until.to_string()),
            (labels::AFTER_RETENTION.to_owned(), self.grant.end.after_retention.as_str().to_owned()),
        ]);
        if let Some(at) = cancel_at {
            annotations.insert(labels::CANCEL_WORK_AT.to_owned(), at.to_string());
        }
        if let Some(at) = cancelled {
            annotations.insert(labels::WORK_CANCELLED_AT.to_owned(), at.to_string());
        }
        // The reason of the first lock stays: later ones (a deletion after an expiry) end nothing that has not ended.
        if already && let Some(text) = found.annotation(labels::ENDED_BECAUSE) {
            annotations.insert(labels::ENDED_BECAUSE.to_owned(), text.to_owned());
        }
        let lock = |annotations: BTreeMap<String, String>| {
            tenancy::namespace(self.site, self.grant, &self.namespace, Access::Locked, &Mark { annotations }, &self.ownership)
        };
        let namespace = lock(annotations.clone());
        // The grant's addresses at other sites may be another's as soon as this one is gone.
        let apart = GrantIntent { cross_site: None, ..self.grant.clone() };
        let mut fence = network::policies(self.site, &apart, &self.namespace, &self.ownership).objects;
        fence.extend(tenancy::limits(self.site, self.grant, &self.namespace, Access::Locked, &BTreeMap::new(), &self.ownership));
        fence.push(tenancy::service_account(&self.namespace, &self.ownership));
        let (members, _) = self.members();
        let mut inside = tenancy::bindings(&members, &self.namespace, Access::Locked, &self.ownership);
        inside.push(tenancy::access_note(self.site, self.grant, &self.namespace, Access::Locked, &BTreeSet::new(), &self.ownership));
        let keys: Vec<ObjectKey> = std::iter::once(&namespace).chain(&fence).chain(&inside).map(|object| object.key.clone()).collect();

        let observed = self.view.objects;
        let stale = deletes(observed, keys.iter(), |kind| kind == ObjectKind::RoleBinding);
        let access_gone = stale.is_empty() && already;
        let mut detail = self.detail(0, access_gone, true);
        if let Detail::Grant(grant) = &mut detail {
            grant.retained_until = Some(retained_until);
        }
        let mut plan = Plan::nothing(phase, detail);
        plan.step(Purpose::RemoveAccess, self.tokens(!stale.is_empty()));
        plan.step(Purpose::RemoveAccess, stale);

        let over = retained_until <= self.now && self.grant.end.after_retention == AfterRetention::Delete;
        if over && !self.view.policy.keep_namespaces {
            let key = ObjectKey::cluster(ObjectKind::Namespace, self.namespace.clone());
            plan.step(Purpose::Establish, vec![Action::Delete { key, uid: Some(found.uid.clone()) }]);
            return plan;
        }
        if over {
            plan.findings.push(kept_by_site(&self.namespace));
        }
        plan.step(Purpose::Establish, applies(vec![namespace], observed));
        plan.step(Purpose::Establish, applies(fence, observed));
        plan.step(Purpose::Establish, applies(inside, observed));
        plan.step(Purpose::Establish, deletes(observed, keys.iter(), |kind| !matches!(kind, ObjectKind::RoleBinding | ObjectKind::Namespace)));
        if due {
            plan.step(Purpose::Establish, vec![Action::EndWork { namespace: self.namespace.clone() }]);
            annotations.insert(labels::WORK_CANCELLED_AT.to_owned(), self.now.to_string());
            plan.step(Purpose::Establish, vec![Action::Apply(lock(annotations))]);
        }
        plan.wake = [cancel_at.filter(|_| cancelled.is_none()), (self.grant.end.after_retention == AfterRetention::Delete).then_some(retained_until)]
            .into_iter()
            .flatten()
            .filter(|at| *at > self.now)
            .min();
        if self.view.policy.paused {
            self.only_removals(&mut plan);
        }
        plan
    }

    /// Deletes the ServiceAccounts, so that tokens which members may have seen stop; both are made anew. Before the bindings: a crash in
    /// between leaves the bindings, and so the reason to do it again.
    fn tokens(&self, wanted: bool) -> Vec<Action> {
        if !wanted {
            return Vec::new();
        }
        let ours = ObjectKey::namespaced(ObjectKind::ServiceAccount, self.namespace.clone(), "aifactory");
        let default = ObjectKey::namespaced(ObjectKind::ServiceAccount, self.namespace.clone(), "default");
        let mut actions = vec![Action::Delete { key: default, uid: None }];
        if let Some(found) = self.view.objects.get(&ours) {
            actions.push(Action::Delete { key: ours, uid: Some(found.uid.clone()) });
        }
        actions
    }

    fn only_removals(&self, plan: &mut Plan) {
        let before = plan.steps.len();
        plan.steps.retain(|step| step.purpose == Purpose::RemoveAccess);
        if plan.steps.len() < before {
            plan.phase = SitePhase::Pending;
            plan.findings.push(Finding::note(
                Reason::PausedBySite,
                format!("the site's ConfigMap {} says paused: only access is taken away", labels::SITE_POLICY),
            ));
        }
    }

    /// Members whom the site takes, and those whom it refuses.
    fn members(&self) -> (Vec<MemberIntent>, Vec<MemberIntent>) {
        let refused = &self.view.policy.refuse_members;
        let taken =
            |member: &MemberIntent| !refused.contains(&member.id) && member.subject.as_ref().is_none_or(|subject| !refused.contains(&subject.name));
        self.grant.members.iter().cloned().partition(taken)
    }

    fn detail(&self, bound: usize, access_removed: bool, present: bool) -> Detail {
        let deny = ObjectKey::namespaced(ObjectKind::NetworkPolicy, self.namespace.clone(), "aif-default-deny");
        Detail::Grant(GrantDetail {
            namespace: if present { self.namespace.clone() } else { String::new() },
            members_wanted: i32::try_from(self.grant.members.len()).unwrap_or(i32::MAX),
            members_bound: i32::try_from(bound).unwrap_or(i32::MAX),
            access_removed,
            isolated: self.view.objects.contains_key(&deny),
            retained_until: None,
            slurm: None,
            usage: if present { self.usage() } else { BTreeMap::new() },
        })
    }

    /// The annotation that outlives the operator's process.
    fn used(&self) -> BTreeMap<String, String> {
        // A site that is paused keeps what it has: for a figure nothing is written, and nothing is Pending.
        let kept = || self.view.namespace.and_then(|found| found.annotation(labels::USED)).map(str::to_owned);
        let counted = || self.view.hours.as_ref().and_then(|hours| hours.annotation.clone());
        let text = if self.view.policy.paused { kept() } else { counted() };
        text.map(|text| (labels::USED.to_owned(), text)).into_iter().collect()
    }

    /// What was used of each entry whose pool is used through Kubernetes.
    fn usage(&self) -> BTreeMap<String, EntryUsage> {
        let Some(hours) = &self.view.hours else { return BTreeMap::new() };
        let closed = self.closed();
        let mut left: BTreeMap<&str, i64> = BTreeMap::new();
        let entries: Vec<_> = self.grant.pools.iter().filter(|pool| pool.partition.is_none()).collect();
        let mut found = BTreeMap::new();
        for (at, pool) in entries.iter().enumerate() {
            let usage = hours.used.get(&pool.pool).cloned().unwrap_or_else(|| EntryUsage { stale: hours.blind.is_some(), ..EntryUsage::default() });
            // What two entries share counts once: each as far as its budget goes, the last one for the rest.
            let left = left.entry(&pool.pool).or_insert(usage.used);
            let last = !entries.iter().skip(at + 1).any(|other| other.pool == pool.pool);
            let used = if last { *left } else { (*left).min(pool.budget.device_minutes.saturating_mul(60)) };
            *left -= used;
            found.insert(pool.entry.clone(), EntryUsage { used, closed: closed.contains(pool.pool.as_str()), ..usage });
        }
        found
    }

    fn unseen(&self) -> Vec<Finding> {
        let Some(hours) = &self.view.hours else { return Vec::new() };
        let gaps = hours.gaps.iter().map(|(from, to)| {
            let text = "were deleted between {from} and {to} are not counted, or until {from} only";
            let text = text.replace("{from}", &from.to_string()).replace("{to}", &to.to_string());
            Finding::note(Reason::UsageGap, format!("Namespace {}: Pods that {text}", self.namespace))
        });
        let blind = hours.blind.iter().map(|why| Finding::note(Reason::UsageStale, format!("GPU time of Pods is not counted: {why}")));
        gaps.chain(blind).collect()
    }

    fn foreign(&self) -> Vec<Finding> {
        let name =
            |kind: ObjectKind| -> Vec<String> { self.view.foreign.iter().filter(|key| key.kind == kind).map(|key| key.name.clone()).collect() };
        let mut findings = Vec::new();
        for (kind, reason, what) in [
            (ObjectKind::RoleBinding, Reason::ForeignBinding, "role bindings"),
            (ObjectKind::NetworkPolicy, Reason::ForeignPolicy, "network policies"),
        ] {
            let names = name(kind);
            if !names.is_empty() {
                let message = format!(
                    "{what} of somebody else in Namespace {} widen this grant: {}. They are left alone; delete them if they are not meant",
                    self.namespace,
                    bounded(&names)
                );
                findings.push(Finding::note(reason, message));
            }
        }
        findings
    }
}

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
