//! A grant at one site: from intent and observation to steps.
//!
//! Order is safety. On the way in: namespace, then default deny and quotas, then bindings. On the way out: tokens and bindings, then the
//! lock, then work, and data last.

mod access;
mod end;
mod establish;
mod marks;
mod retained;
mod staged;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{Reason, labels};
use jiff::Timestamp;

use crate::engine::tenancy::{Access, has_our_name, lets_work};
use crate::engine::{self, Engines, network};
use crate::model::id::TenantNamespace;
use crate::model::intent::{Desired, GrantIntent, Intent, MemberIntent, Refusal, SiteIntent};
use crate::model::lifecycle::{Ended, Life, Marks, Order, Work};
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use crate::model::plan::{Action, ObservedObjects, Plan, Purpose};
use crate::model::report::{Detail, EntryUsage, Finding, GrantDetail, SitePhase};
use crate::site::index::Strangers;
use crate::site::policy::SitePolicy;

pub use retained::{Retained, plan_retained};

/// What the site worker knows about one grant.
#[derive(Clone, Debug)]
pub struct GrantView<'a> {
    /// The engines that the site is driven with.
    pub engines: Engines,
    /// Kinds that the site serves beside those that every cluster does.
    pub served: &'a BTreeSet<ObjectKind>,
    /// Its namespace.
    pub namespace: Option<&'a NamespaceView>,
    /// Whether a Namespace of its name is there that does not say that it is this grant's.
    pub occupied: bool,
    /// Its objects, the namespace among them.
    pub objects: &'a ObservedObjects,
    /// Role bindings and network policies of others in its namespace.
    pub strangers: &'a Strangers,
    /// The site's own configuration.
    pub policy: &'a SitePolicy,
    /// The site's refusal of this grant.
    pub refused: Option<&'a Refusal>,
    /// Whether the namespace was deleted by somebody else while the grant was living.
    pub data_lost: bool,
    /// GPU time of its Pods; `None` where nobody counts.
    pub hours: Option<Hours>,
    /// Whether Pods with accelerators wait or run there.
    pub accelerators_in_use: bool,
}

static NO_STRANGERS: Strangers = Strangers::new();
static NOTHING_SERVED: BTreeSet<ObjectKind> = BTreeSet::new();

impl<'a> GrantView<'a> {
    /// What a worker knows of a grant at a site where these objects are its own, and nothing else is there.
    pub fn of(objects: &'a ObservedObjects, policy: &'a SitePolicy) -> Self {
        Self {
            engines: engine::ALL,
            served: &NOTHING_SERVED,
            namespace: None,
            occupied: false,
            objects,
            strangers: &NO_STRANGERS,
            policy,
            refused: None,
            data_lost: false,
            hours: None,
            accelerators_in_use: false,
        }
    }
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

    fn locked(&self) -> bool {
        self.state == labels::STATE_LOCKED
    }

    /// [`Marks::retained`], for which no other mark needs to be read.
    pub fn retained(&self) -> bool {
        self.time(labels::RETAINED_UNTIL).is_some()
    }
}

/// Plans a grant at a site.
pub fn plan(site: &SiteIntent, intent: &Intent, grant: &GrantIntent, view: &GrantView<'_>, now: Timestamp) -> Plan {
    let ownership = Ownership::new(&site.hub, &intent.owner, &intent.uid);
    let namespace = TenantNamespace::of(&site.hub, &intent.owner);
    let planner = Planner { site, grant, view, now, ownership, namespace };
    planner.plan(&intent.uid)
}

/// How many members are bound, and how many of them can only read.
#[derive(Clone, Copy, Default)]
struct BoundMembers {
    all: i32,
    reading: i32,
}

impl BoundMembers {
    /// By the objects that give access.
    fn by<'o>(objects: impl IntoIterator<Item = &'o Object>) -> Self {
        let of_member = |object: &&Object| object.key.kind == ObjectKind::ROLE_BINDING && has_our_name(&object.key.name);
        let bindings = objects.into_iter().filter(of_member);
        bindings.fold(Self::default(), |sum, binding| Self {
            all: sum.all.saturating_add(1),
            reading: sum.reading.saturating_add(i32::from(!lets_work(&binding.key.name))),
        })
    }
}

