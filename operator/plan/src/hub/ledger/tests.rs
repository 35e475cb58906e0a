//! The account against sites that delay, repeat and reorder their reports, are cut off, and let jobs run on.

use aifactory_api::{Kind, OwnerRef};
use proptest::prelude::*;

use super::*;

const ENTRY: &str = "h100";

fn key(site: usize) -> SiteKey {
    SiteKey::slurm(OwnerRef::new(Kind::AIFactory, "example", "example"), format!("s{site}"))
}

fn parts(parts: &[i64]) -> BTreeMap<SiteKey, i64> {
    parts.iter().enumerate().map(|(site, part)| (key(site), *part)).collect()
}

fn minutes(found: &BTreeMap<SiteKey, (i64, u64)>) -> Vec<i64> {
    found.values().map(|(minutes, _)| *minutes).collect()
}

fn before(former: Former) -> Recalled {
    Recalled { former, used: 0 }
}

#[test]
fn a_part_moves_only_when_the_other_site_has_confirmed() {
    let mut ledger = Ledger::default();
    let none = BTreeMap::new();
    assert_eq!(minutes(&ledger.settle(ENTRY, 100, &parts(&[80, 20]), &none)), [80, 20]);
    let moved = ledger.settle(ENTRY, 100, &parts(&[20, 80]), &none);
    assert_eq!(minutes(&moved), [20, 20], "lowered at once, not raised yet");
    assert!(!ledger.record(ENTRY, &key(0), 0, Some(80), Some(0)), "about an earlier assignment");
    assert_eq!(minutes(&ledger.settle(ENTRY, 100, &parts(&[20, 80]), &none)), [20, 20]);
    assert!(ledger.record(ENTRY, &key(0), 1, Some(20), Some(50 * 60)));
    assert_eq!(minutes(&ledger.settle(ENTRY, 100, &parts(&[20, 80]), &none)), [20, 50], "what running jobs have reserved counts as used");
    assert!(ledger.record(ENTRY, &key(0), 1, Some(20), Some(10 * 60)));
    assert_eq!(minutes(&ledger.settle(ENTRY, 100, &parts(&[20, 80]), &none)), [20, 80]);
}

#[test]
fn what_a_site_used_beyond_its_part_is_taken_from_the_others() {
    let mut ledger = Ledger::default();
    let none = BTreeMap::new();
    ledger.settle(ENTRY, 100, &parts(&[50, 30, 20]), &none);
    ledger.record(ENTRY, &key(0), 0, Some(50), Some(50 * 60));
    let lower = ledger.settle(ENTRY, 60, &parts(&[30, 18, 12]), &none);
    assert_eq!(minutes(&lower), [30, 6, 4]);
}

#[test]
fn what_a_cut_site_may_use_is_taken_from_the_others() {
    let mut ledger = Ledger::default();
    let none = BTreeMap::new();
    assert_eq!(minutes(&ledger.settle(ENTRY, 80, &parts(&[40, 40]), &none)), [40, 40]);
    ledger.unreachable(BTreeSet::from([key(1)]));
    assert_eq!(minutes(&ledger.settle(ENTRY, 80, &parts(&[40, 40]), &none)), [40, 40], "a cut alone changes nothing");
    assert_eq!(minutes(&ledger.settle(ENTRY, 60, &parts(&[50, 10]), &none)), [20, 10]);
    ledger.unreachable(BTreeSet::new());
    assert!(ledger.record(ENTRY, &key(1), 1, Some(10), Some(30 * 60)));
    assert_eq!(minutes(&ledger.settle(ENTRY, 60, &parts(&[50, 10]), &none)), [30, 10]);
    // A limit that may have been assigned before counts where another part is raised, and lowers none.
    let mut ledger = Ledger::default();
    ledger.unreachable(BTreeSet::from([key(1)]));
    let recalled = BTreeMap::from([(key(0), before(Former::Limit(20))), (key(1), before(Former::Unsure(Some(30))))]);
    assert_eq!(minutes(&ledger.settle(ENTRY, 60, &parts(&[50, 10]), &recalled)), [20, 10]);
}

#[test]
fn a_grant_that_got_smaller_while_nobody_looked_is_not_raised_anywhere() {
    let recalled = |at| BTreeMap::from([(key(0), at), (key(1), before(Former::Limit(20)))]);
    let mut ledger = Ledger::default();
    assert_eq!(minutes(&ledger.settle(ENTRY, 100, &parts(&[20, 80]), &recalled(before(Former::Limit(80))))), [20, 20]);
    let mut ledger = Ledger::default();
    assert_eq!(
        minutes(&ledger.settle(ENTRY, 100, &parts(&[20, 80]), &recalled(before(Former::Unsure(None))))),
        [20, 20],
        "it may have anything in force"
    );
}

