//! Grants in Slurm, rule by rule.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with other properties")]
#[path = "slurm/grants.rs"]
mod grants;
#[allow(dead_code, reason = "shared with other properties")]
#[path = "slurm/mod.rs"]
mod slurm;

use aifactory_api::Reason;
use aifactory_api::factory::OrphanPolicy;
use aifactory_api::grant::{AfterRetention, RunningWork};
use aifactory_plan::engine::slurm_accounts::{Call, Limit, Record, RowKey, Stage, State, all_closed, held};
use aifactory_plan::model::id::{AccountName, QosName, UserName};
use aifactory_plan::model::intent::{Desired, Refusal};
use aifactory_plan::model::report::SitePhase;
use grants::{World, ended, grant, intent, member, owner, pool};
use slurm::{key, set};

fn bound() -> World {
    let mut world = World::new([("alpha", grant())]);
    world.settle();
    world
}

fn reasons(world: &World) -> Vec<Reason> {
    world.plan("alpha").findings.into_iter().map(|finding| finding.reason).collect()
}

#[test]
fn what_is_read_decides_what_is_asked() {
    let mut world = World::new([("alpha", grant())]);
    let mut stages = Vec::new();
    while !world.plan("alpha").calls.is_empty() {
        stages.push(world.plan("alpha").calls.iter().map(Call::stage).collect::<std::collections::BTreeSet<_>>());
        world.round(usize::MAX, &mut |_, _, _| {});
    }
    let expected = [Stage::Qos, Stage::Accounts, Stage::Rows, Stage::Rows].map(|stage| [stage].into());
    assert_eq!(stages, expected);
    let plan = world.plan("alpha");
    assert_eq!((plan.phase, plan.detail.members_wanted, plan.detail.members_bound), (SitePhase::Bound, 2, 2));
    let (account, qos) = (world.account("alpha"), world.qos("alpha", "h100"));
    let limits = &world.cluster.state.qos[&qos].limits;
    let expected = [
        (Limit::GpuMinutes, 600),
        (Limit::Gpus, 4),
        (Limit::Cpus, 32),
        (Limit::MemoryMib, 4 * 64 * 1024),
        (Limit::MinGpusPerJob, 1),
        (Limit::GpusPerUser, 2),
        (Limit::WallMinutes, 120),
    ];
    assert_eq!(*limits, expected.into());
    assert_eq!(world.cluster.state.qos[&qos].flags, set(&["NO_DECAY", "DENY_LIMIT"], str::to_owned));
    let row = &world.cluster.state.rows[&key(&account, "alice", "gpua")];
    assert_eq!((&row.qos, &row.lineage), (&[qos.clone()].into(), &format!("/eu-aif/{account}/0-alice/gpua/")));
    let slurm = plan.detail.slurm.expect("detail");
    assert_eq!((slurm.cluster.as_str(), slurm.entries["h100"].limit, slurm.entries["a100"].limit), ("bissen", Some(600), Some(60)));
}

#[test]
fn a_cluster_that_can_not_gives_nothing() {
    let mut world = World::new([("alpha", grant())]);
    world.cluster.state.tres.remove("gres/gpu");
    assert_eq!((world.plan("alpha").phase, world.settle(), reasons(&world)), (SitePhase::Refused, 0, vec![Reason::SlurmConfiguration]));
    let mut world = World::new([("alpha", grant())]);
    world.cluster.state.partitions.remove("gpub");
    assert_eq!((world.settle(), reasons(&world)), (0, vec![Reason::PartitionNotReady]));
    let mut world = World::new([("alpha", grant())]);
    world.cluster.state.accounts.remove("eu-aif");
    assert_eq!((world.settle(), reasons(&world)), (0, vec![Reason::ParentAccountMissing]));
}

#[test]
fn a_limit_above_is_never_exceeded() {
    let mut world = World::new([("alpha", grant())]);
    let row = world.cluster.state.rows.get_mut(&RowKey::account(&AccountName::new("eu-aif"))).expect("a row");
    (row.gpus, row.gpu_minutes) = (Some(3), Some(100));
    world.settle();
    let limits = &world.cluster.state.qos[&world.qos("alpha", "h100")].limits;
    assert_eq!((limits[&Limit::Gpus], limits[&Limit::Cpus], limits[&Limit::GpuMinutes]), (3, 24, 100));
    assert!(reasons(&world).contains(&Reason::RefusedBySite));
}

