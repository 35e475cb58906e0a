//! A deterministic simulation of the whole operator: a hub, sites, and random events from a seed. Oracles are written from the docs.
//!
//! `AIFACTORY_SIMULATION_SEED` and `AIFACTORY_SIMULATION_OPS` explore further. A case that fails is shortened, and printed as a list of operations
//! that can be pasted into a test beside those below. With `AIFACTORY_SIMULATION_ALL` one failure of each kind is printed, and with
//! `AIFACTORY_SIMULATION_KNOWN` known faults count as failures as well. `AIFACTORY_SIMULATION_TRACE` prints every write.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

#[path = "simulation/cast.rs"]
mod cast;
#[path = "simulation/clock.rs"]
mod clock;
#[path = "simulation/controller.rs"]
mod controller;
#[path = "simulation/hub_store.rs"]
mod hub_store;
#[path = "simulation/ops.rs"]
mod ops;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/play.rs"]
mod play;
#[path = "simulation/reconcile.rs"]
mod reconcile;
#[path = "simulation/rest.rs"]
mod rest;
#[path = "simulation/shrink.rs"]
mod shrink;
#[path = "simulation/sim.rs"]
mod sim;
#[path = "simulation/site_store.rs"]
mod site_store;
#[allow(dead_code, reason = "shared with the tests of Slurm")]
mod slurm;
#[path = "simulation/slurm_site.rs"]
mod slurm_site;
#[path = "simulation/slurm_worker.rs"]
mod slurm_worker;
#[path = "simulation/worker.rs"]
mod worker;

use ops::{CALM, Op, Profile, WHOLE, case};
use shrink::{explore, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a whole number")))
}

/// Plays cases until so many operations were carried out.
fn simulate(seed: u64, ops: u64, profile: Profile) {
    let seed = number("AIFACTORY_SIMULATION_SEED").unwrap_or(seed);
    let ops = number("AIFACTORY_SIMULATION_OPS").unwrap_or(ops);
    let all = std::env::var_os("AIFACTORY_SIMULATION_ALL").is_some();
    let failures = explore(seed, usize::try_from(ops).expect("small"), profile, all);
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn calm_edits() {
    simulate(1_000, 4_000, CALM);
}

#[test]
fn everything() {
    simulate(1_000_000, 6_000, WHOLE);
}

#[test]
fn the_same_case_gives_the_same_play() {
    let ops = case(7, WHOLE, 60);
    assert_eq!(run(&ops), run(&ops));
}

#[test]
fn a_grant_is_bound_and_revoked() {
    let ops =
        [Op::Create(0, 0), Op::Settle, Op::State(0, "Revoked"), Op::Settle, Op::State(0, "Active"), Op::Settle, Op::Delete(0, true), Op::Settle];
    assert_eq!(run(&ops).found.map(|found| found.text), None);
}

/// A Namespace goes after its retention; its watch is a little ahead of that of network policies. The placement is being drained, so that nothing new
/// may be given there, and nobody is to be let in without a fence.
#[test]
fn a_namespace_that_went_is_not_taken_for_one_that_lost_its_mark() {
    let ops = [
        Op::Create(0, 0),
        Op::Create(2, 0),
        Op::Wait(20_000),
        Op::PlaceAt(0, 0, "Draining"),
        Op::Lag(0, 50, 1),
        Op::NotAfter(0, 1_000),
        Op::Edge(0, true, 1),
        Op::NotAfter(0, 7_776_000_000),
        Op::Edge(2, true, 1),
    ];
    assert_eq!(run(&ops).found.map(|found| found.text), None);
}

/// A site's etcd is set back to before the end of a grant, and its Namespace is deleted before the operator has seen either: what was to be an update
/// makes no Namespace anew, since the fence that the operator knows went with the former one.
#[test]
fn a_namespace_that_was_deleted_meanwhile_is_not_made_again_by_an_update() {
    let ops =
        [Op::Create(0, 0), Op::Wait(1_000), Op::SaveSite(1), Op::State(0, "Revoked"), Op::RestoreSite(1), Op::DeleteNamespace(1, 0), Op::Settle];
    assert_eq!(run(&ops).found.map(|found| found.text), None);
}
