//! A grant at each of its sites.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::{AIFactory, Site};
use aifactory_api::grant::{AccessGrant, GrantState, MemberState};
use aifactory_api::pool::{GPUPool, PlacementState, PoolSite};
use aifactory_api::{Kind, OwnerRef, Reason};
use jiff::Timestamp;

use super::age::created;
use super::authorise::authorise;
use super::{residency, share};
use crate::engine::network;
use crate::hub::ledger::{Former, Ledger, Recalled};
use crate::hub::world::{World, factory_of_pool, pools_of_grant};
use crate::model::budget;
use crate::model::duration;
use crate::model::intent::{
    Body, Budget, CrossSiteIntent, Desired, EgressIntent, End, GrantIntent, GrantPoolIntent, Intent, MemberCaps, MemberIntent, Refusal, VERSION,
};
use crate::model::site_key::{Part, SiteKey};

/// A grant's intents, and what was decided about it on the hub.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantProjection {
    /// Intents, by site.
    pub sites: BTreeMap<SiteKey, Intent>,
    /// The sites that pools and grant name, whether or not the grant may be there.
    pub placed: BTreeSet<SiteKey>,
    /// What spec and clock ask for, authorisation aside.
    pub asked: Asked,
    /// Why it can not be, or not everywhere.
    pub problems: Vec<Refusal>,
    /// When the clock changes what is asked for.
    pub wake: Option<Timestamp>,
    /// Something that the grant names is missing: what sites hold stays as it is until a person decides.
    pub unresolved: bool,
}

/// What spec and clock ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Before `notBefore`.
    Scheduled,
    /// In force.
    Active,
    /// Paused by `spec.state`.
    Paused,
    /// After `notAfter`.
    Expired,
    /// Revoked by `spec.state`.
    Revoked,
    /// The resource is being deleted.
    Deleted,
}

impl Asked {
    /// What `grant` asks for at `now`.
    pub fn of(grant: &AccessGrant, now: Timestamp) -> Self {
        if grant.metadata.deletion_timestamp.is_some() {
            Asked::Deleted
        } else if grant.spec.state == GrantState::Revoked {
            Asked::Revoked
        } else if grant.spec.not_after.0 <= now {
            Asked::Expired
        } else if grant.spec.not_before.0 > now {
            Asked::Scheduled
        } else if grant.spec.state == GrantState::Paused {
            Asked::Paused
        } else {
            Asked::Active
        }
    }

    /// Whether access is over.
    pub fn ended(self) -> bool {
        matches!(self, Asked::Expired | Asked::Revoked | Asked::Deleted)
    }

    fn desired(self, grant: &AccessGrant) -> Desired {
        let ended = |because, message: String, at| Desired::Ended { because, message, at };
        match self {
            Asked::Scheduled => Desired::Scheduled,
            Asked::Active => Desired::Bound,
            Asked::Paused => Desired::Paused,
            Asked::Expired => {
                let until = grant.spec.not_after.0;
                ended(Reason::Expired, format!("the grant ended at {until}"), Some(until))
            }
            Asked::Revoked => ended(Reason::Revoked, "the grant was revoked".to_owned(), None),
            Asked::Deleted => ended(Reason::Deleting, "the grant was deleted".to_owned(), None),
        }
    }
}

/// Projects a grant as if nothing of its budget was given out before. `holders` are sites that hold something of it, whether or not it names them.
pub fn grant(world: &World, owner: &OwnerRef, holders: &BTreeSet<SiteKey>, now: Timestamp) -> Option<GrantProjection> {
    grant_within(world, owner, holders, None, now)
}

