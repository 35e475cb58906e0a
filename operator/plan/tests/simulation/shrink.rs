//! Playing a case, and finding the shortest one that fails in the same way.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::clock::time;
use super::ops::{Op, Profile, case};
use super::oracle::Violation;
use super::sim::Sim;

/// How many operations a case has.
const LENGTH: usize = 50;

/// The result of a case.
#[derive(Debug, Default, PartialEq)]
pub struct Played {
    /// What was found first.
    pub found: Option<Violation>,
    /// Operations that were carried out: a known fault ends a case.
    pub ops: usize,
    pub events: usize,
}

/// Plays a case.
pub fn run(ops: &[Op]) -> Played {
    let mut sim = Sim::new();
    for (index, op) in ops.iter().enumerate() {
        sim.apply(*op);
        if let Some(found) = sim.watchman.violations.first() {
            return Played { found: Some(found.clone()).filter(|found| !found.known), ops: index + 1, events: sim.steps };
        }
    }
    // What was made of these specs on the way is what is made of them at once.
    if ops.last() == Some(&Op::Settle) {
        sim.check_path();
    }
    let found = sim.watchman.violations.first().cloned().filter(|found| !found.known);
    Played { found, ops: ops.len(), events: sim.steps }
}

/// The same, where a panic of what is tested is a finding as well.
fn guarded(ops: &[Op]) -> Played {
    match catch_unwind(AssertUnwindSafe(|| run(ops))) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let found = Violation { oracle: "panic", at: super::clock::START, text: text.unwrap_or_default(), known: false };
            Played { found: Some(found), ops: ops.len(), events: 0 }
        }
    }
}

/// Leaves out what is not needed for the same oracle to fail.
fn shorten(ops: &[Op], oracle: &str) -> Vec<Op> {
    let fails = |ops: &[Op]| guarded(ops).found.is_some_and(|found| found.oracle == oracle);
    let mut ops = ops.to_vec();
    let mut size = ops.len().div_ceil(2);
    loop {
        let before = ops.len();
        let mut from = 0;
        while from < ops.len() {
            let to = (from + size).min(ops.len());
            let less: Vec<Op> = ops[..from].iter().chain(&ops[to..]).copied().collect();
            if fails(&less) { ops = less } else { from = to }
        }
        if size > 1 {
            size = size.div_ceil(2);
        } else if ops.len() == before {
            return ops;
        }
    }
}

/// Plays cases from this seed on until so many operations were carried out; the failures, shortened, in words: the first, or with `all` one of
/// each kind.
pub fn explore(seed: u64, wanted: usize, profile: Profile, all: bool) -> Vec<String> {
    let (begun, mut played, mut events, mut seed) = (Instant::now(), 0, 0, seed);
    let (mut kinds, mut failures) = (BTreeSet::new(), Vec::new());
    while played < wanted && (all || failures.is_empty()) {
        let ops = case(seed, profile, LENGTH);
        let result = guarded(&ops);
        played += result.ops;
        events += result.events;
        if let Some(found) = result.found.filter(|found| kinds.insert(kind(found))) {
            let least = shorten(&ops, found.oracle);
            let found = guarded(&least).found.unwrap_or(found);
            kinds.insert(kind(&found));
            let list: String = least.iter().map(|op| format!("    Op::{op:?},\n")).collect();
            failures.push(format!("seed {seed}: {} at {}: {}\n[\n{list}]", found.oracle, time(found.at), found.text));
        }
        seed += 1;
    }
    println!("{played} operations, {events} events in {:?}", begun.elapsed());
    failures
}

/// The oracle and the words that name no one.
fn kind(found: &Violation) -> String {
    let words = found.text.split([' ', ':', ';', ',']).filter(|word| word.chars().all(|c| c.is_ascii_lowercase()));
    let words: Vec<&str> = words.filter(|word| !super::cast::SITES.contains(word)).collect();
    format!("{} {}", found.oracle, words.join(" "))
}