#[test]
fn members_without_a_user_wait_and_the_sites_map_wins() {
    let mut world = World::new([("alpha", grant())]);
    world.users = Some([("m1".to_owned(), UserName::new("u1")), ("m4".to_owned(), UserName::new("bob"))].into());
    world.grant("alpha").members.extend([member("m3", None), member("m4", None), member("m5", Some("root")), member("m6", Some("eve"))]);
    world.policy.refuse_members = ["m6".to_owned()].into();
    world.settle();
    let account = world.account("alpha");
    let users: std::collections::BTreeSet<_> =
        world.cluster.state.rows_of(&account).map(|(key, _)| key.user.clone()).filter(|user| !user.is_empty()).collect();
    assert_eq!(users, set(&["u1", "bob"], UserName::new));
    let plan = world.plan("alpha");
    assert_eq!((plan.detail.members_wanted, plan.detail.members_bound), (6, 2));
    assert_eq!(plan.findings.iter().filter(|finding| finding.reason == Reason::LocalAccountMissing).count(), 3);
    // Nobody is removed while the map is not read, and nobody is added.
    world.users = None;
    world.grant("alpha").members.push(member("m7", Some("zoe")));
    assert!(world.plan("alpha").calls.is_empty());
}

#[test]
fn a_suspended_members_association_is_locked_then_goes_when_the_jobs_have_ended() {
    let mut world = bound();
    let account = world.account("alpha");
    let row = key(&account, "bob", "gpua");
    assert!(world.cluster.submit(&row) && world.cluster.submit(&row));
    world.cluster.jobs[0].running = true;
    world.grant("alpha").members.pop();
    world.settle();
    assert_eq!(world.cluster.jobs.len(), 1, "what was pending has ended, what ran goes on");
    assert!(world.cluster.state.rows[&row].locked() && !world.cluster.submit(&row));
    assert!(world.plan("alpha").calls.is_empty());
    world.cluster.jobs.clear();
    world.settle();
    assert!(!world.cluster.state.rows.keys().any(|key| key.user.as_str() == "bob"));
}

#[test]
fn a_suspended_members_jobs_are_cancelled_after_the_grace_where_the_grant_says_so() {
    let mut world = bound();
    world.grant("alpha").end.running_work = RunningWork::Cancel;
    let row = key(world.account("alpha"), "bob", "gpua");
    assert!(world.cluster.submit(&row));
    world.cluster.jobs[0].running = true;
    world.grant("alpha").members.pop();
    world.settle();
    assert_eq!((world.cluster.jobs.len(), world.plan("alpha").wake), (1, Some(world.now + jiff::SignedDuration::from_secs(1800))));
    world.pass(1800);
    world.settle();
    assert!(world.cluster.jobs.is_empty() && !world.cluster.state.rows.contains_key(&row));
}

#[test]
fn a_default_account_is_moved_before_ours_goes() {
    let mut world = bound();
    world.cluster.row(key("nat", "bob", ""));
    world.grant("alpha").members.pop();
    world.settle();
    let rows: Vec<_> = world.cluster.state.rows.iter().filter(|(key, _)| key.user.as_str() == "bob").collect();
    assert!(matches!(rows.as_slice(), [(key, row)] if key.account.as_str() == "nat" && row.is_default));
    // Before ours, and never.
    let mut world = World::new([("alpha", grant())]);
    world.cluster.row(key("nat", "alice", ""));
    world.settle();
    world.grant("alpha").desired = ended();
    world.settle();
    world.pass(7200);
    world.settle();
    assert!(held(&world.cluster.read(), &world.scope()).is_empty());
    assert!(world.cluster.state.rows[&key("nat", "alice", "")].is_default);
}

#[test]
fn paused_and_draining_qos_are_locked_and_open_again() {
    let mut world = bound();
    let (h100, a100) = (world.qos("alpha", "h100"), world.qos("alpha", "a100"));
    world.grant("alpha").desired = Desired::Paused;
    world.settle();
    assert!(world.cluster.state.qos[&h100].locked() && world.cluster.state.qos[&a100].locked());
    assert_eq!((world.plan("alpha").phase, world.plan("alpha").detail.members_bound), (SitePhase::Paused, 2));
    world.grant("alpha").desired = Desired::Bound;
    world.grant("alpha").pools[1].open = false;
    world.settle();
    assert!(!world.cluster.state.qos[&h100].locked() && world.cluster.state.qos[&a100].locked());
    assert!(!world.cluster.state.rows.keys().any(|key| key.partition.as_str() == "gpub"));
    world.grant("alpha").pools.pop();
    world.settle();
    assert!(world.cluster.state.qos[&a100].locked(), "what was used of a dropped pool is not forgotten");
}