/// Projects a grant, and lets its account decide what each Slurm site is told of the budget. Without an account each is told its part by spec.
pub fn grant_within(
    world: &World,
    owner: &OwnerRef,
    holders: &BTreeSet<SiteKey>,
    mut ledger: Option<&mut Ledger>,
    now: Timestamp,
) -> Option<GrantProjection> {
    let grant = world.grant(owner)?;
    let asked = Asked::of(grant, now);
    let mut projection = GrantProjection {
        sites: BTreeMap::new(),
        placed: BTreeSet::new(),
        asked,
        problems: Vec::new(),
        wake: [grant.spec.not_before.0, grant.spec.not_after.0].into_iter().filter(|at| *at > now).min(),
        unresolved: false,
    };
    let issuer = OwnerRef::new(Kind::AIFactory, &owner.namespace, &grant.spec.factory_ref.name);
    if world.factory(&issuer).is_none() {
        projection.unresolved = true;
        projection.problems.push(refusal(
            Reason::FactoryNotFound,
            format!("spec.factoryRef: there is no AIFactory {} in namespace {}", issuer.name, issuer.namespace),
        ));
    }
    let mut placements: BTreeMap<SiteKey, Placement> = BTreeMap::new();
    for (entry, pool_ref) in grant.spec.pools.iter().zip(pools_of_grant(owner, grant)) {
        let Some(pool) = world.pool(&pool_ref) else {
            projection.unresolved = true;
            projection.problems.push(refusal(
                Reason::PoolNotFound,
                format!("pools[{}].poolRef: there is no GPUPool {} in namespace {}", entry.name, pool_ref.name, pool_ref.namespace),
            ));
            continue;
        };
        let factory_ref = factory_of_pool(&pool_ref, pool);
        if world.factory(&factory_ref).is_none() {
            projection.unresolved = true;
            projection.problems.push(refusal(
                Reason::FactoryNotFound,
                format!("GPUPool {}: there is no AIFactory {} in namespace {}", pool_ref.name, factory_ref.name, factory_ref.namespace),
            ));
            continue;
        }
        if let Some(until) = pool.spec.consumers.iter().filter_map(|consumer| consumer.not_after.as_ref()).map(|at| at.0).filter(|at| *at > now).min()
        {
            projection.wake = Some(projection.wake.map_or(until, |wake| wake.min(until)));
        }
        let allowed = authorise(world, owner, entry, &pool_ref, pool, now);
        if let Err(denied) = &allowed {
            projection.problems.push(denied.refusal.clone());
        }
        for chosen in &entry.sites {
            if !pool.spec.sites.iter().any(|site| site.name == chosen.name) {
                projection.problems.push(refusal(
                    Reason::SiteNotFound,
                    format!("pools[{}].sites: GPUPool {} is not at site {:?}", entry.name, pool_ref.name, chosen.name),
                ));
            }
        }
        let chosen: Vec<&PoolSite> =
            pool.spec.sites.iter().filter(|site| entry.sites.is_empty() || entry.sites.iter().any(|chosen| chosen.name == site.name)).collect();
        let weights = chosen
            .iter()
            .map(|site| {
                let own = entry.sites.iter().find(|chosen| chosen.name == site.name).and_then(|chosen| chosen.max_gpus);
                (site.name.clone(), (own, site.count.map_or(1, i64::from)))
            })
            .collect();
        let shares = share::split(entry.max_gpus, &weights);
        let accounting = pool.spec.accounting;
        let total = budget::device_minutes(entry.gpu_hours, accounting);
        let hours = chosen
            .iter()
            .map(|site| {
                let own = entry.sites.iter().find(|chosen| chosen.name == site.name).and_then(|chosen| chosen.gpu_hours);
                (site.name.clone(), (own.map(|own| budget::device_minutes(own, accounting)), site.count.map_or(1, i64::from)))
            })
            .collect();
        let parts = share::split(total, &hours);
        let part_of = |site: &PoolSite| parts.get(&site.name).copied().unwrap_or_default();
        let slurm = pool.spec.slurm.as_ref();
        let key_of = |site: &PoolSite| match slurm {
            Some(_) => SiteKey::slurm(factory_ref.clone(), &site.name),
            None => SiteKey::new(factory_ref.clone(), &site.name),
        };
        let told = match ledger.as_deref_mut() {
            Some(ledger) => {
                let wanted: BTreeMap<SiteKey, i64> = chosen.iter().map(|site| (key_of(site), part_of(site))).collect();
                let part = if slurm.is_some() { Part::Slurm } else { Part::Kubernetes };
                let recalled = recalled(world, grant, owner, (&factory_ref, part), &entry.name, &wanted);
                ledger.settle(&entry.name, total, &wanted, &recalled)
            }
            None => BTreeMap::new(),
        };
        for placed in chosen {
            let key = key_of(placed);
            let Some(site) = world.site(&key) else {
                projection.problems.push(refusal(
                    Reason::SiteNotFound,
                    format!("GPUPool {}: AIFactory {} has no site {:?}", pool_ref.name, factory_ref.name, placed.name),
                ));
                continue;
            };
            if let Some(lacking) = lacking(&key, site, &pool_ref.name) {
                projection.problems.push(lacking);
                continue;
            }
            projection.placed.insert(key.clone());
            let (device_minutes, serial) = told.get(&key).copied().unwrap_or((part_of(placed), 0));
            let placement = placements.entry(key).or_default();
            placement.pools.push(GrantPoolIntent {
                pool: pool_ref.name.clone(),
                resource: pool.spec.accelerator.resource_name.clone(),
                max_gpus: shares.get(&placed.name).copied().unwrap_or_default(),
                per_gpu: pool.spec.per_gpu,
                open: placed.state == PlacementState::Active,
                entry: entry.name.clone(),
                budget: Budget { device_minutes, accounting, serial },
                partition: slurm.map(|slurm| placed.slurm.as_ref().map_or(&slurm.partition, |own| &own.partition).clone()),
            });
            if let Err(denied) = &allowed {
                let slot = if denied.revokes { &mut placement.refused } else { &mut placement.only_if_held };
                slot.get_or_insert_with(|| denied.refusal.clone());
            }
            placement.restrict(grant, pool, site, placed);
        }
    }
    for (key, placement) in &placements {
        if let Some(refused) = &placement.refused
            && !projection.problems.contains(refused)
        {
            projection.problems.push(refused.clone());
        }
        let factory = world.factory(&key.factory);
        let Some(factory) = factory.filter(|_| world.site(key).is_some()) else { continue };
        projection.sites.insert(key.clone(), placement.intent(world, owner, grant, key, factory, asked));
    }
    for key in holders {
        projection.sites.entry(key.clone()).or_insert_with(|| {
            let desired = if asked.ended() {
                asked.desired(grant)
            } else {
                Desired::Ended { because: Reason::PlacementRemoved, message: format!("the grant is not placed at {} any more", key.site), at: None }
            };
            let pools = counted(world, owner, grant, key, ledger.as_deref());
            make(owner, grant, GrantIntent { desired, pools, ..skeleton(grant) })
        });
    }
    if projection.unresolved && !asked.ended() {
        projection.sites.clear();
    } else if let Some(ledger) = ledger {
        ledger.retain(&grant.spec.pools.iter().map(|entry| entry.name.as_str()).collect());
    }
    Some(projection)
}

