//! Grants in Slurm in any order of events, with the operator killed at any call. Seeds and failures as in `isolation`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests rule by rule")]
#[path = "slurm/grants.rs"]
mod grants;
#[allow(dead_code, reason = "shared with the tests rule by rule")]
#[path = "slurm/mod.rs"]
mod slurm;

use std::collections::BTreeSet;

use aifactory_api::factory::OrphanPolicy;
use aifactory_api::grant::{AfterRetention, RunningWork};
use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::{Call, Limit, Record, RowKey, RowMark, SlurmScope, State};
use aifactory_plan::model::id::{AccountName, ClusterName, HubId, QosName, UserName};
use aifactory_plan::model::intent::{Desired, GrantIntent, Refusal};
use grants::{World, grant, member, owner, pool};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};
use slurm::key;

const NAMES: [&str; 2] = ["alpha", "beta"];
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const PARTITIONS: [&str; 2] = ["gpua", "gpub"];

#[derive(Clone, Debug)]
enum Event {
    Desire(usize, u8),
    Member(usize, usize),
    Map(usize, Option<usize>),
    Unread(bool),
    Open(usize, usize, bool),
    Drop(usize, usize),
    Budget(usize, i64),
    Running(usize, bool),
    Code(usize, bool),
    Gone(usize),
    Submit(usize, usize, usize),
    Start,
    Finish,
    Pass(i64),
    National(usize),
    Refuse(usize, bool),
    Paused(bool),
    Keep(bool),
    Orphans(u8),
    Killed(usize),
    Hand(usize, u8),
}

fn event() -> impl Strategy<Value = Event> {
    let grant = 0..2usize;
    let (user, partition) = (0..4usize, 0..2usize);
    prop_oneof![
        6 => (grant.clone(), 0..5u8).prop_map(|(grant, desired)| Event::Desire(grant, desired)),
        4 => (grant.clone(), user.clone()).prop_map(|(grant, user)| Event::Member(grant, user)),
        1 => (user.clone(), proptest::option::of(user.clone())).prop_map(|(member, user)| Event::Map(member, user)),
        1 => any::<bool>().prop_map(Event::Unread),
        2 => (grant.clone(), partition.clone(), any::<bool>()).prop_map(|(grant, pool, open)| Event::Open(grant, pool, open)),
        1 => (grant.clone(), partition.clone()).prop_map(|(grant, pool)| Event::Drop(grant, pool)),
        2 => (grant.clone(), 0..1000i64).prop_map(|(grant, minutes)| Event::Budget(grant, minutes)),
        1 => (grant.clone(), any::<bool>()).prop_map(|(grant, finish)| Event::Running(grant, finish)),
        1 => (grant.clone(), any::<bool>()).prop_map(|(grant, other)| Event::Code(grant, other)),
        1 => grant.clone().prop_map(Event::Gone),
        6 => (grant.clone(), user.clone(), partition).prop_map(|(grant, user, partition)| Event::Submit(grant, user, partition)),
        3 => Just(Event::Start),
        2 => Just(Event::Finish),
        4 => (0..9000i64).prop_map(Event::Pass),
        2 => user.prop_map(Event::National),
        1 => (grant.clone(), any::<bool>()).prop_map(|(grant, refused)| Event::Refuse(grant, refused)),
        1 => any::<bool>().prop_map(Event::Paused),
        1 => any::<bool>().prop_map(Event::Keep),
        1 => (0..3u8).prop_map(Event::Orphans),
        4 => (0..6usize).prop_map(Event::Killed),
        3 => (grant, 0..9u8).prop_map(|(grant, what)| Event::Hand(grant, what)),
    ]
}

