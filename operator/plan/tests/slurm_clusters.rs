//! Several clusters on one accounting database: whose each of them is, and that nobody touches what another has there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with other properties")]
#[path = "slurm/grants.rs"]
mod grants;
#[allow(dead_code, reason = "shared with other properties")]
#[path = "slurm/mod.rs"]
mod slurm;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::{Account, Call, Claim, Limit, Standing, claim_account, held, standing};
use aifactory_plan::model::id::{AccountName, ClusterName, HubId, QosName};
use aifactory_plan::model::intent::{Desired, GrantIntent, SiteIntent};
use grants::{World, ended, grant, owner, pool, site};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use slurm::{Cluster, Database};

fn site_of(factory: &str, name: &str, cluster: &str) -> SiteIntent {
    let mut site = site();
    site.factory = OwnerRef::new(Kind::AIFactory, factory, factory);
    site.site = name.to_owned();
    site.slurm.as_mut().expect("a Slurm").cluster_name = cluster.to_owned();
    site
}

/// Sites whose clusters share a database.
struct Centre {
    database: Database,
    sites: Vec<World>,
}

impl Centre {
    fn new(sites: impl IntoIterator<Item = SiteIntent>) -> Self {
        let mut database = Database::default();
        database.take(&Cluster::new());
        let world = |site| World { site, ..World::new([]) };
        Self { database, sites: sites.into_iter().map(world).collect() }
    }

    /// Makes at most so many calls at one site; whether there were any.
    fn round(&mut self, index: usize, limit: usize) -> bool {
        let others: Vec<_> = (0..self.sites.len()).filter(|other| *other != index).map(|other| self.of(other)).collect();
        let world = &mut self.sites[index];
        self.database.show(&mut world.cluster);
        let asked = world.round(limit, &mut |_, _, _| {}).is_some();
        self.database.take(&world.cluster);
        let after: Vec<_> = (0..self.sites.len()).filter(|other| *other != index).map(|other| self.of(other)).collect();
        assert_eq!(others, after, "site {index} changed what another one has");
        asked
    }

    /// The accounts and QOS of one site, with the cluster's associations and jobs.
    fn of(&self, index: usize) -> (BTreeSet<String>, BTreeMap<QosName, slurm_view::Qos>, usize, usize) {
        let world = &self.sites[index];
        let names: BTreeSet<AccountName> = NAMES.iter().map(|name| world.account(name)).collect();
        let qos: BTreeSet<QosName> = NAMES.iter().flat_map(|name| ["h100", "a100"].map(|entry| world.qos(name, entry))).collect();
        let accounts = self.database.accounts.iter().filter(|(name, _)| names.contains(*name)).map(|(name, account)| format!("{name} {account:?}"));
        let mine = self.database.qos.iter().filter(|(name, _)| qos.contains(*name)).map(|(name, qos)| (name.clone(), qos.clone()));
        (accounts.collect(), mine.collect(), world.cluster.state.rows.len(), world.cluster.jobs.len())
    }

    /// Rounds at all sites in turn until nobody asks for anything.
    fn settle(&mut self) {
        for _ in 0..20 {
            let asked: Vec<bool> = (0..self.sites.len()).map(|index| self.round(index, usize::MAX)).collect();
            if !asked.contains(&true) {
                return;
            }
        }
        panic!("the sites undo each other's work: {:#?}", self.sites.iter().map(|world| world.plans()).collect::<Vec<_>>());
    }

    fn put(&mut self, index: usize, name: &str, body: GrantIntent) {
        self.sites[index].grants.insert(owner(name), ("uid".to_owned(), body));
    }
}

mod slurm_view {
    pub use aifactory_plan::engine::slurm_accounts::Qos;
}

const NAMES: [&str; 2] = ["alpha", "beta"];

fn part(minutes: i64) -> GrantIntent {
    GrantIntent { pools: vec![pool("h100", "gpua", minutes)], ..grant() }
}

