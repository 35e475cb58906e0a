//! A grant at each of its sites.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::grant::{AccessGrant, GrantPool, GrantState};
use aifactory_api::pool::PoolSite;
use aifactory_api::{Kind, OwnerRef, Reason};
use jiff::Timestamp;

use super::authorise::{Denied, authorise, next_change};
use super::may_hold::lost_its_status;
use super::wrap::wrap;
use crate::hub::cache::{Cache, pools_of_grant};
use crate::hub::holders::Holders;
use crate::hub::ledger::Ledger;
use crate::model::intent::{Body, Desired, Intent, Refusal};
use crate::model::report::Report;
use crate::model::site_key::{Part, SiteKey};

mod cross_site;
mod entry;
mod former;
mod intent;
mod placement;

use entry::Entry;
use placement::{Placement, lacking};

/// A grant's intents, and what was decided about it on the hub.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantProjection {
    /// Intents, by site.
    pub sites: BTreeMap<SiteKey, Intent>,
    /// The sites that pools and grant name, whether or not the grant may be there.
    pub placed: BTreeSet<SiteKey>,
    /// What spec and clock ask for, authorisation aside.
    pub asked: Asked,
    /// Why the grant can not be given, or not everywhere.
    pub problems: Vec<Refusal>,
    /// When the clock changes what is asked for.
    pub wake: Option<Timestamp>,
    /// A factory or a pool that the grant names is missing: until a person decides, sites keep what they hold, and only remove access.
    pub unresolved: bool,
}

impl GrantProjection {
    /// The intents that are sent. The end of a grant goes to every part that may hold something of it. Of one that goes on, a part that neither is named nor
    /// has reported something of it or was sent it tells by itself what it holds, once it is synced. One that has lost its status goes to all as well,
    /// since the next status does not tell where it was. `begun`: see [`super::may_hold`].
    pub fn to_send(&self, cache: &Cache, owner: &OwnerRef, holders: &Holders, begun: Timestamp) -> BTreeMap<&SiteKey, &Intent> {
        let to_all = self.asked.ended() || lost_its_status(cache, owner, begun);
        let is_sent = |key: &SiteKey| to_all || self.placed.contains(key) || holders.is_evident(owner, key);
        self.sites.iter().filter(|(key, _)| is_sent(key)).collect()
    }
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

/// The input of a projection.
struct Scope<'a> {
    cache: &'a Cache,
    owner: &'a OwnerRef,
    grant: &'a AccessGrant,
    asked: Asked,
    now: Timestamp,
}

/// Projects a grant without an account of its budget. `holders` are the parts that may hold something of it, whether or not it names them: see
/// [`super::may_hold`].
pub fn grant(cache: &Cache, owner: &OwnerRef, holders: &BTreeSet<SiteKey>, now: Timestamp) -> Option<GrantProjection> {
    grant_within(cache, owner, holders, None, now)
}

/// Projects a grant with its account, after the account has taken in what sites report. `number` gives intents the serials under which they were sent, so
/// that a report is recognised by the intent that it answers.
pub fn grant_after_reports(
    cache: &Cache,
    owner: &OwnerRef,
    holders: &BTreeSet<SiteKey>,
    ledger: &mut Ledger,
    about: &BTreeMap<SiteKey, &Report>,
    number: impl Fn(&mut BTreeMap<SiteKey, Intent>),
    now: Timestamp,
) -> Option<GrantProjection> {
    let project = |ledger: &mut Ledger| {
        let mut projection = grant_within(cache, owner, holders, Some(ledger), now)?;
        number(&mut projection.sites);
        Some(projection)
    };
    let projection = project(ledger)?;
    // Budget that one site has released can be assigned to another now.
    if ledger.apply_reports(&projection.sites, about) { project(ledger) } else { Some(projection) }
}