fn happen(world: &mut World, event: &Event, by_hand: bool) {
    let known = |world: &World, grant: usize| world.grants.contains_key(&owner(NAMES[grant]));
    match *event {
        Event::Desire(index, desired) => {
            let (uid, mut body) = world.grants.remove(&owner(NAMES[index])).unwrap_or_else(|| (format!("uid-{}", world.now), wanted(index)));
            body.desired = match desired {
                0 => Desired::Scheduled,
                1 => Desired::Paused,
                2 => Desired::Ended { because: Reason::Expired, message: "a; b\u{85}%; \"c\"\n".to_owned(), at: None },
                _ => Desired::Bound,
            };
            world.grants.insert(owner(NAMES[index]), (uid, body));
        }
        Event::Gone(index) => {
            world.grants.remove(&owner(NAMES[index]));
        }
        Event::Map(member, user) => {
            if let Some(users) = &mut world.users {
                match user {
                    Some(user) => users.insert(format!("m{member}"), UserName::new(USERS[user])),
                    None => users.remove(&format!("m{member}")),
                };
            }
        }
        Event::Unread(unread) => world.users = if unread { None } else { Some(Default::default()) },
        Event::Submit(index, user, partition) => {
            let key = key(world.account(NAMES[index]), USERS[user], PARTITIONS[partition]);
            world.cluster.submit(&key);
        }
        Event::Start => {
            let state = &world.cluster.state;
            for job in &mut world.cluster.jobs {
                job.running |= !state.qos[&job.qos].locked() && state.rows.get(&job.key).is_some_and(|row| !row.locked());
            }
        }
        Event::Finish => world.cluster.jobs.retain(|job| !job.running),
        Event::Pass(seconds) => world.pass(seconds),
        Event::National(user) => {
            world.cluster.row(key("nat", USERS[user], ""));
        }
        Event::Refuse(index, refused) => {
            let refusal = Refusal { reason: Reason::RefusedBySite, message: "no".to_owned() };
            if refused {
                world.refused.insert(owner(NAMES[index]), refusal).is_some()
            } else {
                world.refused.remove(&owner(NAMES[index])).is_some()
            };
        }
        Event::Paused(paused) => world.policy.paused = paused,
        Event::Keep(keep) => world.policy.keep_namespaces = keep,
        Event::Orphans(policy) => {
            world.site.policy.orphans = [OrphanPolicy::Report, OrphanPolicy::Lock, OrphanPolicy::Delete][usize::from(policy)];
        }
        Event::Hand(index, what) if by_hand => edit(world, NAMES[index], what),
        Event::Hand(..) | Event::Killed(_) => {}
        Event::Member(index, _)
        | Event::Open(index, ..)
        | Event::Drop(index, _)
        | Event::Budget(index, _)
        | Event::Running(index, _)
        | Event::Code(index, _)
            if !known(world, index) => {}
        Event::Member(index, user) => {
            let body = world.grant(NAMES[index]);
            let id = format!("m{user}");
            let before = body.members.len();
            body.members.retain(|member| member.id != id);
            if body.members.len() == before {
                body.members.push(member(&id, Some(USERS[user]).filter(|_| user != 3)));
            }
        }
        Event::Open(index, pool, open) => {
            if let Some(pool) = world.grant(NAMES[index]).pools.get_mut(pool) {
                pool.open = open;
            }
        }
        Event::Drop(index, which) => {
            let pools = &mut world.grant(NAMES[index]).pools;
            if pools.len() == 2 {
                pools.remove(which);
            } else {
                *pools = wanted(index).pools;
            }
        }
        Event::Budget(index, minutes) => world.grant(NAMES[index]).pools[0].budget.device_minutes = minutes,
        Event::Running(index, finish) => {
            world.grant(NAMES[index]).end.running_work = if finish { RunningWork::Finish } else { RunningWork::Cancel };
        }
        Event::Code(index, other) => {
            let entry = world.grants.get_mut(&owner(NAMES[index])).expect("a grant");
            entry.0 = format!("uid-{other}");
            entry.1.code = format!("code-{other}");
            entry.1.end.after_retention = if other { AfterRetention::Retain } else { AfterRetention::Delete };
        }
    }
}