#[test]
fn an_ended_grant_is_kept_locked_and_comes_back_with_what_it_used() {
    let mut world = bound();
    let row = key(world.account("alpha"), "alice", "gpua");
    assert!(world.cluster.submit(&row) && world.cluster.submit(&row));
    world.cluster.jobs[0].running = true;
    world.grant("alpha").end.running_work = RunningWork::Cancel;
    world.grant("alpha").desired = ended();
    assert!(!world.plan("alpha").detail.access_removed);
    assert!(world.plan("alpha").calls.iter().all(|call| matches!(call.stage(), Stage::Lock | Stage::Describe)));
    world.settle();
    let plan = world.plan("alpha");
    assert!(plan.detail.access_removed && plan.phase == SitePhase::Locked && world.cluster.jobs.len() == 1);
    assert_eq!(plan.detail.retained_until, Some(world.now + jiff::SignedDuration::from_secs(7200)));
    world.pass(1800);
    world.settle();
    assert!(world.cluster.jobs.is_empty());
    let record = held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.clone();
    assert!(record.retained() && record.cancelled_at == Some(world.now));
    // It is deleted on the hub, and made again.
    let gone = world.grants.remove(&owner("alpha")).expect("a grant");
    assert_eq!(world.settle(), 0);
    world.grants.insert(owner("alpha"), ("uid-2".to_owned(), gone.1.clone()));
    world.grant("alpha").desired = Desired::Bound;
    world.settle();
    assert!(world.plan("alpha").detail.members_bound == 2 && world.cluster.submit(&row));
    assert_eq!(held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.since, record.since);
}

#[test]
fn retention_over_the_account_goes_and_its_qos_last() {
    let mut world = bound();
    let row = key(world.account("alpha"), "alice", "gpua");
    assert!(world.cluster.submit(&row));
    world.cluster.jobs[0].running = true;
    world.grant("alpha").desired = ended();
    world.settle();
    world.grants.clear();
    world.pass(7199);
    assert_eq!(world.settle(), 0);
    world.pass(1);
    world.policy.keep_namespaces = true;
    assert_eq!(world.settle(), 0);
    world.policy.keep_namespaces = false;
    let mut order = Vec::new();
    world.settle_checked(&mut |_, call, _| order.push(call.stage()));
    assert!(order.is_sorted() && order.contains(&Stage::DeleteAccounts) && order.last() == Some(&Stage::DeleteQos), "{order:?}");
    assert!(held(&world.cluster.read(), &world.scope()).is_empty() && world.cluster.jobs.is_empty());
}

#[test]
fn what_is_kept_is_kept_from_the_moment_at_which_access_was_taken() {
    let mut world = bound();
    let month = jiff::SignedDuration::from_hours(30 * 24);
    // By its dates the grant ended a month ago: somebody has written a past day, or the site was away.
    world.grant("alpha").desired = Desired::Ended { because: Reason::Expired, message: "it ended".to_owned(), at: Some(world.now - month) };
    world.grant("alpha").end.running_work = RunningWork::Cancel;
    let row = key(world.account("alpha"), "alice", "gpua");
    assert!(world.cluster.submit(&row) && world.cluster.submit(&row));
    world.cluster.jobs[0].running = true;
    world.settle();
    assert_eq!(world.plan("alpha").detail.retained_until, Some(world.now + jiff::SignedDuration::from_secs(7200)));
    assert_eq!(world.cluster.jobs.len(), 1, "what waits ends with the lock, and what runs has its grace from then");
    world.pass(1799);
    assert_eq!((world.settle(), world.cluster.jobs.len()), (0, 1));
    world.pass(1);
    world.settle();
    assert!(world.cluster.jobs.is_empty());
    world.pass(5399);
    assert_eq!(world.settle(), 0);
    world.pass(1);
    world.settle();
    assert!(held(&world.cluster.read(), &world.scope()).is_empty());
}

#[test]
fn what_is_locked_stays_so_while_its_grant_waits() {
    let mut world = bound();
    let (row, h100) = (key(world.account("alpha"), "alice", "gpua"), world.qos("alpha", "h100"));
    world.grant("alpha").desired = ended();
    world.settle();
    world.grant("alpha").desired = Desired::Scheduled;
    assert_eq!((world.settle(), world.plan("alpha").phase), (0, SitePhase::Locked));
    // Somebody opens it with sacctmgr.
    world.cluster.state.qos.get_mut(&h100).expect("a QOS").limits.retain(|limit, _| !matches!(limit, Limit::SubmittedJobs | Limit::RunningJobs));
    assert!(world.cluster.clone().submit(&row) && !world.plan("alpha").detail.access_removed);
    world.settle();
    assert!(!world.cluster.submit(&row) && world.plan("alpha").detail.access_removed);
}