/// Projects a grant; its account decides how much of the budget is assigned to each site. Without an account each site is assigned its part by spec.
pub fn grant_within(
    cache: &Cache,
    owner: &OwnerRef,
    holders: &BTreeSet<SiteKey>,
    mut ledger: Option<&mut Ledger>,
    now: Timestamp,
) -> Option<GrantProjection> {
    let grant = cache.grant(owner)?;
    let scope = Scope { cache, owner, grant, asked: Asked::of(grant, now), now };
    let mut wanted = Wanted::begin(&scope);
    for (entry, pool_ref) in grant.spec.pools.iter().zip(pools_of_grant(owner, grant)) {
        wanted.add(&scope, entry, pool_ref, ledger.as_deref_mut());
    }
    wanted.name_refusals();
    let (placed, sites) = wanted.intents(&scope, holders, ledger.as_deref());
    let unresolved = wanted.unresolved.is_some();
    if let Some(ledger) = ledger.filter(|_| !unresolved || scope.asked.ended()) {
        ledger.retain(&grant.spec.pools.iter().map(|entry| entry.name.as_str()).collect());
    }
    Some(GrantProjection { sites, placed, asked: scope.asked, problems: wanted.problems, wake: wanted.wake, unresolved })
}

/// What the entries of a grant ask for together, and their problems.
#[derive(Default)]
struct Wanted {
    placements: BTreeMap<SiteKey, Placement>,
    problems: Vec<Refusal>,
    /// A factory or a pool that is missing, so that it is not known which sites the grant names.
    unresolved: Option<Refusal>,
    /// Entries that name a site at which their pool is not, by factory and part. What such a site holds is kept, since the entry may mean it.
    astray: BTreeMap<(OwnerRef, Part), Refusal>,
    wake: Option<Timestamp>,
}

impl Wanted {
    fn begin(scope: &Scope<'_>) -> Self {
        let spec = &scope.grant.spec;
        let mut wanted = Self::default();
        wanted.wake_at(spec.not_before.0, scope.now);
        wanted.wake_at(spec.not_after.0, scope.now);
        let issuer = OwnerRef::new(Kind::AIFactory, &scope.owner.namespace, &spec.factory_ref.name);
        if scope.cache.factory(&issuer).is_none() {
            let message = format!("spec.factoryRef: there is no AIFactory {} in namespace {}", issuer.name, issuer.namespace);
            wanted.missing(refusal(Reason::FactoryNotFound, message));
        }
        wanted
    }