/// What somebody may do with sacctmgr.
fn edit(world: &mut World, name: &str, what: u8) {
    let (account, qos) = (world.account(name), world.qos(name, "h100"));
    let (scope, grant) = (world.scope(), owner(name));
    let state = &mut world.cluster.state;
    let user = state.rows.keys().find(|key| key.account == account && !key.user.is_empty()).cloned();
    match what {
        0 => {
            state.qos.entry(qos).and_modify(|qos| qos.flags.clear());
        }
        1 => {
            state.qos.entry(qos).and_modify(|qos| {
                qos.limits.remove(&Limit::GpuMinutes);
                qos.limits.insert(Limit::Gpus, 1000);
            });
        }
        2 if world.cluster.jobs.iter().all(|job| job.qos != qos) => world.cluster.delete_qos(&qos),
        3 => {
            if let Some(row) = user.and_then(|key| state.rows.get_mut(&key)) {
                row.qos.insert(QosName::new("normal"));
                row.comment = String::new();
            }
        }
        4 => {
            state.rows.entry(RowKey::account(&account)).and_modify(|row| row.parent = AccountName::new("root"));
        }
        5 if state.rows.contains_key(&RowKey::account(&account)) => {
            world.cluster.row(key(&account, "mallory", ""));
        }
        6 | 8 => {
            state.accounts.entry(account.clone()).and_modify(|account| account.description = "x".to_owned());
            if what == 8 {
                let ours = state.qos.iter_mut().filter(|(name, _)| ["h100", "a100"].iter().any(|entry| scope.qos(&grant, entry) == **name));
                ours.for_each(|(_, qos)| qos.description = "x".to_owned());
            }
        }
        7 => {
            state.qos.entry(qos).and_modify(|qos| qos.description = "x".to_owned());
        }
        _ => {}
    }
}

fn wanted(index: usize) -> GrantIntent {
    let pools = vec![pool("h100", "gpua", 600), pool("a100", "gpub", 60)];
    GrantIntent { code: format!("code-{index}"), pools, ..grant() }
}

/// What holds at any moment: access that is said to be gone is gone.
fn truthful(world: &World) {
    for name in world.plans().into_iter().filter(|(_, plan)| plan.detail.access_removed).map(|(name, _)| name) {
        let members = world.grants.get(&name).into_iter().flat_map(|(_, body)| &body.members).filter_map(|member| member.slurm_user.clone());
        for user in members {
            let rows = world.cluster.state.rows.keys().filter(|key| key.account == world.scope().account(&name) && key.user == user);
            let admitted: Vec<&RowKey> = rows.filter(|key| world.cluster.clone().submit(key)).collect();
            assert!(admitted.is_empty(), "{name}: {admitted:?} while access is said to be gone");
        }
    }
}

/// What holds when no call is left to make.
fn settled(world: &World) {
    for (name, plan) in world.plans() {
        assert!(plan.calls.is_empty());
        let Some((_, body)) = world.grants.get(&name) else { continue };
        let account = world.scope().account(&name);
        let closed = !matches!(body.desired, Desired::Bound) || world.refused.contains_key(&name);
        let admitted: Vec<RowKey> = world
            .cluster
            .state
            .rows_of(&account)
            .map(|(key, _)| key.clone())
            .filter(|key| !key.user.is_empty() && world.cluster.clone().submit(key))
            .collect();
        if closed {
            assert!(admitted.is_empty(), "{name}: {admitted:?} in spite of {:?}", body.desired);
        }
        let users = |id: &str| match world.users.as_ref().and_then(|users| users.get(id)) {
            Some(user) => Some(user.clone()),
            None => body.members.iter().find(|member| member.id == id)?.slurm_user.clone(),
        };
        let members: BTreeSet<UserName> = body.members.iter().filter_map(|member| users(&member.id)).collect();
        let may =
            |key: &RowKey| members.contains(&key.user) && body.pools.iter().any(|pool| pool.open && pool.partition.as_ref() == Some(&key.partition));
        if world.users.is_some() {
            assert!(admitted.iter().all(may), "{name}: {admitted:?}");
        }
        if plan.phase == aifactory_plan::model::report::SitePhase::Bound && world.users.is_some() && !world.policy.paused {
            let open: Vec<_> = body.pools.iter().filter(|pool| pool.open).filter_map(|pool| pool.partition.clone()).collect();
            assert_eq!(admitted.len(), members.len() * open.len(), "{name}: {admitted:?} of {members:?}");
            assert!(open.is_empty() || usize::try_from(plan.detail.members_bound) == Ok(members.len()), "{name}: {:?}", plan.detail);
        }
    }
}