#[test]
fn what_is_locked_and_does_not_say_since_when_is_kept_for_its_whole_retention_from_now() {
    let mut world = bound();
    world.grant("alpha").desired = ended();
    world.settle();
    let before = held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.clone();
    let older = |text: &str| Record::parse(text).map(|record| Record { locked_at: None, ..record }.render());
    let state = &mut world.cluster.state;
    let texts = state.accounts.values_mut().map(|account| &mut account.description).chain(state.qos.values_mut().map(|qos| &mut qos.description));
    texts.for_each(|text| *text = older(text).unwrap_or_else(|| text.clone()));
    world.pass(60);
    world.settle();
    let after = held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.clone();
    assert!(after.locked_at > before.locked_at && after.retained_until > before.retained_until, "{after:?} after {before:?}");
    assert_eq!(after.ended_at, before.ended_at);
}

#[test]
fn refusals_take_nothing_new_and_lock_what_is_held() {
    let refusal = Refusal { reason: Reason::RefusedBySite, message: "no".to_owned() };
    let mut world = World::new([("alpha", grant())]);
    world.grant("alpha").only_if_held = Some(refusal.clone());
    assert_eq!((world.settle(), world.plan("alpha").phase), (0, SitePhase::Refused));
    let mut world = bound();
    world.grant("alpha").only_if_held = Some(refusal.clone());
    assert_eq!((world.settle(), world.plan("alpha").phase), (0, SitePhase::Bound));
    world.refused.insert(owner("alpha"), refusal);
    world.settle();
    let plan = world.plan("alpha");
    assert!(plan.phase == SitePhase::Refused && plan.detail.access_removed);
    let mut world = World::new([("alpha", grant())]);
    world.policy.paused = true;
    assert_eq!((world.settle(), world.plan("alpha").phase), (0, SitePhase::Pending));
}

#[test]
fn an_earlier_grant_of_the_name_keeps_what_it_used() {
    let mut world = bound();
    world.grant("alpha").desired = ended();
    world.settle();
    world.grants.insert(owner("alpha"), ("uid-2".to_owned(), aifactory_plan::model::intent::GrantIntent { code: "OTHER".to_owned(), ..grant() }));
    assert_eq!((world.settle(), reasons(&world)), (0, vec![Reason::PreviousIncarnation]));
    world.grant("alpha").adopt_previous = true;
    world.settle();
    assert_eq!(world.plan("alpha").phase, SitePhase::Bound);
}

#[test]
fn what_an_earlier_grant_left_open_is_locked_and_no_orphan() {
    let mut world = bound();
    world.site.policy.orphans = OrphanPolicy::Delete;
    world.grants.insert(owner("alpha"), ("uid-2".to_owned(), aifactory_plan::model::intent::GrantIntent { code: "OTHER".to_owned(), ..grant() }));
    world.settle();
    assert!(world.plan("alpha").phase == SitePhase::Refused && world.plan("alpha").detail.access_removed);
    let record = held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.clone();
    assert_eq!((record.uid.as_str(), record.code.as_str(), record.retained()), ("uid-1", grant().code.as_str(), true));
    // Its terms are not known, so time deletes nothing of what it used, nor does the end of the later grant.
    world.grants.clear();
    world.pass(1_000_000);
    world.settle();
    assert_eq!(held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.marks(), record.marks());
}

#[test]
fn what_is_others_is_named_and_left_alone() {
    let mut world = World::new([("alpha", grant())]);
    let account = world.account("alpha");
    world.cluster.account(&account, &AccountName::new("root"), "mine");
    assert_eq!((world.settle(), reasons(&world)), (0, vec![Reason::ForeignObject]));
    assert!(world.plan("alpha").findings[0].message.contains("aifactory-adopt=EHPC-AIF-2026PG99-001"));
    let mut world = World::new([("alpha", grant())]);
    let name = world.qos("alpha", "h100");
    world.cluster.state.qos.entry(name.clone()).or_default().description = "mine".to_owned();
    assert_eq!((world.settle(), reasons(&world)), (0, vec![Reason::ForeignObject]));
    // Done as the message says, it is ours.
    let message = world.plan("alpha").findings[0].message.clone();
    let text = message.split('"').nth(1).expect("the text");
    world.cluster.state.qos.entry(name).or_default().description = text.to_owned();
    world.settle();
    assert_eq!(world.plan("alpha").phase, SitePhase::Bound);
}