#[test]
fn two_sites_on_one_database_keep_a_budget_of_their_own() {
    let mut centre = Centre::new([site_of("example", "bissen", "one"), site_of("example", "bettembourg", "two")]);
    centre.put(0, "alpha", part(180));
    centre.put(1, "alpha", part(360));
    centre.put(0, "beta", part(60));
    centre.settle();
    let minutes = |centre: &Centre, index: usize, name: &str| {
        centre.database.qos.get(&centre.sites[index].qos(name, "h100")).map(|qos| qos.limits[&Limit::GpuMinutes])
    };
    let found = [(0, "alpha"), (1, "alpha"), (0, "beta"), (1, "beta")].map(|(index, name)| minutes(&centre, index, name));
    assert_eq!(found, [Some(180), Some(360), Some(60), None]);
    let accounts = |centre: &Centre, index: usize| {
        let world = &centre.sites[index];
        held(&world.cluster.read(), &world.scope()).into_keys().map(|owner| owner.name).collect::<Vec<_>>()
    };
    assert_eq!((accounts(&centre, 0), accounts(&centre, 1)), (vec!["alpha".to_owned(), "beta".to_owned()], vec!["alpha".to_owned()]));
    // It ends at one site: the other one's members work on.
    centre.sites[0].grant("alpha").desired = ended();
    centre.settle();
    centre.sites[0].pass(7200);
    centre.settle();
    assert_eq!((accounts(&centre, 0), minutes(&centre, 0, "alpha"), minutes(&centre, 1, "alpha")), (vec!["beta".to_owned()], None, Some(360)));
    assert_eq!(centre.sites[1].plan("alpha").detail.members_bound, 2);
}

#[test]
fn objects_named_without_a_cluster_are_not_ours() {
    let mut world = World::new([("alpha", grant())]);
    let text = "aifactory; hub=8d3fb7a0c1; owner=AccessGrant/programme/alpha; uid=u; code=c; state=Bound; since=2026-11-21T09:00:00Z";
    world.cluster.account(&AccountName::new("grant-alpha-0123456789"), &AccountName::new("eu-aif"), text);
    world.cluster.state.qos.entry(QosName::new("grant-alpha-h100-0123456789")).or_default().description = format!("{text}; account=x; entry=h100");
    let before = world.cluster.state.clone();
    assert!(held(&world.cluster.read(), &world.scope()).is_empty());
    world.settle();
    world.grants.clear();
    world.site.policy.orphans = aifactory_api::factory::OrphanPolicy::Delete;
    world.settle();
    assert_eq!(world.cluster.state, before);
}

#[derive(Clone, Debug)]
enum Event {
    Put(usize, usize, i64),
    End(usize, usize),
    Gone(usize, usize),
    Submit(usize, usize),
    Killed(usize, usize),
    Pass(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let (at, grant) = (0..3usize, 0..2usize);
    prop_oneof![
        4 => (at.clone(), grant.clone(), 1..900i64).prop_map(|(at, grant, minutes)| Event::Put(at, grant, minutes)),
        2 => (at.clone(), grant.clone()).prop_map(|(at, grant)| Event::End(at, grant)),
        1 => (at.clone(), grant.clone()).prop_map(|(at, grant)| Event::Gone(at, grant)),
        2 => (at.clone(), grant).prop_map(|(at, grant)| Event::Submit(at, grant)),
        4 => (at, 0..6usize).prop_map(|(at, calls)| Event::Killed(at, calls)),
        2 => (0..9000i64).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, rng_seed: RngSeed::Fixed(20_261_127), ..ProptestConfig::default() })]

    /// Two sites of one factory and one of another, three clusters, one database; each round checks that the others' objects stay as they are.
    #[test]
    fn nobody_touches_what_another_has(events in proptest::collection::vec(event(), 1..40)) {
        let mut centre = Centre::new([site_of("one", "a", "c1"), site_of("one", "b", "c2"), site_of("two", "a", "c3")]);
        for event in events {
            match event {
                Event::Put(at, grant, minutes) => centre.put(at, NAMES[grant], part(minutes)),
                Event::End(at, grant) => {
                    if let Some((_, body)) = centre.sites[at].grants.get_mut(&owner(NAMES[grant])) {
                        body.desired = ended();
                    }
                }
                Event::Gone(at, grant) => drop(centre.sites[at].grants.remove(&owner(NAMES[grant]))),
                Event::Submit(at, grant) => {
                    let world = &mut centre.sites[at];
                    let key = slurm::key(world.account(NAMES[grant]), "alice", "gpua");
                    centre.database.show(&mut world.cluster);
                    world.cluster.submit(&key);
                }
                Event::Killed(at, calls) => drop(centre.round(at, calls)),
                Event::Pass(seconds) => centre.sites.iter_mut().for_each(|world| world.pass(seconds)),
            }
            centre.settle();
        }
        for (index, world) in centre.sites.iter().enumerate() {
            for plan in world.plans().into_values() {
                prop_assert!(plan.calls.is_empty(), "site {index}: {:?}", plan.calls);
            }
        }
    }
}