/// Whether a call is about nothing but its grant's objects.
fn own(scope: &SlurmScope, owner: &OwnerRef, call: &Call, world: &[String]) -> bool {
    let account = scope.account(owner);
    let qos = |name: &QosName| ["h100", "a100"].iter().any(|entry| scope.qos(owner, entry) == *name);
    match call {
        Call::Qos { name, .. } | Call::DeleteQos(name) => qos(name),
        Call::Account { name, .. } | Call::Describe { name, .. } | Call::DeleteAccount(name) => *name == account,
        Call::Row { key, qos: names, .. } => key.account == account && (names.iter().all(qos) || world.contains(&"by hand".to_owned())),
        Call::DeleteRow(key) => key.account == account,
        Call::EndJobs { account: name, .. } => *name == account,
        Call::Default { account: name, .. } => *name != account,
    }
}

fn play(events: &[Event], by_hand: bool) {
    let mut world = World::new(NAMES.iter().enumerate().map(|(index, name)| (*name, wanted(index))));
    let accounts: BTreeSet<AccountName> = NAMES.iter().map(|name| world.account(name)).collect();
    let scope = world.scope();
    let note = if by_hand { vec!["by hand".to_owned()] } else { Vec::new() };
    for event in events {
        happen(&mut world, event, by_hand);
        truthful(&world);
        let foreign = world.cluster.foreign(&accounts);
        let mut check = |owner: &OwnerRef, call: &Call, cluster: &slurm::Cluster| {
            assert!(own(&scope, owner, call, &note), "{owner}: {call:?}");
            if !by_hand {
                for account in &accounts {
                    let open = cluster.without_budget(account);
                    assert!(open.is_empty(), "after {call:?}: {open:?}");
                }
            }
        };
        if let Event::Killed(after) = event {
            world.round(*after, &mut check);
        } else {
            world.settle_checked(&mut check);
            settled(&world);
        }
        assert_eq!(foreign, world.cluster.foreign(&accounts));
    }
}

fn config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig { cases, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20_261_121);
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")));
    config
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000i64).prop_map(|seconds| Timestamp::from_second(seconds).expect("a time"))
}

/// One site, and others that differ from it in one thing each.
fn scopes() -> Vec<SlurmScope> {
    let one = World::new([]).scope();
    let other = |change: fn(&mut SlurmScope)| {
        let mut scope = one.clone();
        change(&mut scope);
        scope
    };
    vec![
        one.clone(),
        other(|scope| scope.hub = HubId::new("another")),
        other(|scope| scope.factory.name = "another".to_owned()),
        other(|scope| scope.factory.namespace = "another".to_owned()),
        other(|scope| scope.site = "another".to_owned()),
        other(|scope| scope.cluster = ClusterName::new("bissen_2")),
    ]
}