#[test]
fn an_adopted_account_is_the_sites_own() {
    let mut world = World::new([("alpha", grant())]);
    world.cluster.account(&AccountName::new("kappa"), &AccountName::new("root"), "Kappa's own; aifactory-adopt=EHPC-AIF-2026PG99-001");
    world.cluster.row(key("kappa", "alice", ""));
    let before = (world.cluster.state.rows.clone(), world.cluster.state.accounts.clone());
    world.settle();
    let plan = world.plan("alpha");
    assert_eq!((plan.phase, plan.detail.members_bound, plan.detail.slurm.expect("detail").account.as_str()), (SitePhase::Bound, 2, "kappa"));
    world.cluster.submit(&key("kappa", "alice", ""));
    world.grant("alpha").desired = ended();
    world.settle();
    assert!(world.plan("alpha").detail.access_removed);
    world.grants.clear();
    world.pass(7200);
    world.settle();
    assert_eq!(world.cluster.jobs.len(), 1, "the site's own job goes on");
    world.cluster.jobs.clear();
    world.settle();
    assert_eq!((world.cluster.state.rows.clone(), world.cluster.state.accounts.clone()), before);
    assert!(held(&world.cluster.read(), &world.scope()).is_empty());
}

#[test]
fn an_account_that_the_site_takes_back_is_locked() {
    let mut world = World::new([("alpha", grant())]);
    world.cluster.account(&AccountName::new("kappa"), &AccountName::new("root"), "aifactory-adopt=EHPC-AIF-2026PG99-001");
    world.settle();
    world.cluster.state.accounts.get_mut("kappa").expect("an account").description = "Kappa's".to_owned();
    world.settle();
    let plan = world.plan("alpha");
    assert!(plan.phase == SitePhase::Refused && plan.detail.access_removed);
}

#[test]
fn orphans_are_reported_locked_or_deleted() {
    let mut world = bound();
    world.grants.clear();
    assert_eq!(world.settle(), 0);
    world.site.policy.orphans = OrphanPolicy::Lock;
    assert_eq!(world.settle(), 1);
    assert!(world.cluster.state.qos[&world.qos("alpha", "h100")].locked());
    world.site.policy.orphans = OrphanPolicy::Delete;
    world.settle();
    assert!(held(&world.cluster.read(), &world.scope()).is_empty());
}

#[test]
fn what_is_changed_by_hand_comes_back() {
    let mut world = bound();
    let (account, h100) = (world.account("alpha"), world.qos("alpha", "h100"));
    let right = world.cluster.state.clone();
    let qos = world.cluster.state.qos.get_mut(&h100).expect("a QOS");
    qos.limits.insert(Limit::GpuMinutes, 1_000_000);
    qos.flags.clear();
    let row = world.cluster.state.rows.get_mut(&RowKey::account(&account)).expect("a row");
    row.parent = AccountName::new("root");
    row.qos.insert(QosName::new("normal"));
    world.cluster.row(key(&account, "mallory", "gpua"));
    world.settle();
    assert_eq!(world.cluster.state, right);
    // An association whose QOS is deleted could run without a budget: it is locked in the first round.
    world.cluster.delete_qos(&h100);
    world.round(usize::MAX, &mut |_, _, _| {});
    assert!(world.cluster.state.rows[&key(&account, "alice", "gpua")].locked());
    world.settle();
    assert_eq!(world.cluster.state, right);
}

#[test]
fn a_wrong_lineage_is_no_access() {
    let mut world = bound();
    let account = world.account("alpha");
    world.cluster.state.rows.get_mut(&key(&account, "alice", "gpua")).expect("a row").lineage = "/0-alice/".to_owned();
    assert_eq!((world.plan("alpha").detail.members_bound, reasons(&world)), (1, vec![Reason::NotWritten]));
}

#[test]
fn pools_of_one_partition_and_kept_data() {
    let mut world = World::new([("alpha", grant())]);
    world.grant("alpha").pools.push(pool("again", "gpua", 5));
    world.grant("alpha").end.after_retention = AfterRetention::Retain;
    world.settle();
    assert!(reasons(&world).contains(&Reason::InvalidSpec));
    world.grant("alpha").desired = ended();
    world.settle();
    world.pass(1_000_000);
    assert_eq!(world.settle(), 0);
    assert!(Record::parse(&world.cluster.state.accounts[&world.account("alpha")].description).is_some_and(|record| record.retained()));
}