/// A Slurm with one QOS: starts a job only where all of its time fits, and never ends one.
#[derive(Clone, Debug, Default)]
struct Site {
    limit: Option<(i64, u64)>,
    used: i64,
    reserved: i64,
    inbox: Vec<(i64, u64)>,
    cut: bool,
}

#[derive(Clone, Debug)]
enum Event {
    Edit { total: i64, weights: [i64; 3] },
    Deliver { site: usize, which: prop::sample::Index },
    Apply { site: usize },
    Start { site: usize, minutes: i64 },
    Burn { site: usize, minutes: i64 },
    EndEarly { site: usize },
    Report { site: usize, limit_only: bool },
    Cut { site: usize },
    Join { site: usize },
    WriteStatus,
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let site = || 0..3usize;
    let event = prop_oneof![
        2 => (1..200i64, [0..10i64, 0..10i64, 1..10i64]).prop_map(|(total, weights)| Event::Edit { total, weights }),
        6 => (site(), any::<prop::sample::Index>()).prop_map(|(site, which)| Event::Deliver { site, which }),
        6 => site().prop_map(|site| Event::Apply { site }),
        6 => (site(), 1..80i64).prop_map(|(site, minutes)| Event::Start { site, minutes }),
        4 => (site(), 1..80i64).prop_map(|(site, minutes)| Event::Burn { site, minutes }),
        1 => site().prop_map(|site| Event::EndEarly { site }),
        6 => (site(), prop::bool::weighted(0.2)).prop_map(|(site, limit_only)| Event::Report { site, limit_only }),
        1 => site().prop_map(|site| Event::Cut { site }),
        1 => site().prop_map(|site| Event::Join { site }),
        2 => Just(Event::WriteStatus),
        1 => Just(Event::Restart),
    ];
    proptest::collection::vec(event, 1..120)
}

type Message = (usize, u64, u64, Option<i64>, Option<i64>);

#[derive(Debug, Default)]
struct Federation {
    sites: Vec<Site>,
    /// Reports that may arrive at any time, also twice, and in any order: site, number of the hub's start, serial, limit, held.
    messages: Vec<Message>,
    ledger: Ledger,
    life: u64,
    generation: i64,
    total: i64,
    wanted: BTreeMap<SiteKey, i64>,
    /// Generation, and the limit of each site as status names it: only one that answers the last assignment.
    status: Option<(i64, BTreeMap<SiteKey, Option<i64>>)>,
    confirmed: BTreeMap<usize, (u64, i64)>,
    last: BTreeMap<SiteKey, (i64, u64)>,
}

impl Federation {
    fn settle(&mut self) {
        let recalled = match &self.status {
            None => BTreeMap::new(),
            Some((generation, limits)) => limits
                .iter()
                .map(|(key, limit)| {
                    let recalled = match limit {
                        Some(limit) if *generation == self.generation => before(Former::Limit(*limit)),
                        None if *generation == self.generation && self.generation <= 1 => before(Former::Part),
                        limit => before(Former::Unsure(*limit)),
                    };
                    (key.clone(), recalled)
                })
                .collect(),
        };
        self.ledger.unreachable(self.sites.iter().enumerate().filter(|(_, site)| site.cut).map(|(index, _)| key(index)).collect());
        let found = self.ledger.settle(ENTRY, self.total, &self.wanted, &recalled);
        for (index, site) in self.sites.iter_mut().enumerate() {
            let Some(assignment) = found.get(&key(index)) else { continue };
            if !site.cut && self.last.get(&key(index)) != Some(assignment) {
                site.inbox.push(*assignment);
            }
        }
        let reached: BTreeSet<SiteKey> = self.sites.iter().enumerate().filter(|(_, site)| !site.cut).map(|(index, _)| key(index)).collect();
        self.last.extend(found.into_iter().filter(|(key, _)| reached.contains(key)));
    }

