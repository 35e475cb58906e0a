//! The hub's cache: its resources as last seen, with the indexes that keep the cost of a change from growing with what is stored.

mod addresses;
mod counted;
mod hardware;
mod pool_quotas;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::factory::Site;
use aifactory_api::grant::GrantState;
use aifactory_api::pool::Consumer;
use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::known_sites::KnownSites;
use crate::model::quota::{Amount, Claim, Position};
use crate::model::site_key::SiteKey;
use crate::model::visits::Visits;
use addresses::Addresses;
use counted::Counted;
use hardware::Hardware;
use pool_quotas::PoolQuotas;

pub use crate::model::quota::Refused;
pub(super) use hardware::SiteHardware;

/// All resources of the hub, as last seen.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    /// The parts of sites that may hold something of this hub.
    pub known: KnownSites,
    factories: BTreeMap<OwnerRef, Arc<AIFactory>>,
    pools: BTreeMap<OwnerRef, Arc<GPUPool>>,
    grants: BTreeMap<OwnerRef, Arc<AccessGrant>>,
    undecodable: BTreeSet<OwnerRef>,
    pools_of_factory: BTreeMap<OwnerRef, BTreeSet<OwnerRef>>,
    grants_of_pool: BTreeMap<OwnerRef, BTreeSet<OwnerRef>>,
    grants_of_factory: BTreeMap<OwnerRef, BTreeSet<OwnerRef>>,
    addresses: Addresses,
    /// Grants that may give access, by pool.
    living_of_pool: BTreeMap<OwnerRef, BTreeSet<OwnerRef>>,
    /// Grants that may give access, by the factory that grants and by those of their pools.
    living_at_factory: BTreeMap<OwnerRef, Counted<OwnerRef>>,
    /// Namespaces of grants that may give access.
    living_namespaces: Counted<String>,
    hardware: BTreeMap<OwnerRef, Hardware>,
    /// Namespaces that consume pools of a factory.
    consumers: BTreeMap<OwnerRef, Counted<String>>,
    quotas: BTreeMap<OwnerRef, PoolQuotas>,
    /// When the next claim ends in each pool.
    ends: BTreeSet<(Timestamp, OwnerRef)>,
    clock: Option<Timestamp>,
    visits: Visits,
}

/// The factory that a pool belongs to.
pub fn factory_of_pool(pool: &OwnerRef, spec: &GPUPool) -> OwnerRef {
    OwnerRef::new(Kind::AIFactory, &pool.namespace, &spec.spec.factory_ref.name)
}

/// The factory that grants a grant.
pub fn factory_of_grant(grant: &OwnerRef, spec: &AccessGrant) -> OwnerRef {
    OwnerRef::new(Kind::AIFactory, &grant.namespace, &spec.spec.factory_ref.name)
}

/// The pools that a grant names, in its order.
pub fn pools_of_grant(grant: &OwnerRef, spec: &AccessGrant) -> Vec<OwnerRef> {
    spec.spec
        .pools
        .iter()
        .map(|entry| {
            let namespace = entry.pool_ref.namespace.as_deref().unwrap_or(&grant.namespace);
            OwnerRef::new(Kind::GPUPool, namespace, &entry.pool_ref.name)
        })
        .collect()
}