fn legal(name: &str) -> bool {
    let rest = name.strip_prefix("grant-").unwrap_or_default();
    let sign = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    rest.starts_with(sign) && rest.len() <= 46 && rest.chars().all(|c| sign(c) || c == '-')
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn any_order_of_events_ends_right_and_nobody_runs_without_a_budget(events in proptest::collection::vec(event(), 1..40)) {
        play(&events, false);
    }

    #[test]
    fn what_people_change_by_hand_ends_right_too(events in proptest::collection::vec(event(), 1..40)) {
        play(&events, true);
    }

    #[test]
    fn names_are_legal_and_no_two_alike(
        names in proptest::collection::btree_set(("[a-z0-9.-]{1,63}", "[a-z0-9.-]{1,63}", "\\PC{0,40}"), 2..20)
    ) {
        let mut seen = BTreeSet::new();
        let mut grants = BTreeSet::new();
        let scopes = scopes();
        for (namespace, name, entry) in names {
            let owner = OwnerRef::new(Kind::AccessGrant, namespace.clone(), name.clone());
            for scope in &scopes {
                prop_assert!(legal(scope.account(&owner).as_str()) && legal(scope.qos(&owner, &entry).as_str()));
                prop_assert!(seen.insert(scope.qos(&owner, &entry).to_string()));
                if !grants.contains(&owner) {
                    prop_assert!(seen.insert(scope.account(&owner).to_string()));
                }
            }
            grants.insert(owner);
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written(
        (uid, code, because) in ("\\PC{0,40}", "[ -~]{0,63}", "[\\x00-\\x7f\u{2026}é]{0,400}"),
        state in prop_oneof![Just(State::Bound), Just(State::Paused), Just(State::Locked)],
        times in proptest::collection::vec(proptest::option::of(time()), 6),
        since in time(),
        (account, entry) in (proptest::option::of("[a-z-]{1,40}"), proptest::option::of("\\PC{0,40}")),
    ) {
        let record = Record {
            ended_at: times[0],
            ended_because: Some(because),
            cancel_at: times[1],
            queue_ended_at: times[2],
            cancelled_at: times[3],
            retained_until: times[4],
            locked_at: times[5],
            after_retention: Some(AfterRetention::Delete).filter(|_| times[0].is_some()),
            account: account.map(AccountName::new),
            entry,
            ..Record::new(&scopes()[0], &owner("alpha"), &uid, &code, state, since)
        };
        let line = record.render();
        prop_assert!(!line.chars().any(|c| c.is_control()) && line.len() < 4096);
        prop_assert_eq!(Record::parse(&line), Some(record));
        let mark = RowMark { locked_at: times[0], queue_ended_at: times[1], cancelled_at: times[2], ..RowMark::new(&scopes()[0], &owner("alpha"), Some(code)) };
        prop_assert_eq!(RowMark::parse(&mark.render()), Some(mark));
    }

    #[test]
    fn others_texts_are_not_ours(text in "\\PC{0,80}") {
        prop_assume!(!text.starts_with("aifactory; "));
        prop_assert_eq!(Record::parse(&text), None);
        prop_assert_eq!(Record::parse(&format!("aifactory; {text}")), None);
    }
}

/// The end of a grant that was in force, sent by hubs that remember different budgets; each intent is followed by a kill after so many calls.
fn end(mut world: World, budgets: &[(i64, usize)]) -> World {
    for (minutes, calls) in budgets {
        let body = world.grant("alpha");
        body.desired = Desired::Ended { because: Reason::Deleting, message: "the grant was deleted".to_owned(), at: None };
        body.pools.iter_mut().for_each(|pool| pool.budget.device_minutes = *minutes);
        world.round(*calls, &mut |_, _, _| {});
        world.removals = Default::default();
    }
    world.settle();
    world.grants.remove(&owner("alpha"));
    world.settle();
    world
}

/// The budgets that a grant is assigned while it is in force, and how it ends.
fn ending() -> impl Strategy<Value = (bool, Vec<usize>, Vec<(i64, usize)>)> {
    let budgets = prop_oneof![Just(0i64), Just(60), Just(600), 0..2000i64];
    (any::<bool>(), proptest::collection::vec(0..4usize, 0..6), proptest::collection::vec((budgets, 0..8usize), 1..5))
}

proptest! {
    #![proptest_config(config(96))]

    /// A lock keeps the budget that was in force, wherever the operator is killed and whatever budget the hub remembers by then.
    #[test]
    fn what_is_kept_is_the_same_on_every_path((cancel, jobs, budgets) in ending()) {
        let lived = || {
            let mut world = World::new([("alpha", wanted(0))]);
            world.grant("alpha").end.after_retention = AfterRetention::Retain;
            if cancel {
                world.grant("alpha").end.running_work = RunningWork::Cancel;
            }
            world.settle();
            for user in &jobs {
                world.cluster.submit(&key(world.account("alpha"), USERS[*user], PARTITIONS[user % 2]));
            }
            world
        };
        let in_force = lived().cluster.state.qos;
        let calm = end(lived(), &[(600, usize::MAX)]);
        let kept = end(lived(), &budgets);
        prop_assert_eq!(&kept.cluster.state, &calm.cluster.state);
        prop_assert_eq!(&kept.cluster.jobs, &calm.cluster.jobs);
        for (name, qos) in &kept.cluster.state.qos {
            prop_assert_eq!(qos.limits.get(&Limit::GpuMinutes), in_force[name].limits.get(&Limit::GpuMinutes), "{}", name);
        }
    }
}