    fn wake_at(&mut self, at: Timestamp, now: Timestamp) {
        if at > now {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    fn missing(&mut self, what: Refusal) {
        self.unresolved.get_or_insert_with(|| what.clone());
        self.problems.push(what);
    }

    fn add<'a>(&mut self, scope: &Scope<'a>, entry: &'a GrantPool, pool_ref: OwnerRef, ledger: Option<&mut Ledger>) {
        let entry = match Entry::resolve(scope, entry, pool_ref) {
            Ok(entry) => entry,
            Err(missing) => return self.missing(missing),
        };
        if let Some(at) = next_change(scope.cache, scope.owner, &entry.pool_ref, entry.pool, scope.now) {
            self.wake_at(at, scope.now);
        }
        let denied = authorise(scope.cache, scope.owner, entry.entry, &entry.pool_ref, entry.pool, scope.now).err();
        self.problems.extend(denied.iter().map(|denied| denied.refusal.clone()));
        for astray in entry.astray() {
            self.astray.entry((entry.factory_ref.clone(), entry.part())).or_insert_with(|| astray.clone());
            self.problems.push(astray);
        }
        let (gpus, minutes) = (entry.gpus(), entry.minutes());
        let minutes_of = |placed: &PoolSite| minutes.get(&placed.name).copied().unwrap_or_default();
        let chosen = entry.chosen();
        let assigned = ledger.map(|ledger| {
            let wanted = chosen.iter().map(|site| (entry.key(site), minutes_of(site))).collect();
            let recalled = former::recalled(scope.cache, scope.grant, scope.owner, (&entry.factory_ref, entry.part()), &entry.entry.name, &wanted);
            ledger.settle(&entry.entry.name, entry.total(), &wanted, &recalled)
        });
        for placed in chosen {
            let minutes_and_serial =
                assigned.as_ref().and_then(|assigned| assigned.get(&entry.key(placed)).copied()).unwrap_or((minutes_of(placed), 0));
            self.place(scope, &entry, placed, (gpus.get(&placed.name).copied().unwrap_or_default(), minutes_and_serial), denied.as_ref());
        }
    }

    fn place(&mut self, scope: &Scope<'_>, entry: &Entry<'_>, placed: &PoolSite, (gpus, assigned): (i64, (i64, u64)), denied: Option<&Denied>) {
        let key = entry.key(placed);
        let site = entry.factory.spec.sites.iter().find(|site| site.name == placed.name);
        let broken = match site {
            Some(site) => lacking(&key, site, &entry.pool_ref.name),
            None => Some(refusal(
                Reason::SiteNotFound,
                format!("GPUPool {}: AIFactory {} has no site {:?}", entry.pool_ref.name, entry.factory_ref.name, placed.name),
            )),
        };
        self.problems.extend(broken.clone());
        let placement = self.placements.entry(key).or_default();
        placement.pools.push(entry.pool_intent(placed, gpus, assigned));
        if let Some(denied) = denied {
            let slot = if denied.revokes { &mut placement.refused } else { &mut placement.only_if_held };
            slot.get_or_insert_with(|| denied.refusal.clone());
        }
        match (site, broken) {
            (Some(site), None) => placement.restrict(scope.grant, (entry.factory, entry.pool), site, placed),
            (_, broken) => placement.broken = placement.broken.take().or(broken),
        }
    }

    /// Adds the refusals of sites, such as for residency, after the problems of entries.
    fn name_refusals(&mut self) {
        for refused in self.placements.values().filter(|placement| placement.broken.is_none()).filter_map(|placement| placement.refused.as_ref()) {
            if !self.problems.contains(refused) {
                self.problems.push(refused.clone());
            }
        }
    }

    /// The intents of all parts that the grant names or that may hold it, and which of them it names.
    fn intents(&self, scope: &Scope<'_>, holders: &BTreeSet<SiteKey>, ledger: Option<&Ledger>) -> (BTreeSet<SiteKey>, BTreeMap<SiteKey, Intent>) {
        // A part that its factory does not name gets an intent only if it may hold something of the grant.
        let is_sent = |key: &SiteKey, placement: &Placement| placement.broken.is_none() || holders.contains(key) || scope.cache.known.contains(key);
        let mut sites: BTreeMap<SiteKey, Intent> = self
            .placements
            .iter()
            .filter(|(key, placement)| is_sent(key, placement))
            .map(|(key, placement)| (key.clone(), placement.intent(scope, key, self.unresolved.as_ref())))
            .collect();
        let placed = sites.keys().cloned().collect();
        for key in holders.iter().filter(|key| !self.placements.contains_key(key)) {
            sites.insert(key.clone(), self.unplaced(scope, key, ledger));
        }
        (placed, sites)
    }

    /// The intent for a part that may hold the grant although no readable resource places it there.
    fn unplaced(&self, scope: &Scope<'_>, key: &SiteKey, ledger: Option<&Ledger>) -> Intent {
        let meant = self.unresolved.as_ref().or_else(|| self.astray.get(&(key.factory.clone(), key.part)));
        let desired = match (scope.asked.ended(), meant) {
            (true, _) | (false, Some(_)) => scope.asked.desired(scope.grant),
            (false, None) => {
                Desired::Ended { because: Reason::PlacementRemoved, message: format!("the grant is not placed at {} any more", key.site), at: None }
            }
        };
        let kept = !matches!(desired, Desired::Ended { .. });
        let policy = scope.cache.factory(&key.factory).map(|factory| &factory.spec.policy);
        let mut body = intent::skeleton(scope.grant, policy, desired);
        body.keep |= kept;
        body.only_if_held = meant.filter(|_| kept).cloned();
        body.pools = former::counted(scope.cache, scope.owner, scope.grant, key, ledger, kept);
        wrap(scope.owner, &scope.grant.metadata, Body::Grant(Box::new(body)))
    }
}

fn refusal(reason: Reason, message: String) -> Refusal {
    Refusal { reason, message }
}