/// What the site lacks that a pool of this engine needs there.
fn lacking(key: &SiteKey, site: &Site, pool: &str) -> Option<Refusal> {
    match key.part {
        Part::Kubernetes if site.kubernetes.is_none() => {
            Some(refusal(Reason::EngineMissing, format!("site {} has no Kubernetes, which GPUPool {pool} needs", site.name)))
        }
        Part::Slurm if site.slurm.as_ref().is_none_or(|slurm| slurm.rest.is_none()) => Some(refusal(
            Reason::BudgetNotEnforceable,
            format!(
                "GPUPool {pool} is a Slurm partition, and site {0} names no REST of its Slurm, without which no budget is enforced; add sites[].slurm.rest \
                 to site {0} of AIFactory {1}",
                site.name, key.factory.name
            ),
        )),
        Part::Kubernetes | Part::Slurm => None,
    }
}

/// The pools of which a Kubernetes site has nothing to give any more, and goes on telling what was used.
fn counted(world: &World, owner: &OwnerRef, grant: &AccessGrant, key: &SiteKey, ledger: Option<&Ledger>) -> Vec<GrantPoolIntent> {
    let named = grant.spec.pools.iter().zip(pools_of_grant(owner, grant)).filter(|_| key.part == Part::Kubernetes);
    named
        .filter_map(|(entry, pool)| {
            let pool = world.pool(&pool).filter(|pool| pool.spec.slurm.is_none())?;
            let (device_minutes, serial) = ledger.map(|ledger| ledger.told(&entry.name, key)).unwrap_or_default();
            Some(GrantPoolIntent {
                pool: entry.pool_ref.name.clone(),
                resource: pool.spec.accelerator.resource_name.clone(),
                max_gpus: 0,
                per_gpu: pool.spec.per_gpu,
                open: false,
                entry: entry.name.clone(),
                budget: Budget { device_minutes, accounting: pool.spec.accounting, serial },
                partition: None,
            })
        })
        .collect()
}