struct Planner<'a> {
    site: &'a SiteIntent,
    grant: &'a GrantIntent,
    view: &'a GrantView<'a>,
    now: Timestamp,
    ownership: Ownership,
    namespace: TenantNamespace,
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
        let order = Order { uid, grant: self.grant, refused: self.view.refused, keeps: self.grant.keep };
        let life = Life::of(&order, self.held_marks().as_ref(), self.now);
        let mut plan = match &life {
            Life::Living(Work::Open) => self.establish(Access::Open),
            Life::Living(Work::Paused) => self.establish(Access::Paused),
            Life::Keeping(work) => self.keep(*work),
            Life::Waiting => self.wait(),
            Life::Refused { refusal, ended } => self.refused(refusal, ended.as_ref()),
            Life::Ended(ended) => self.end(ended, life.phase()),
            Life::FormerIncarnation(ended) => self.previous_incarnation(ended),
            Life::Gone => self.gone(life.phase()),
        };
        plan.wake = plan.wake.or_else(|| life.deadline(self.now));
        plan
    }

    /// What the site holds of this grant already, as far as is known.
    fn held_marks(&self) -> Option<Marks> {
        match self.view.namespace {
            Some(found) => Some(found.marks()),
            None => self.remains().then(Marks::default),
        }
    }

    /// Nothing is held in a namespace. What lies in none goes as well, once the grant has ended.
    fn gone(&self, phase: SitePhase) -> Plan {
        let mut plan = Plan::nothing(phase, self.detail(BoundMembers::default(), true, false));
        if phase == SitePhase::Refused || matches!(self.grant.desired, Desired::Ended { .. }) {
            plan.step(Purpose::Establish, self.outside());
            self.within_bounds(&mut plan);
        }
        plan
    }

    /// Whether something of this grant is in a namespace that does not say any more whose it is, or a member can work there all the same.
    fn remains(&self) -> bool {
        let inside = |key: &ObjectKey| key.kind.gives_access() || key.namespace == self.namespace.as_str();
        let ours = self.view.objects.keys().any(inside) || self.view.strangers.keys().any(|key| has_our_name(&key.name));
        ours || (self.view.occupied && !self.widened().is_empty())
    }

    fn refused(&self, refusal: &Refusal, ended: Option<&Ended>) -> Plan {
        let mut plan = ended.map_or_else(|| self.gone(SitePhase::Refused), |ended| self.end(ended, SitePhase::Refused));
        plan.findings.insert(0, Finding::stalled(refusal.reason, refusal.message.clone()));
        plan
    }

    /// Nothing but removals, since the site or the hub lets nothing else be done now. `why` is told where that leaves something undone.
    fn only_removals(&self, plan: &mut Plan, why: Finding) {
        let before = plan.steps.len();
        plan.steps.retain(|step| step.purpose == Purpose::RemoveAccess);
        if plan.steps.len() < before {
            plan.phase = SitePhase::Pending;
            plan.findings.push(why);
        }
    }

    /// Holds a plan to what may be done now.
    fn within_bounds(&self, plan: &mut Plan) {
        if self.view.policy.paused {
            let message = format!("the site's ConfigMap {} says paused: only access is taken away", labels::SITE_POLICY);
            self.only_removals(plan, Finding::note(Reason::PausedBySite, message));
        }
    }

    /// Members whom the site takes, and those whom it refuses.
    fn members(&self) -> (Vec<MemberIntent>, Vec<MemberIntent>) {
        let refused = &self.view.policy.refuse_members;
        let taken =
            |member: &MemberIntent| !refused.contains(&member.id) && member.subject.as_ref().is_none_or(|subject| !refused.contains(&subject.name));
        self.grant.members.iter().cloned().partition(taken)
    }

    fn detail(&self, bound: BoundMembers, access_removed: bool, present: bool) -> Detail {
        let deny = ObjectKey::namespaced(ObjectKind::NETWORK_POLICY, self.namespace.as_str(), network::DEFAULT_DENY);
        Detail::Grant(GrantDetail {
            namespace: if present { self.namespace.clone() } else { TenantNamespace::default() },
            members_wanted: i32::try_from(self.grant.members.len()).unwrap_or(i32::MAX),
            members_bound: bound.all,
            members_reading: bound.reading,
            access_removed,
            isolated: self.view.objects.contains_key(&deny),
            retained_until: None,
            slurm: None,
            usage: if present { self.usage() } else { BTreeMap::new() },
        })
    }

    /// Says what is in force of a plan before its steps are done: a network policy that is not as planned isolates nothing for sure, and under a
    /// quota that is not written more may start.
    fn not_before_it_is_written(&self, plan: &mut Plan) {
        let changes = |select: &dyn Fn(&ObjectKey) -> bool| {
            plan.steps.iter().flat_map(|step| &step.actions).any(|action| match action {
                Action::Apply(object) => select(&object.key),
                Action::Delete { key, .. } => select(key),
                Action::CreateKey { .. } | Action::EndWork { .. } | Action::EndPod { .. } | Action::PatchNode(_) => false,
            })
        };
        // A policy that is not there yet opens nothing; default deny is looked for by itself.
        let drifted = changes(&|key| key.kind == ObjectKind::NETWORK_POLICY && self.view.objects.contains_key(key));
        let unfenced = changes(&|key| matches!(key.kind, ObjectKind::NAMESPACE | ObjectKind::RESOURCE_QUOTA));
        if let Detail::Grant(detail) = &mut plan.detail {
            detail.isolated &= !drifted;
            detail.usage.values_mut().for_each(|usage| usage.closed &= !unfenced);
        }
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
}