/// When an object was created; the earliest time where that is missing. Where a cap is short, earlier ones come first.
pub fn created(metadata: &ObjectMeta) -> Timestamp {
    metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

impl Cache {
    /// How many items its lookups have passed over.
    pub fn visits(&self) -> &Visits {
        &self.visits
    }

    /// Stores that a resource is there and can not be decoded. What was known of it before stays.
    pub fn put_undecodable(&mut self, owner: OwnerRef) {
        self.undecodable.insert(owner);
    }

    /// Whether the resource is there and can not be read.
    pub fn is_undecodable(&self, owner: &OwnerRef) -> bool {
        self.undecodable.contains(owner)
    }

    /// Stores a factory.
    pub fn put_factory(&mut self, owner: OwnerRef, factory: Arc<AIFactory>) {
        self.undecodable.remove(&owner);
        self.factories.insert(owner, factory);
    }

    /// Stores a pool.
    pub fn put_pool(&mut self, owner: OwnerRef, pool: Arc<GPUPool>) {
        self.undecodable.remove(&owner);
        let before = self.pools.insert(owner.clone(), pool.clone());
        if before.as_ref().is_some_and(|before| before.spec == pool.spec) {
            return;
        }
        if let Some(before) = before {
            self.unlink_pool(&owner, &before);
        }
        self.link_pool(&owner, &pool);
    }

    /// Stores a grant; returns the grants that share a cap or addresses with it and for which the decision has changed.
    pub fn put_grant(&mut self, owner: OwnerRef, grant: Arc<AccessGrant>) -> BTreeSet<OwnerRef> {
        self.undecodable.remove(&owner);
        let before = self.grants.remove(&owner);
        if let Some(before) = &before {
            self.unlink_grant(&owner, before);
        }
        self.link_grant(&owner, &grant);
        let mut changed = self.claim(&owner, before.as_deref(), Some(&grant));
        changed.extend(self.name_addresses(&owner, before.as_deref(), Some(&grant)));
        self.grants.insert(owner, grant);
        changed
    }

    /// Forgets a resource; returns the grants that shared a cap or addresses with it and for which the decision has changed.
    pub fn remove(&mut self, owner: &OwnerRef) -> BTreeSet<OwnerRef> {
        self.undecodable.remove(owner);
        match owner.kind {
            Kind::AIFactory => {
                self.factories.remove(owner);
            }
            Kind::GPUPool => {
                if let Some(pool) = self.pools.remove(owner) {
                    self.unlink_pool(owner, &pool);
                }
            }
            Kind::AccessGrant => {
                if let Some(grant) = self.grants.remove(owner) {
                    self.unlink_grant(owner, &grant);
                    let mut changed = self.claim(owner, Some(&grant), None);
                    changed.extend(self.name_addresses(owner, Some(&grant), None));
                    return changed;
                }
            }
        }
        BTreeSet::new()
    }

    /// Advances the time: grants that have ended hold nothing of their consumer's cap any more. Returns the grants for which the decision has
    /// changed.
    pub fn advance(&mut self, now: Timestamp) -> BTreeSet<OwnerRef> {
        self.clock = self.clock.max(Some(now));
        let mut changed = BTreeSet::new();
        while let Some((_, pool)) = self.ends.first().filter(|(end, _)| *end <= now).cloned() {
            changed.extend(self.with_quotas(&pool, |quotas| quotas.advance(now)));
        }
        changed
    }

    /// When the next grant ends: see [`Cache::advance`].
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// A factory.
    pub fn factory(&self, owner: &OwnerRef) -> Option<&Arc<AIFactory>> {
        self.factories.get(owner)
    }

    /// A pool.
    pub fn pool(&self, owner: &OwnerRef) -> Option<&Arc<GPUPool>> {
        self.pools.get(owner)
    }

    /// A grant.
    pub fn grant(&self, owner: &OwnerRef) -> Option<&Arc<AccessGrant>> {
        self.grants.get(owner)
    }

    /// Whether the resource exists.
    pub fn contains(&self, owner: &OwnerRef) -> bool {
        match owner.kind {
            Kind::AIFactory => self.factories.contains_key(owner),
            Kind::GPUPool => self.pools.contains_key(owner),
            Kind::AccessGrant => self.grants.contains_key(owner),
        }
    }

    /// All factories.
    pub fn factories(&self) -> impl Iterator<Item = (&OwnerRef, &Arc<AIFactory>)> {
        self.visits.of(self.factories.iter())
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = (&OwnerRef, &Arc<GPUPool>)> {
        self.visits.of(self.pools.iter())
    }

    /// All grants.
    pub fn grants(&self) -> impl Iterator<Item = (&OwnerRef, &Arc<AccessGrant>)> {
        self.visits.of(self.grants.iter())
    }

    /// The pools of a factory.
    pub fn pools_of(&self, factory: &OwnerRef) -> impl Iterator<Item = &OwnerRef> {
        self.visits.of(self.pools_of_factory.get(factory).into_iter().flatten())
    }

    /// The grants that name a pool.
    pub fn grants_of(&self, pool: &OwnerRef) -> impl Iterator<Item = &OwnerRef> {
        self.visits.of(self.grants_of_pool.get(pool).into_iter().flatten())
    }

    /// The grants that a factory grants.
    pub fn grants_by(&self, factory: &OwnerRef) -> impl Iterator<Item = &OwnerRef> {
        self.visits.of(self.grants_of_factory.get(factory).into_iter().flatten())
    }

    /// How many grants a factory grants.
    pub fn count_grants_by(&self, factory: &OwnerRef) -> usize {
        self.grants_of_factory.get(factory).map_or(0, BTreeSet::len)
    }

    /// How many grants name a pool and may still give access somewhere.
    pub fn count_living_grants_of(&self, pool: &OwnerRef) -> usize {
        self.living_of_pool.get(pool).map_or(0, BTreeSet::len)
    }

    /// How many grants name a factory or one of its pools and may still give access somewhere.
    pub fn count_living_grants_at(&self, factory: &OwnerRef) -> usize {
        self.living_at_factory.get(factory).map_or(0, Counted::len)
    }

    /// The namespaces of grants that may still give access somewhere.
    pub fn living_namespaces(&self) -> BTreeSet<String> {
        self.visits.of(self.living_namespaces.iter()).cloned().collect()
    }

    /// Whether a grant that was created before this one names a range as its own that overlaps `cidr` and is `usable`.
    pub fn is_taken(&self, cidr: &str, owner: &OwnerRef, grant: &AccessGrant, usable: impl Fn(&str) -> bool) -> bool {
        let own = (created(&grant.metadata), owner.clone());
        let overlapping = self.addresses.overlapping(cidr, &self.visits);
        overlapping.into_iter().any(|(range, others)| others.first().is_some_and(|first| *first < own) && usable(&range.to_string()))
    }

    /// A site of a factory.
    pub fn site(&self, key: &SiteKey) -> Option<&Site> {
        self.factories.get(&key.factory)?.spec.sites.iter().find(|site| site.name == key.site)
    }

    /// What the pools of its factory have at a site.
    pub(super) fn hardware(&self, key: &SiteKey) -> Option<&SiteHardware> {
        self.hardware.get(&key.factory)?.at(&key.site)
    }

    /// Whether a pool of the factory may be used from a namespace as one of its consumers.
    pub fn is_consumed_from(&self, factory: &OwnerRef, namespace: &str) -> bool {
        self.consumers.get(factory).is_some_and(|namespaces| namespaces.contains(namespace))
    }

    /// Canonical GPU-hours of a pool that grants hold which have not ended.
    pub fn committed(&self, pool: &OwnerRef, now: Timestamp) -> i64 {
        self.quotas.get(pool).map_or(0, |quotas| quotas.committed(now))
    }

    /// Why a grant does not fit into the share of a consumer of a pool.
    pub fn over_quota(&self, owner: &OwnerRef, pool: &OwnerRef, consumer: &Consumer, now: Timestamp) -> Option<Refused> {
        let grant = self.grants.get(owner)?;
        self.quotas.get(pool)?.refusal(consumer, &(created(&grant.metadata), owner.clone()), now)
    }

    /// When the clock next changes what a grant may have of the share of a consumer of a pool.
    pub fn next_quota_change(&self, owner: &OwnerRef, pool: &OwnerRef, consumer: &Consumer, now: Timestamp) -> Option<Timestamp> {
        let grant = self.grants.get(owner)?;
        self.quotas.get(pool)?.next_change(consumer, &(created(&grant.metadata), owner.clone()), now)
    }

    fn link_pool(&mut self, owner: &OwnerRef, pool: &GPUPool) {
        let factory = factory_of_pool(owner, pool);
        let namespaces = pool.spec.consumers.iter().flat_map(|consumer| &consumer.namespaces.names);
        if !pool.spec.consumers.is_empty() {
            let consumers = self.consumers.entry(factory.clone()).or_default();
            namespaces.for_each(|namespace| consumers.add(namespace.clone()));
        }
        self.hardware.entry(factory.clone()).or_default().add(pool);
        for grant in self.living_of_pool.get(owner).into_iter().flatten() {
            self.visits.add(1);
            self.living_at_factory.entry(factory.clone()).or_default().add(grant.clone());
        }
        self.pools_of_factory.entry(factory).or_default().insert(owner.clone());
        let mut quotas = PoolQuotas::of(pool, self.clock.unwrap_or(Timestamp::MIN), &self.visits);
        for grant in self.grants_of_pool.get(owner).into_iter().flatten() {
            self.visits.add(1);
            if let Some(spec) = self.grants.get(grant) {
                quotas.set(&(created(&spec.metadata), grant.clone()), claim(grant, spec, owner));
            }
        }
        self.ends.extend(quotas.next_end().map(|end| (end, owner.clone())));
        self.quotas.insert(owner.clone(), quotas);
    }

    fn unlink_pool(&mut self, owner: &OwnerRef, pool: &GPUPool) {
        let factory = factory_of_pool(owner, pool);
        if let Some(consumers) = self.consumers.get_mut(&factory) {
            let namespaces = pool.spec.consumers.iter().flat_map(|consumer| &consumer.namespaces.names);
            namespaces.for_each(|namespace| consumers.remove(namespace));
            if consumers.is_empty() {
                self.consumers.remove(&factory);
            }
        }
        if let Some(hardware) = self.hardware.get_mut(&factory) {
            hardware.remove(pool);
            if hardware.is_empty() {
                self.hardware.remove(&factory);
            }
        }
        for grant in self.living_of_pool.get(owner).into_iter().flatten() {
            self.visits.add(1);
            take_counted(&mut self.living_at_factory, &factory, grant);
        }
        take(&mut self.pools_of_factory, &factory, owner);
        if let Some(end) = self.quotas.remove(owner).and_then(|quotas| quotas.next_end()) {
            self.ends.remove(&(end, owner.clone()));
        }
    }

    fn link_grant(&mut self, owner: &OwnerRef, grant: &AccessGrant) {
        let living = grant.may_give_access();
        for pool in pools_of_grant(owner, grant) {
            if self.grants_of_pool.entry(pool.clone()).or_default().insert(owner.clone()) && living {
                self.living_of_pool.entry(pool.clone()).or_default().insert(owner.clone());
                if let Some(spec) = self.pools.get(&pool) {
                    self.living_at_factory.entry(factory_of_pool(&pool, spec)).or_default().add(owner.clone());
                }
            }
        }
        let factory = factory_of_grant(owner, grant);
        if living {
            self.living_at_factory.entry(factory.clone()).or_default().add(owner.clone());
            self.living_namespaces.add(owner.namespace.clone());
        }
        self.grants_of_factory.entry(factory).or_default().insert(owner.clone());
    }

    fn unlink_grant(&mut self, owner: &OwnerRef, grant: &AccessGrant) {
        let living = grant.may_give_access();
        for pool in pools_of_grant(owner, grant).into_iter().collect::<BTreeSet<_>>() {
            take(&mut self.grants_of_pool, &pool, owner);
            take(&mut self.living_of_pool, &pool, owner);
            if let Some(spec) = self.pools.get(&pool).filter(|_| living) {
                take_counted(&mut self.living_at_factory, &factory_of_pool(&pool, spec), owner);
            }
        }
        let factory = factory_of_grant(owner, grant);
        if living {
            take_counted(&mut self.living_at_factory, &factory, owner);
            self.living_namespaces.remove(&owner.namespace);
        }
        take(&mut self.grants_of_factory, &factory, owner);
    }

    /// Stores in the quotas of its pools what a grant claims now instead of what it claimed before.
    fn claim(&mut self, owner: &OwnerRef, before: Option<&AccessGrant>, after: Option<&AccessGrant>) -> BTreeSet<OwnerRef> {
        let pools = |grant: Option<&AccessGrant>| grant.map(|grant| pools_of_grant(owner, grant)).unwrap_or_default();
        let position = |grant: &AccessGrant| (created(&grant.metadata), owner.clone());
        let mut changed = BTreeSet::new();
        for pool in pools(before).into_iter().chain(pools(after)).collect::<BTreeSet<_>>() {
            let former = before.map(position).filter(|former| Some(former) != after.map(position).as_ref());
            let claims = former.map(|former| (former, None)).into_iter().chain(after.map(|grant| (position(grant), claim(owner, grant, &pool))));
            let claims: Vec<(Position, Option<Claim>)> = claims.collect();
            changed.extend(self.with_quotas(&pool, |quotas| claims.iter().flat_map(|(position, claim)| quotas.set(position, *claim)).collect()));
        }
        changed.remove(owner);
        changed
    }

    /// Stores which addresses a grant names as its own now instead of those of before; gives the others that name some of them.
    fn name_addresses(&mut self, owner: &OwnerRef, before: Option<&AccessGrant>, after: Option<&AccessGrant>) -> BTreeSet<OwnerRef> {
        let of = |grant: &AccessGrant| ((created(&grant.metadata), owner.clone()), addresses::named(grant));
        let (before, after) = (before.map(of), after.map(of));
        if before == after {
            return BTreeSet::new();
        }
        let mut changed = BTreeSet::new();
        for range in before.iter().chain(&after).flat_map(|(_, ranges)| ranges) {
            let sharing = self.addresses.sharing(*range, &self.visits);
            changed.extend(sharing.into_iter().flat_map(|(_, positions)| positions).map(|(_, other)| other.clone()));
        }
        if let Some((position, ranges)) = before {
            self.addresses.remove(&position, &ranges);
        }
        if let Some((position, ranges)) = after {
            self.addresses.add(&position, &ranges);
        }
        changed.remove(owner);
        changed
    }

    /// Changes the quotas of a pool, and takes note of when they change next by the clock.
    fn with_quotas(&mut self, pool: &OwnerRef, change: impl FnOnce(&mut PoolQuotas) -> BTreeSet<OwnerRef>) -> BTreeSet<OwnerRef> {
        let Some(quotas) = self.quotas.get_mut(pool) else { return BTreeSet::new() };
        let before = quotas.next_end();
        let changed = change(quotas);
        let after = quotas.next_end();
        if before != after {
            before.map(|end| self.ends.remove(&(end, pool.clone())));
            self.ends.extend(after.map(|end| (end, pool.clone())));
        }
        changed
    }
}

/// What a grant claims of a pool while it holds its share: until it ends, is revoked or is deleted.
fn claim(owner: &OwnerRef, grant: &AccessGrant, pool: &OwnerRef) -> Option<Claim> {
    if grant.metadata.deletion_timestamp.is_some() || grant.spec.state == GrantState::Revoked {
        return None;
    }
    let mut entries = grant.spec.pools.iter().zip(pools_of_grant(owner, grant)).filter(|(_, named)| named == pool).peekable();
    entries.peek()?;
    let amount = entries.fold(Amount::default(), |sum, (entry, _)| Amount {
        hours: sum.hours + i128::from(entry.gpu_hours),
        gpus: sum.gpus + i128::from(entry.max_gpus),
    });
    Some(Claim { amount, until: grant.spec.not_after.0 })
}

fn take(index: &mut BTreeMap<OwnerRef, BTreeSet<OwnerRef>>, key: &OwnerRef, value: &OwnerRef) {
    if let Some(set) = index.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            index.remove(key);
        }
    }
}

fn take_counted(index: &mut BTreeMap<OwnerRef, Counted<OwnerRef>>, key: &OwnerRef, value: &OwnerRef) {
    if let Some(set) = index.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            index.remove(key);
        }
    }
}