/// What status says of the limits that the sites of a pool's factory had in force, and of what was used there.
fn recalled(
    world: &World,
    grant: &AccessGrant,
    owner: &OwnerRef,
    (factory, part): (&OwnerRef, Part),
    entry: &str,
    wanted: &BTreeMap<SiteKey, i64>,
) -> BTreeMap<SiteKey, Recalled> {
    let Some(status) = &grant.status else { return BTreeMap::new() };
    let generation = grant.metadata.generation.unwrap_or_default();
    let same = status.observed_generation == Some(generation);
    let sites = world.factory(factory).map(|factory| factory.spec.sites.as_slice()).unwrap_or_default();
    sites
        .iter()
        .map(|site| SiteKey { part, ..SiteKey::new(factory.clone(), &site.name) })
        .filter_map(|key| {
            let name = key.display(&owner.namespace);
            let row = status.sites.iter().find(|row| row.name == name)?;
            let pods = part == Part::Kubernetes;
            let budget = row.budgets.iter().find(|budget| budget.name == entry && budget::part_of(budget) == part);
            if same && budget.is_none() && !wanted.contains_key(&key) {
                // The row is there for something else.
                return None;
            }
            let former = match budget.and_then(|budget| budget.limit) {
                Some(limit) if same => Former::Limit(limit),
                None if same && generation <= 1 && (budget.is_none() || !pods) => Former::Part,
                // A lower part may end Pods: none is told for want of knowledge.
                limit if pods => Former::Unsure(limit.max(wanted.get(&key).copied())),
                limit => Former::Unsure(limit),
            };
            Some((key, Recalled { former, used: budget.and_then(|budget| budget.used).unwrap_or(0) }))
        })
        .collect()
}

#[derive(Default)]
struct Placement {
    pools: Vec<GrantPoolIntent>,
    refused: Option<Refusal>,
    only_if_held: Option<Refusal>,
}

impl Placement {
    fn restrict(&mut self, grant: &AccessGrant, pool: &GPUPool, site: &Site, placed: &PoolSite) {
        let pool_name = pool.metadata.name.as_deref().unwrap_or_default();
        if !residency::allows(&grant.spec.data.residency, &site.country) {
            self.refused.get_or_insert_with(|| {
                refusal(
                    Reason::ResidencyNotAllowed,
                    format!("data.residency allows {}, and site {} is in {}", grant.spec.data.residency.join(", "), site.name, site.country),
                )
            });
        }
        let early = grant.spec.early_access;
        if placed.state == PlacementState::Draining || pool.metadata.deletion_timestamp.is_some() {
            self.only_if_held.get_or_insert_with(|| refusal(Reason::Draining, format!("GPUPool {pool_name} is being drained at site {}", site.name)));
        } else if !(pool.spec.stage.admits(early) && site.stage.admits(early)) {
            self.only_if_held.get_or_insert_with(|| {
                refusal(
                    Reason::StageNotReady,
                    format!(
                        "GPUPool {pool_name} is in stage {:?} and site {} in {:?}; grants bind in Production, and with earlyAccess in EarlyAccess",
                        pool.spec.stage, site.name, site.stage
                    ),
                )
            });
        }
    }

    fn intent(&self, world: &World, owner: &OwnerRef, grant: &AccessGrant, key: &SiteKey, factory: &AIFactory, asked: Asked) -> Intent {
        let desired = match (&self.refused, asked.ended()) {
            (Some(refused), false) => Desired::Ended { because: refused.reason, message: refused.message.clone(), at: None },
            _ => asked.desired(grant),
        };
        let prefixes = &factory.spec.policy.subject_prefixes;
        let mut body = skeleton(grant);
        for member in &mut body.members {
            let known = |name: &str| prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
            member.subject = member.subject.take().filter(|subject| known(&subject.name) && !subject.name.starts_with("system:"));
        }
        body.desired = desired;
        body.only_if_held = self.only_if_held.clone();
        body.pools = self.pools.clone();
        body.egress = grant
            .spec
            .network
            .egress
            .iter()
            .filter_map(|egress| match (&egress.service, &egress.cidr) {
                (Some(service), _) => Some(EgressIntent::Service(service.clone())),
                (None, Some(cidr)) => Some(EgressIntent::Range { cidr: cidr.clone(), ports: egress.ports.clone() }),
                (None, None) => None,
            })
            .collect();
        body.cross_site = cross_site(world, owner, grant, key, factory);
        make(owner, grant, body)
    }
}