#[test]
fn what_can_not_be_read_now_keeps_what_is_held_and_access_is_only_taken_away() {
    let mut world = bound();
    let (account, right) = (world.account("alpha"), world.cluster.state.clone());
    // Neither pools nor the site's entry can be read; a member has left, another one is new.
    let keep = |world: &mut World| {
        let body = world.grant("alpha");
        body.keep = true;
        body.pools.clear();
        body.members = vec![member("m1", Some("alice")), member("m3", Some("carol"))];
    };
    keep(&mut world);
    world.settle();
    let plan = world.plan("alpha");
    assert_eq!((plan.phase, plan.detail.members_wanted, plan.detail.members_bound), (SitePhase::Bound, 2, 1));
    let slurm = plan.detail.slurm.expect("detail");
    assert_eq!((slurm.entries["h100"].partition.as_str(), slurm.entries["a100"].limit), ("gpua", Some(60)));
    let users: std::collections::BTreeSet<_> = world.cluster.state.rows_of(&account).map(|(key, _)| key.user.clone()).collect();
    assert_eq!(users, set(&["", "alice"], UserName::new));
    assert_eq!(world.cluster.state.qos, right.qos);
    // Paused it lets nothing start, and nothing opens it while that lasts.
    world.grant("alpha").desired = Desired::Paused;
    world.settle();
    assert!(world.plan("alpha").phase == SitePhase::Paused && !world.cluster.submit(&key(&account, "alice", "gpua")));
    world.grant("alpha").desired = Desired::Bound;
    assert_eq!((world.settle(), world.plan("alpha").phase), (0, SitePhase::Paused));
    // The end acts as always, and what has ended is not opened, nor deleted by the clock.
    world.grant("alpha").desired = ended();
    world.settle();
    assert!(world.plan("alpha").detail.access_removed);
    world.grant("alpha").desired = Desired::Bound;
    world.pass(10_000);
    assert_eq!((world.settle(), world.plan("alpha").phase), (0, SitePhase::Locked));
    world.grant("alpha").keep = false;
    world.grant("alpha").pools = grant().pools;
    world.settle();
    assert_eq!((world.plan("alpha").phase, world.plan("alpha").detail.members_bound), (SitePhase::Bound, 2));
    // Where nothing is held, nothing is made.
    let mut world = World::new([("alpha", grant())]);
    keep(&mut world);
    world.grant("alpha").pools = grant().pools;
    assert_eq!((world.settle(), world.plan("alpha").phase), (0, SitePhase::Gone));
}

#[test]
fn a_site_that_its_factory_does_not_name_any_more_gives_nothing_new() {
    let mut world = bound();
    world.site.left = true;
    world.grants.insert(owner("beta"), ("uid".to_owned(), grant()));
    world.grant("alpha").members.push(member("m9", Some("dave")));
    assert_eq!(world.settle(), 0);
    assert_eq!((world.plan("alpha").phase, world.plan("beta").phase), (SitePhase::Bound, SitePhase::Gone));
    world.grant("alpha").desired = ended();
    world.settle();
    assert!(world.plan("alpha").detail.access_removed);
}

#[test]
fn a_paused_site_takes_away_what_it_must_and_gives_nothing() {
    let mut world = bound();
    world.policy.paused = true;
    let (account, h100) = (world.account("alpha"), world.qos("alpha", "h100"));
    // A lower budget, a member less, one more, and a higher budget.
    world.grant("alpha").pools[0].budget.device_minutes = 100;
    world.grant("alpha").pools[1].budget.device_minutes = 900;
    world.grant("alpha").members = vec![member("m1", Some("alice")), member("m3", Some("carol"))];
    world.settle();
    let minutes = |world: &World, entry: &str| world.cluster.state.qos[&world.qos("alpha", entry)].limits[&Limit::GpuMinutes];
    assert_eq!((minutes(&world, "h100"), minutes(&world, "a100")), (100, 60));
    let can = |world: &mut World, user: &str| world.cluster.clone().submit(&key(&account, user, "gpua"));
    assert!(can(&mut world, "alice") && !can(&mut world, "bob") && !can(&mut world, "carol"));
    assert!(reasons(&world).contains(&Reason::PausedBySite));
    // The end, and a retention that is over: access is gone, and stays said to be gone, while the site holds up what is left.
    world.grant("alpha").desired = ended();
    world.settle();
    assert!(world.plan("alpha").detail.access_removed && world.cluster.state.qos[&h100].locked());
    world.pass(7200);
    world.settle();
    let plan = world.plan("alpha");
    assert!(plan.detail.access_removed && world.cluster.state.accounts.contains_key(&account), "{:?}", plan.findings);
}