/// The accounts of a database, as Slurm keeps them: the description of one that is there stays as it is when it is made again.
#[derive(Clone, Debug, Default)]
struct Accounts(BTreeMap<AccountName, Account>);

impl Accounts {
    fn make(&mut self, claim: &Claim) {
        let account = Account { description: claim.render(), organization: String::new() };
        self.0.entry(claim.account()).or_insert(account);
    }

    /// What a contact comes to, made at once.
    fn contact(&mut self, site: &SiteIntent, id: &str) -> Standing {
        if let Standing::Free(known) = standing(site, &self.0, false) {
            self.make(&Claim::of(site, known.unwrap_or_else(|| id.to_owned())));
        }
        standing(site, &self.0, false)
    }
}

fn reason(standing: &Standing) -> Option<Reason> {
    match standing {
        Standing::Refused(finding) => {
            assert!(finding.stalled, "only a person can help: {finding:?}");
            Some(finding.reason)
        }
        Standing::Ours(_) | Standing::Free(_) => None,
    }
}

#[test]
fn a_cluster_belongs_to_one_site_of_one_factory_of_one_hub() {
    let first = site_of("one", "bissen", "c1");
    let another_hub = SiteIntent { hub: HubId::new("another"), ..first.clone() };
    let rivals = [site_of("two", "bissen", "c1"), site_of("one", "twin", "c1"), another_hub];
    for rival in rivals {
        for (one, other) in [(&first, &rival), (&rival, &first)] {
            let mut accounts = Accounts::default();
            assert_eq!(accounts.contact(one, "id-1"), Standing::Ours("id-1".to_owned()));
            let refused = accounts.contact(other, "id-2");
            assert_eq!(reason(&refused), Some(Reason::SiteClaimed));
            let Standing::Refused(finding) = refused else { panic!("{refused:?}") };
            let account = claim_account(&ClusterName::new("c1"));
            let factory = format!("{}/{}", one.factory.namespace, one.factory.name);
            let holder = [one.hub.as_str(), one.site.as_str(), factory.as_str(), account.as_str()];
            assert!(holder.iter().all(|word| finding.message.contains(*word)), "{}", finding.message);
            // After a restart of either.
            assert_eq!(accounts.contact(one, "id-3"), Standing::Ours("id-1".to_owned()));
            assert_eq!(reason(&accounts.contact(other, "id-4")), Some(Reason::SiteClaimed));
            // Given up by the one, it is the other's.
            accounts.0.clear();
            assert_eq!(accounts.contact(other, "id-5"), Standing::Ours("id-5".to_owned()));
            assert_eq!(reason(&accounts.contact(one, "id-6")), Some(Reason::SiteClaimed));
        }
    }
    // Another cluster of the same database is free.
    let mut accounts = Accounts::default();
    accounts.contact(&first, "id-1");
    assert_eq!(accounts.contact(&site_of("two", "bissen", "c2"), "id-2"), Standing::Ours("id-2".to_owned()));
}