fn skeleton(grant: &AccessGrant) -> GrantIntent {
    let spec = &grant.spec;
    GrantIntent {
        code: spec.code.clone(),
        organisation: spec.organisation.name.clone(),
        desired: Desired::Scheduled,
        only_if_held: None,
        keep: false,
        members: spec
            .members
            .iter()
            .filter(|member| member.state == MemberState::Active)
            .map(|member| MemberIntent {
                id: member.id.clone(),
                role: member.role,
                subject: member.kubernetes.clone(),
                slurm_user: member.slurm.as_ref().map(|slurm| slurm.user.clone()),
            })
            .collect(),
        pools: Vec::new(),
        caps: spec.limits.as_ref().map_or_else(MemberCaps::default, |limits| MemberCaps {
            max_gpus: limits.max_gpus_per_member,
            max_jobs: limits.max_jobs_per_member,
            max_wall_minutes: limits.max_wall_time.as_deref().and_then(duration::seconds).map(|seconds| seconds / 60),
        }),
        end: End {
            running_work: spec.expiry.running_work,
            grace_seconds: duration::seconds(&spec.expiry.grace_period).unwrap_or(3600),
            // What can not be read keeps data: 180 days, as the default.
            retention_seconds: duration::seconds(&spec.expiry.retention).unwrap_or(180 * 24 * 3600),
            after_retention: spec.expiry.after_retention,
        },
        not_after: spec.not_after.0,
        storage: spec.storage.quota.clone(),
        egress: Vec::new(),
        cross_site: None,
        adopt_previous: grant
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(aifactory_api::labels::ADOPT_PREVIOUS))
            .is_some_and(|value| value == "true"),
    }
}

fn make(owner: &OwnerRef, grant: &AccessGrant, body: GrantIntent) -> Intent {
    Intent {
        version: VERSION,
        owner: owner.clone(),
        uid: grant.metadata.uid.clone().unwrap_or_default(),
        generation: grant.metadata.generation.unwrap_or_default(),
        created: created(&grant.metadata),
        body: Body::Grant(Box::new(body)),
    }
}

/// The grant's addresses here and at linked sites, less those that overlap an earlier grant's.
fn cross_site(world: &World, owner: &OwnerRef, grant: &AccessGrant, key: &SiteKey, factory: &AIFactory) -> Option<CrossSiteIntent> {
    let asked = grant.spec.network.cross_site.as_ref()?;
    let age = (created(&grant.metadata), owner);
    let protected = super::site::protected(factory);
    // A range that is nobody's to use is taken by nobody.
    let usable = |cidr: &&String| network::own_address(&protected, cidr).is_ok();
    let taken: Vec<&String> = world
        .with_cross_site()
        .filter(|(other, spec)| (created(&spec.metadata), *other) < age)
        .filter_map(|(_, spec)| spec.spec.network.cross_site.as_ref())
        .flat_map(|other| other.addresses.iter().flat_map(|entry| &entry.cidrs))
        .filter(usable)
        .collect();
    let free = |cidrs: &[String]| -> Vec<String> {
        cidrs.iter().filter(|cidr| !taken.iter().any(|other| network::overlaps(cidr, other))).cloned().collect()
    };
    let own = asked.addresses.iter().find(|entry| entry.site == key.site)?;
    let linked = |site: &str| {
        factory
            .spec
            .links
            .iter()
            .any(|link| link.between.iter().any(|end| end == &key.site) && link.between.iter().any(|end| end == site) && site != key.site)
    };
    let peers: BTreeMap<String, Vec<String>> = asked
        .addresses
        .iter()
        .filter(|entry| linked(&entry.site))
        .map(|entry| (entry.site.clone(), free(&entry.cidrs)))
        .filter(|(_, cidrs)| !cidrs.is_empty())
        .collect();
    Some(CrossSiteIntent { own: free(&own.cidrs), peers })
}

fn refusal(reason: Reason, message: String) -> Refusal {
    Refusal { reason, message }
}
