//! Reconciling one owner at a site: gathers what the index knows of it, and plans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::Engines;
use crate::engine::nodes::{self, PoolNodes};
use crate::engine::slinky::NodeSetView;
use crate::model::id::TenantNamespace;
use crate::model::intent::{Body, GrantIntent, Intent, PoolIntent, Refusal, SiteIntent, VERSION};
use crate::model::kind::ObjectKind;
use crate::model::object::Ownership;
use crate::model::plan::{ObservedObjects, Plan};
use crate::model::report::{Detail, SitePhase};
use crate::site::grant::{self, GrantView, Retained};
use crate::site::policy::SitePolicy;
use crate::site::pool::{self, PoolView};
use aifactory_api::factory::OrphanPolicy;
use aifactory_api::{Kind, OwnerRef, labels};
use jiff::Timestamp;

use super::factory::{self, FactoryView};
use super::index::{Index, Strangers};
use super::orphan;
use super::pools::{self, Pools};
use super::usage::Accounts;

static NO_STRANGERS: Strangers = Strangers::new();

/// Everything that planning looks at.
pub struct Reconciler<'a> {
    /// What the site must know of its factory.
    pub site: &'a SiteIntent,
    /// Every intent for this site.
    pub intents: &'a BTreeMap<OwnerRef, Arc<Intent>>,
    /// What is there.
    pub index: &'a Index,
    /// The site's own policy.
    pub policy: &'a SitePolicy,
    /// Grants that the site refuses.
    pub refusals: &'a BTreeMap<OwnerRef, Refusal>,
    /// Grants whose namespace somebody else has deleted.
    pub lost: &'a BTreeSet<OwnerRef>,
    /// What the pools share.
    pub pools: &'a Pools,
    /// GPU time of Pods.
    pub hours: &'a Accounts,
    /// The engines that the site is driven with.
    pub engines: Engines,
    /// Kinds that the site serves beside those that every cluster does.
    pub served: &'a BTreeSet<ObjectKind>,
    /// The time.
    pub now: Timestamp,
}