#[test]
fn two_claimants_at_once_end_with_one() {
    // Each looks, makes the claim if it saw none, and looks again: every order of these steps.
    let sites = [site_of("one", "bissen", "c1"), site_of("two", "bissen", "c1")];
    for order in 0..64u32 {
        let mut accounts = Accounts::default();
        let mut steps = [0usize; 2];
        let mut seen: [Option<Standing>; 2] = [None, None];
        let step = |at: usize, accounts: &mut Accounts, steps: &mut [usize; 2], seen: &mut [Option<Standing>; 2]| {
            match steps[at] {
                0 | 2 => seen[at] = Some(standing(&sites[at], &accounts.0, false)),
                1 if matches!(seen[at], Some(Standing::Free(_))) => accounts.make(&Claim::of(&sites[at], format!("id-{at}"))),
                _ => {}
            }
            steps[at] += 1;
        };
        for bit in 0..6 {
            let at = usize::from(order >> bit & 1 == 1);
            step(if steps[at] < 3 { at } else { 1 - at }, &mut accounts, &mut steps, &mut seen);
        }
        let ours = seen.iter().filter(|seen| matches!(seen, Some(Standing::Ours(_)))).count();
        assert_eq!((ours, seen.iter().filter_map(|seen| reason(seen.as_ref()?)).collect::<Vec<_>>()), (1, vec![Reason::SiteClaimed]), "{order:b}");
    }
}

#[test]
fn another_database_gets_no_write_until_a_person_accepts_it() {
    let mut site = site_of("one", "bissen", "c1");
    let mut accounts = Accounts::default();
    accounts.contact(&site, "id-1");
    site.expected_uid = Some("id-0".to_owned());
    let refused = accounts.contact(&site, "id-2");
    assert_eq!(reason(&refused), Some(Reason::SiteIdentityChanged));
    let Standing::Refused(finding) = refused else { panic!() };
    assert!(finding.message.contains("aifactory.dev/accept-identity=bissen/slurm=id-1"), "{}", finding.message);
    site.accepted_uid = Some("id-1".to_owned());
    assert_eq!(accounts.contact(&site, "id-2"), Standing::Ours("id-1".to_owned()));
    // A database without the claim: an empty one, or ours, from which somebody deleted it.
    let mut site = SiteIntent { accepted_uid: None, expected_uid: Some("id-1".to_owned()), ..site };
    assert_eq!(reason(&standing(&site, &BTreeMap::new(), false)), Some(Reason::SiteIdentityChanged));
    assert_eq!(standing(&site, &BTreeMap::new(), true), Standing::Free(Some("id-1".to_owned())));
    site.accepted_uid = Some("id-1".to_owned());
    assert_eq!(standing(&site, &BTreeMap::new(), false), Standing::Free(Some("id-1".to_owned())));
}

#[test]
fn a_claim_that_can_not_be_read_is_nobodys() {
    let site = site_of("one", "bissen", "c1");
    for text in ["", "somebody's", "aifactory; hub=x; claim=y"] {
        let account = Account { description: text.to_owned(), organization: String::new() };
        assert_eq!(reason(&standing(&site, &[(claim_account(&ClusterName::new("c1")), account)].into(), false)), Some(Reason::SiteClaimed));
    }
    let claim = Claim::of(&site, "id-1");
    assert_eq!(Claim::parse(&claim.render()), Some(claim));
}

#[test]
fn a_grant_waits_for_nothing_of_another_sites() {
    // The same grant, ended and kept at one site, is made at another one on the same database.
    let mut centre = Centre::new([site_of("one", "a", "c1"), site_of("two", "a", "c2")]);
    centre.put(0, "alpha", part(60));
    centre.settle();
    centre.sites[0].grant("alpha").desired = ended();
    centre.settle();
    centre.put(1, "alpha", GrantIntent { code: "OTHER".to_owned(), desired: Desired::Bound, ..part(90) });
    centre.settle();
    let plan = centre.sites[1].plan("alpha");
    assert!(plan.findings.is_empty() && plan.calls.is_empty() && plan.detail.members_bound == 2, "{:?}", plan.findings);
    assert!(!plan.calls.iter().any(|call| matches!(call, Call::DeleteAccount(_))));
}