/// What somebody may do with sacctmgr to what says whose an account and its QOS are.
fn strip_account(world: &mut World) {
    let account = world.account("alpha");
    world.cluster.state.accounts.get_mut(&account).expect("an account").description = "x".to_owned();
}

fn strip_qos(world: &mut World) {
    let names = ["h100", "a100"].map(|entry| world.qos("alpha", entry));
    names.iter().for_each(|name| world.cluster.state.qos.get_mut(name).expect("a QOS").description = "x".to_owned());
}

#[test]
fn an_account_and_qos_that_do_not_say_whose_they_are_any_more_are_found_by_their_names_when_the_grant_ends() {
    let mut world = bound();
    strip_account(&mut world);
    strip_qos(&mut world);
    world.grant("alpha").desired = ended();
    let plan = world.plan("alpha");
    assert!(!plan.detail.access_removed && plan.phase == SitePhase::Locked, "{:?}", plan.phase);
    world.settle();
    let rows = [("alice", "gpua"), ("bob", "gpub")].map(|(user, partition)| key(world.account("alpha"), user, partition));
    assert!(rows.iter().all(|row| !world.cluster.clone().submit(row)));
    let plan = world.plan("alpha");
    assert!(plan.detail.access_removed && plan.phase == SitePhase::Locked && plan.findings.is_empty(), "{:?}", plan.findings);
    let record = held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.clone();
    assert!(record.is_kept() && record.uid == "uid-1" && record.code == grant().code, "{record:?}");
}

#[test]
fn what_an_account_and_its_qos_say_about_themselves_comes_back() {
    let mut world = bound();
    let right = world.cluster.state.clone();
    strip_account(&mut world);
    world.settle();
    assert_eq!(world.cluster.state, right);
    strip_qos(&mut world);
    world.settle();
    assert_eq!(world.cluster.state, right);
    strip_account(&mut world);
    strip_qos(&mut world);
    let plan = world.plan("alpha");
    assert_eq!((plan.phase, plan.findings.len(), plan.detail.access_removed), (SitePhase::Bound, 0, false));
    world.settle();
    let records = |world: &World| held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.clone();
    let record = records(&world);
    assert_eq!((record.uid.as_str(), record.state, world.plan("alpha").detail.members_bound), ("uid-1", State::Bound, 2));
}

#[test]
fn a_member_who_is_suspended_loses_access_in_an_account_that_does_not_say_whose_it_is() {
    let mut world = bound();
    let account = world.account("alpha");
    strip_account(&mut world);
    world.cluster.state.rows.get_mut(&key(&account, "bob", "gpua")).expect("a row").qos.insert(QosName::new("normal"));
    world.grant("alpha").members.pop();
    world.settle();
    assert!(!world.cluster.state.rows.keys().any(|key| key.user.as_str() == "bob"));
    // A QOS of the name of a new pool is somebody else's: that holds up what is new, and nobody's end.
    let name = world.qos("alpha", "v100");
    world.cluster.state.qos.entry(name).or_default().description = "mine".to_owned();
    world.grant("alpha").pools.push(pool("v100", "gpua", 5));
    world.grant("alpha").members.pop();
    world.settle();
    assert!(reasons(&world).contains(&Reason::ForeignObject));
    assert!(!world.cluster.state.rows.keys().any(|key| key.user.as_str() == "alice"));
}

#[test]
fn a_way_past_the_budget_is_seen_in_an_account_that_does_not_say_whose_it_is() {
    let mut world = bound();
    let row = key(world.account("alpha"), "alice", "gpua");
    strip_account(&mut world);
    world.cluster.state.rows.get_mut(&row).expect("a row").qos.insert(QosName::new("normal"));
    world.grant("alpha").desired = ended();
    assert!(!world.plan("alpha").detail.access_removed);
    world.settle();
    assert!(world.plan("alpha").detail.access_removed && world.cluster.state.rows[&row].locked());
}