impl Reconciler<'_> {
    /// The plan for what the hub wants.
    pub fn intent(&self, intent: &Intent) -> Plan {
        match &intent.body {
            Body::Pool(pool) => self.pool(intent, pool),
            Body::Grant(grant) => self.grant(intent, grant),
        }
    }

    /// The plan for an owner that the hub does not know any more.
    pub fn gone(&self, owner: &OwnerRef) -> Option<Plan> {
        let none = ObservedObjects::new();
        let objects = self.index.objects(owner).unwrap_or(&none);
        let namespace = self.index.namespace_of(owner);
        if let Some((name, view)) = namespace
            && view.retained()
        {
            let uid = view.annotations.get(labels::OWNER_UID).map(String::as_str).unwrap_or_default();
            let ownership = Ownership::new(&self.site.hub, owner, uid);
            let strangers = self.index.strangers(name).unwrap_or(&NO_STRANGERS);
            let becoming = self.index.becoming(name);
            let retained = Retained { name, view, objects, strangers, becoming: &becoming, accelerators_in_use: self.accelerators_in_use(name) };
            return Some(grant::plan_retained(self.site, &ownership, retained, self.policy, self.now));
        }
        match self.site.policy.orphans {
            OrphanPolicy::Report => Some(Plan::nothing(SitePhase::Locked, Detail::None)),
            OrphanPolicy::Lock => {
                let uid = namespace.and_then(|(_, view)| view.annotations.get(labels::OWNER_UID)).cloned().unwrap_or_default();
                Some(orphan::lock(self.site, &Ownership::new(&self.site.hub, owner, &uid), objects))
            }
            OrphanPolicy::Delete if owner.kind == Kind::GPUPool => Some(self.orphaned_pool(owner, objects)),
            OrphanPolicy::Delete => Some(orphan::delete(objects)),
        }
    }

    /// Whether Pods with accelerators wait or run in a namespace: as Pods are seen, and as the quota counts them.
    fn accelerators_in_use(&self, namespace: &TenantNamespace) -> bool {
        self.hours.any_living(namespace) || self.index.uses_accelerators(namespace)
    }

    /// A pool's way out is the same with and without its resource: no partition goes while jobs run in it.
    fn orphaned_pool(&self, owner: &OwnerRef, objects: &ObservedObjects) -> Plan {
        let absent = PoolIntent::absent();
        let uid = objects.keys().find_map(|key| self.index.views().get::<NodeSetView>(key)).map(|found| found.owner_uid.clone());
        let intent = Intent {
            version: VERSION,
            owner: owner.clone(),
            uid: uid.unwrap_or_default(),
            generation: 0,
            created: self.now,
            serial: 0,
            body: Body::Pool(absent.clone()),
        };
        self.pool(&intent, &absent)
    }

    /// The plan for what the site has once.
    pub fn factory(&self) -> Plan {
        let none = ObservedObjects::new();
        let view = FactoryView {
            engines: self.engines,
            intents: self.intents,
            objects: self.index.objects(&self.site.factory).unwrap_or(&none),
            views: self.index.views(),
            served: self.served,
        };
        factory::plan(self.site, &view)
    }

    fn grant(&self, intent: &Intent, grant: &GrantIntent) -> Plan {
        let none = ObservedObjects::new();
        let namespace = TenantNamespace::of(&self.site.hub, &intent.owner);
        let view = GrantView {
            engines: self.engines,
            served: self.served,
            namespace: self.index.namespace(&namespace),
            occupied: self.index.is_occupied(&namespace),
            objects: self.index.objects(&intent.owner).unwrap_or(&none),
            strangers: self.index.strangers(&namespace).unwrap_or(&NO_STRANGERS),
            policy: self.policy,
            refused: self.refusals.get(&intent.owner),
            data_lost: self.lost.contains(&intent.owner),
            hours: Some(self.hours.hours(&namespace, self.index, grant, self.now)),
            accelerators_in_use: self.accelerators_in_use(&namespace),
        };
        grant::plan(self.site, intent, grant, &view, self.now)
    }

    fn pool(&self, intent: &Intent, pool: &PoolIntent) -> Plan {
        let none = ObservedObjects::new();
        let objects = self.index.objects(&intent.owner).unwrap_or(&none);
        let view = PoolView {
            engines: self.engines,
            nodes: self.nodes(intent, pool),
            objects,
            views: self.index.views(),
            served: self.served,
            allocated: self.allocated(&intent.owner, pool),
            paused: self.policy.paused,
            now: self.now,
        };
        pool::plan(self.site, intent, pool, view)
    }

    /// The nodes of a pool. One that nobody wants any more is decided beside all others.
    fn nodes(&self, intent: &Intent, pool: &PoolIntent) -> PoolNodes {
        if let Some(nodes) = self.pools.nodes(&intent.owner) {
            return nodes.clone();
        }
        let mut wanted = pools::wanted(self.intents);
        wanted.insert(intent.owner.clone(), pool);
        nodes::assign(&wanted, &self.index.nodes()).remove(&intent.owner).unwrap_or_default()
    }

    /// GPUs of this pool that Pods of grants hold, as quotas count them; `None` where a quota covers several pools.
    fn allocated(&self, owner: &OwnerRef, pool: &PoolIntent) -> Option<i64> {
        let resource = &pool.accelerator.resource_name;
        let mut sum = 0_i64;
        for grantee in self.pools.grants(&owner.name) {
            let Some(Body::Grant(grant)) = self.intents.get(grantee).map(|intent| &intent.body) else { continue };
            // Most grants use nothing at a time.
            let namespaces =
                self.index.objects(grantee).into_iter().flat_map(|objects| objects.keys()).filter(|key| key.kind == ObjectKind::NAMESPACE);
            let used: Vec<_> =
                namespaces.filter_map(|key| self.index.used(&TenantNamespace::new(&key.name))).filter(|used| !used.is_empty()).collect();
            if used.is_empty() {
                continue;
            }
            let same: Vec<_> = grant.pools.iter().filter(|granted| granted.resource == *resource).collect();
            if !same.iter().any(|granted| granted.pool == owner.name) {
                continue;
            }
            let used = used.iter().filter_map(|used| used.get(resource)).fold(0_i64, |sum, used| sum.saturating_add(*used));
            if used > 0 && same.iter().any(|granted| granted.pool != owner.name) {
                return None;
            }
            sum = sum.saturating_add(used);
        }
        Some(sum)
    }
}