    fn edit(&mut self, total: i64, weights: [i64; 3]) {
        self.generation += 1;
        self.total = total;
        let sum: i64 = weights.iter().sum();
        self.wanted = weights.iter().enumerate().map(|(index, weight)| (key(index), total * weight / sum)).collect();
        self.settle();
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Edit { total, weights } => self.edit(*total, *weights),
            Event::Deliver { site, which } => {
                let messages: Vec<_> = self.messages.iter().filter(|message| message.0 == *site).copied().collect();
                if !messages.is_empty() && !self.sites[*site].cut {
                    let (_, life, serial, limit, held) = *which.get(&messages);
                    // The controllers of an earlier hub process have ended, and their reports with them.
                    if life == self.life {
                        self.ledger.record(ENTRY, &key(*site), serial, limit, held);
                        if let Some(limit) = limit {
                            self.confirmed.insert(*site, (serial, limit));
                        }
                        self.settle();
                    }
                }
            }
            Event::Apply { site } => {
                let site = &mut self.sites[*site];
                if !site.inbox.is_empty() {
                    site.limit = Some(site.inbox.remove(0));
                }
            }
            Event::Start { site, minutes } => {
                let site = &mut self.sites[*site];
                if site.limit.is_some_and(|(limit, _)| site.used + site.reserved + minutes * 60 <= limit * 60) {
                    site.reserved += minutes * 60;
                }
            }
            Event::Burn { site, minutes } => {
                let site = &mut self.sites[*site];
                let burnt = (minutes * 60 - 7).min(site.reserved);
                site.reserved -= burnt;
                site.used += burnt;
            }
            Event::EndEarly { site } => self.sites[*site].reserved = 0,
            Event::Report { site, limit_only } => {
                let found = &self.sites[*site];
                if let Some((limit, serial)) = found.limit {
                    self.messages.push((*site, self.life, serial, Some(limit), (!limit_only).then_some(found.used + found.reserved)));
                }
            }
            Event::Cut { site } => {
                self.sites[*site].cut = true;
                self.settle();
            }
            Event::Join { site } => {
                self.sites[*site].cut = false;
                self.last.remove(&key(*site));
                self.settle();
            }
            Event::WriteStatus => {
                let limit = |index: usize| {
                    let current = self.ledger.entries.get(ENTRY).and_then(|shares| shares.get(&key(index))).map(|share| share.serial);
                    self.confirmed.get(&index).filter(|(serial, _)| Some(*serial) == current).map(|(_, limit)| *limit)
                };
                self.status = Some((self.generation, (0..3).map(|index| (key(index), limit(index))).collect()));
            }
            Event::Restart => {
                self.life += 1;
                self.ledger = Ledger::default();
                self.confirmed.clear();
                self.last.clear();
                for site in &mut self.sites {
                    // Sites' controllers end with the hub, so that a limit which was not written yet is lost.
                    site.inbox.clear();
                    site.limit = site.limit.map(|(limit, _)| (limit, u64::MAX));
                }
                self.settle();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No order of edits, delays, cuts and restarts lets the sites together use more than the largest budget that was ever in force.
    #[test]
    fn the_sites_together_never_pass_the_budget(first in (1..200i64, [0..10i64, 0..10i64, 1..10i64]), events in events()) {
        let mut federation = Federation { sites: vec![Site::default(); 3], ..Federation::default() };
        federation.edit(first.0, first.1);
        let mut most = federation.total;
        for event in &events {
            // The first status is written before the first edit; without any, the hub goes by spec alone.
            if matches!(event, Event::Edit { .. }) && federation.status.is_none() {
                federation.step(&Event::WriteStatus);
            }
            federation.step(event);
            most = most.max(federation.total);
            let bound: i64 = federation.sites.iter().map(|site| site.used + site.reserved).sum();
            prop_assert!(bound <= most * 60, "{bound} device-seconds used or reserved, {most} device-minutes granted, after {event:?}");
        }
    }

    /// Once every site answers and nothing runs, each site has its part.
    #[test]
    fn parts_arrive(first in (1..200i64, [0..10i64, 0..10i64, 1..10i64]), second in (1..200i64, [0..10i64, 0..10i64, 1..10i64])) {
        let mut federation = Federation { sites: vec![Site::default(); 3], ..Federation::default() };
        federation.edit(first.0, first.1);
        federation.edit(second.0, second.1);
        for _ in 0..4 {
            for site in 0..3 {
                while !federation.sites[site].inbox.is_empty() {
                    federation.step(&Event::Apply { site });
                }
                federation.step(&Event::Report { site, limit_only: false });
                let (_, _, serial, limit, held) = *federation.messages.last().expect("a report");
                federation.ledger.record(ENTRY, &key(site), serial, limit, held);
            }
            federation.settle();
        }
        let found: BTreeMap<SiteKey, i64> = federation.sites.iter().enumerate().map(|(index, site)| (key(index), site.limit.expect("a limit").0)).collect();
        prop_assert_eq!(found, federation.wanted);
    }
}
