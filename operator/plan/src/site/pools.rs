//! What the pools of a site share: its nodes, which are assigned for all of them at once, and which grants are in each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::{Kind, OwnerRef};

use super::index::Index;
use crate::engine::nodes::{self, PoolNodes};
use crate::model::intent::{Body, Intent, PoolIntent};

/// The pools of a site, updated as intents and nodes change.
#[derive(Debug, Default)]
pub struct Pools {
    /// Which nodes each has; `None`: not decided since pools or nodes have changed.
    assigned: Option<BTreeMap<OwnerRef, PoolNodes>>,
    /// The assignment before they changed.
    before: BTreeMap<OwnerRef, PoolNodes>,
    /// Grants by name of the pool.
    grants: BTreeMap<String, BTreeSet<OwnerRef>>,
    /// Names of the pools of each grant.
    of_grants: BTreeMap<OwnerRef, BTreeSet<String>>,
}

impl Pools {
    /// Stores the intent for a pool or grant; `None`: there is none any more.
    pub fn set(&mut self, owner: &OwnerRef, intent: Option<&Intent>) {
        match owner.kind {
            Kind::GPUPool => self.invalidate(),
            Kind::AccessGrant => self.set_grant(owner, intent),
            Kind::AIFactory => {}
        }
    }

    fn set_grant(&mut self, owner: &OwnerRef, intent: Option<&Intent>) {
        let named: BTreeSet<String> = match intent.map(|intent| &intent.body) {
            Some(Body::Grant(grant)) => grant.pools.iter().map(|pool| pool.pool.clone()).collect(),
            Some(Body::Pool(_)) | None => BTreeSet::new(),
        };
        for pool in self.of_grants.remove(owner).into_iter().flatten() {
            if let Some(grants) = self.grants.get_mut(&pool) {
                grants.remove(owner);
                if grants.is_empty() {
                    self.grants.remove(&pool);
                }
            }
        }
        for pool in &named {
            self.grants.entry(pool.clone()).or_default().insert(owner.clone());
        }
        if !named.is_empty() {
            self.of_grants.insert(owner.clone(), named);
        }
    }

    /// Nodes have changed: they are assigned again before a pool is planned again.
    pub fn invalidate(&mut self) {
        if let Some(assigned) = self.assigned.take() {
            self.before = assigned;
        }
    }

    /// Assigns nodes to pools; returns the pools whose nodes have changed, or `None` where the assignment was up to date.
    pub fn assign(&mut self, intents: &BTreeMap<OwnerRef, Arc<Intent>>, index: &Index) -> Option<BTreeSet<OwnerRef>> {
        if self.assigned.is_some() {
            return None;
        }
        let assigned = nodes::assign(&wanted(intents), &index.nodes());
        let before = std::mem::take(&mut self.before);
        let changed = assigned.iter().filter(|(owner, nodes)| before.get(*owner) != Some(nodes)).map(|(owner, _)| owner.clone()).collect();
        self.assigned = Some(assigned);
        Some(changed)
    }

    /// The nodes of a pool; `None`: not decided.
    pub fn nodes(&self, owner: &OwnerRef) -> Option<&PoolNodes> {
        self.assigned.as_ref()?.get(owner)
    }

    /// The grants that are in a pool of this name.
    pub fn grants(&self, pool: &str) -> impl Iterator<Item = &OwnerRef> {
        self.grants.get(pool).into_iter().flatten()
    }
}

/// The intents of pools, without those of grants.
pub fn wanted(intents: &BTreeMap<OwnerRef, Arc<Intent>>) -> BTreeMap<OwnerRef, &PoolIntent> {
    let first = OwnerRef::new(Kind::GPUPool, "", "");
    let pools = intents.range(first..).take_while(|(owner, _)| owner.kind == Kind::GPUPool);
    pools
        .filter_map(|(owner, intent)| match &intent.body {
            Body::Pool(pool) => Some((owner.clone(), pool)),
            Body::Grant(_) => None,
        })
        .collect()
}