#[test]
fn access_is_not_gone_while_a_member_works_through_an_account_of_the_name_that_is_somebody_elses() {
    let mut world = World::new([("alpha", grant())]);
    let account = world.account("alpha");
    world.cluster.account(&account, &AccountName::new("root"), "mine");
    world.cluster.row(key(&account, "mallory", ""));
    world.grant("alpha").desired = ended();
    assert_eq!((world.settle(), world.plan("alpha").detail.access_removed), (0, true), "mallory is nobody's member");
    world.cluster.row(key(&account, "alice", ""));
    assert_eq!((world.settle(), reasons(&world)), (0, vec![Reason::ForeignObject]));
    let plan = world.plan("alpha");
    assert!(!plan.detail.access_removed && plan.phase != SitePhase::Gone);
    assert!(plan.findings[0].message.contains("alice") && plan.findings[0].message.contains(account.as_str()), "{:?}", plan.findings);
    // A suspended member is one as well, and so is one of whom the site's map says who it is.
    let members = std::mem::take(&mut world.grant("alpha").members);
    assert!(world.plan("alpha").detail.access_removed);
    world.grant("alpha").barred = members;
    assert!(!world.plan("alpha").detail.access_removed);
    world.grant("alpha").barred = vec![member("m1", None)];
    world.users = Some([("m1".to_owned(), UserName::new("alice"))].into());
    assert!(!world.plan("alpha").detail.access_removed);
    // Locked by whoever has the account.
    let row = world.cluster.row(key(&account, "alice", ""));
    (row.submitted_jobs, row.running_jobs) = (Some(0), Some(0));
    assert!(world.plan("alpha").detail.access_removed);
}

#[test]
fn an_account_of_our_name_that_the_site_takes_back_stays_the_sites_own() {
    let mut world = World::new([("alpha", grant())]);
    let account = world.account("alpha");
    world.cluster.account(&account, &AccountName::new("eu-aif"), "aifactory-adopt=EHPC-AIF-2026PG99-001");
    world.settle();
    assert_eq!(world.plan("alpha").phase, SitePhase::Bound);
    world.cluster.state.accounts.get_mut(&account).expect("an account").description = "mine".to_owned();
    world.settle();
    let plan = world.plan("alpha");
    assert!(plan.phase == SitePhase::Refused && plan.detail.access_removed, "{:?}", plan.findings);
    world.grant("alpha").desired = ended();
    world.settle();
    world.pass(7200);
    world.settle();
    assert_eq!(world.cluster.state.accounts[&account].description, "mine");
}

#[test]
fn an_orphan_that_does_not_say_whose_it_is_any_more_is_found_by_its_associations() {
    let mut world = bound();
    strip_account(&mut world);
    strip_qos(&mut world);
    world.grants.clear();
    assert_eq!(held(&world.cluster.read(), &world.scope()).into_keys().collect::<Vec<_>>(), [owner("alpha")]);
    assert_eq!(world.settle(), 0);
    world.site.policy.orphans = OrphanPolicy::Lock;
    world.settle();
    assert!(world.cluster.state.qos[&world.qos("alpha", "h100")].locked() && world.plan("alpha").detail.access_removed);
    // Nothing says any more until when it is kept.
    world.site.policy.orphans = OrphanPolicy::Delete;
    world.settle();
    assert!(world.cluster.state.accounts.contains_key(&world.account("alpha")) && world.plan("alpha").phase == SitePhase::Locked);
}

#[test]
fn an_end_goes_on_when_its_grant_is_gone_from_the_hub() {
    let mut world = bound();
    let (account, right) = (world.account("alpha"), world.cluster.state.clone());
    // In force until it was gone: an orphan, with which nothing is done.
    let (uid, mut body) = world.grants.remove(&owner("alpha")).expect("a grant");
    assert_eq!((world.settle(), &world.cluster.state), (0, &right));
    // Ended, and gone before anything of that was done.
    body.desired = ended();
    world.ending.insert(owner("alpha"), intent(&owner("alpha"), &uid, &body));
    assert!(world.plan("alpha").calls.iter().any(|call| call.stage() == Stage::Lock));
    world.settle();
    assert!(world.plan("alpha").detail.access_removed && !world.cluster.submit(&key(&account, "alice", "gpua")));
    let record = held(&world.cluster.read(), &world.scope())[&owner("alpha")].record.clone();
    assert_eq!((record.is_kept(), record.retained_until), (true, Some(world.now + jiff::SignedDuration::from_secs(7200))));
    // From then on what is kept says itself how long.
    world.ending.clear();
    assert_eq!(world.settle(), 0);
    world.pass(7200);
    world.settle();
    assert!(held(&world.cluster.read(), &world.scope()).is_empty());
}

#[test]
fn what_is_held_is_closed_once_its_plan_says_so() {
    let mut world = bound();
    let held = |world: &World| held(&world.cluster.read(), &world.scope());
    assert!(!all_closed(&held(&world), &world.plans()));
    world.grant("alpha").desired = ended();
    world.settle();
    assert!(all_closed(&held(&world), &world.plans()));
    // After a restart nothing is planned for it before its tombstone is known.
    assert!(!all_closed(&held(&world), &Default::default()));
    assert!(all_closed(&Default::default(), &Default::default()));
}
