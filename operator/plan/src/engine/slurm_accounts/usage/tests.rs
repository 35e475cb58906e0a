use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::model::id::{AccountName, ClusterName, QosName, UserName};

use super::{Completeness, Part, RunKey, RunRecord, RunState, Tally, Window};

/// A run as it really was.
#[derive(Clone, Debug)]
struct Run {
    job: i64,
    submission: i64,
    account: usize,
    gpus: i64,
    start: i64,
    end: i64,
    /// Suspended from, to.
    halt: (i64, i64),
    requeued: bool,
    /// Seconds after which the database knows what happened.
    late: i64,
}

fn account(number: usize) -> AccountName {
    AccountName::new(format!("grant-{number}"))
}

fn overlap(a: (i64, i64), b: (i64, i64)) -> i64 {
    (a.1.min(b.1) - a.0.max(b.0)).max(0)
}

impl Run {
    fn halts(&self, now: i64) -> bool {
        self.start <= now && now < self.end && self.halt.0 <= now && now < self.halt.1
    }

    fn halted(&self, until: i64) -> (i64, i64) {
        (self.halt.0.max(self.start), self.halt.1.min(self.end).min(until))
    }

    fn used(&self, from: i64, to: i64) -> i64 {
        overlap((self.start, self.end), (from, to)) - overlap(self.halted(i64::MAX), (from, to)).min(overlap((self.start, self.end), (from, to)))
    }

    /// What the database shows at a moment that knows everything up to `known`, cut to a window, as Slurm does it.
    fn shown(&self, window: Window, known: i64) -> Option<RunRecord> {
        let over = self.end <= known;
        if self.start > known || self.submission >= window.to || (over && self.end < window.from) {
            return None;
        }
        let end = if over { self.end } else { i64::MAX };
        let seen = (window.from, window.to);
        // What goes on is not taken out yet.
        let halting = !over && self.halt.0 <= known && known < self.halt.1;
        let halted = if over { self.halted(i64::MAX) } else { (self.halt.0.max(self.start), self.halt.1) };
        let suspended = if halting || (!over && self.halt.0 > known) { 0 } else { overlap(halted, (seen.0, seen.1.min(end))) };
        let ran = overlap((self.start, end), seen);
        let words: &[&str] = match (over, self.requeued) {
            (true, true) => &["PENDING", "REQUEUED"],
            (true, false) => &["COMPLETED"],
            (false, _) if halting => &["SUSPENDED"],
            (false, _) => &["RUNNING"],
        };
        Some(RunRecord {
            key: RunKey { cluster: ClusterName::new("c"), job: self.job, submission: self.submission },
            account: account(self.account),
            qos: QosName::new("q"),
            user: UserName::new("alice"),
            state: RunState::of(words.iter().copied()),
            start: self.start.clamp(window.from, window.to),
            end: if over { self.end.min(window.to) } else { 0 },
            elapsed: ran - suspended.min(ran),
            suspended,
            gpus: self.gpus,
            limit: Some(1_000),
        })
    }
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let run = (0..3usize, 0..9i64, 1..900i64, 0..50i64, 0..400i64, 0..400i64, 0..200i64, any::<bool>(), 0..120i64);
    proptest::collection::vec(run, 0..25).prop_map(|runs| {
        let of = |(number, (account, gpus, submission, wait, length, halt, halted, requeued, late))| {
            let start = submission + wait;
            let first = Run {
                job: number as i64,
                submission,
                account,
                gpus,
                start,
                end: start + length,
                halt: (start + halt, start + halt + halted),
                requeued,
                late,
            };
            let again = Run { submission: first.end + 1, start: first.end + 1, end: first.end + 1 + length, requeued: false, ..first.clone() };
            if requeued { vec![first, again] } else { vec![first] }
        };
        runs.into_iter().enumerate().flat_map(of).collect()
    })
}

/// Reads everything up to a moment.
fn cycle(tally: &mut Tally, runs: &[Run], since: &BTreeMap<AccountName, i64>, settle: i64, to: i64, longest: i64, known: impl Fn(&Run) -> i64) {
    let mut sweep = tally.sweep(since, settle, to);
    while let Some(slice) = sweep.next(longest) {
        let mut part = Part::new(slice.window);
        for record in runs.iter().filter_map(|run| run.shown(slice.window, known(run))) {
            if slice.accounts.contains(&record.account) {
                part.add(record.clone());
                part.add(record);
            }
        }
        sweep.took(slice, part);
    }
    sweep.finish();
}

fn exact(runs: &[Run], to: i64) -> BTreeMap<AccountName, i64> {
    let mut sums = BTreeMap::new();
    for run in runs {
        *sums.entry(account(run.account)).or_insert(0) += run.gpus * run.used(0, to);
    }
    sums.retain(|_, used| *used != 0);
    sums
}

fn counted(tally: &Tally) -> BTreeMap<AccountName, i64> {
    tally.usage().iter().filter(|(_, usage)| usage.used != 0).map(|((account, _), usage)| (account.clone(), usage.used)).collect()
}

fn everyone() -> BTreeMap<AccountName, i64> {
    (0..3).map(|number| (account(number), 0)).collect()
}

proptest! {
    /// However time is cut, and whatever was settled when, the sums are the same integers. The present moment is never settled.
    #[test]
    fn cuts_change_nothing(runs in runs(), steps in proptest::collection::vec((1..300i64, 1..300i64, 1..200i64), 1..12)) {
        let (mut tally, mut now) = (Tally::default(), 0);
        for (step, back, longest) in steps {
            now += step;
            cycle(&mut tally, &runs, &everyone(), now - back, now, longest, |_| now);
            if !runs.iter().any(|run| run.halts(now)) {
                prop_assert_eq!(counted(&tally), exact(&runs, now));
            }
        }
        let mut anew = Tally::default();
        cycle(&mut anew, &runs, &everyone(), 0, now, i64::MAX, |_| now);
        prop_assert_eq!(anew.usage(), tally.usage());
    }

    /// What the database learns late is counted once, when it is there.
    #[test]
    fn late_records_are_counted_once(runs in runs(), outage in (0..600i64, 0..900i64), steps in proptest::collection::vec((1..60i64, 1..200i64), 1..40)) {
        let (down, up) = (outage.0, outage.0 + outage.1);
        let (mut tally, mut looks, mut now) = (Tally::default(), Completeness::default(), 0);
        for (step, longest) in steps.into_iter().chain([(3_000, 500), (60, 500), (60, 500)]) {
            now += step;
            // What happens in an outage is known some time after it; the queue is empty when everything was told.
            let known = |run: &Run| if (down..up + run.late).contains(&now) { down } else { now };
            let empty = !(down..up + 120).contains(&now);
            let settle = looks.looked(now, empty).unwrap_or(0);
            cycle(&mut tally, &runs, &everyone(), settle, now, longest, known);
            if empty && !runs.iter().any(|run| run.halts(now)) {
                prop_assert_eq!(counted(&tally), exact(&runs, now));
            }
        }
        prop_assert_eq!(counted(&tally), exact(&runs, now));
    }
}

fn run(job: i64, start: i64, end: i64) -> Run {
    Run { job, submission: start, account: 0, gpus: 2, start, end, halt: (i64::MAX, i64::MAX), requeued: false, late: 0 }
}

#[test]
fn running_jobs_reserve_the_rest_of_their_limit() {
    let runs = [run(1, 100, 900)];
    let mut tally = Tally::default();
    for now in [150, 200, 400] {
        cycle(&mut tally, &runs, &everyone(), now - 20, now, 30, |_| now);
        let usage = tally.usage().get(&(account(0), QosName::new("q"))).unwrap();
        assert_eq!((usage.used, usage.reserved, usage.running), (2 * (now - 100), 2 * (1_000 - (now - 100)), true));
        assert_eq!(tally.busy().get(&account(0)).unwrap(), &BTreeSet::from([UserName::new("alice")]));
    }
    cycle(&mut tally, &runs, &everyone(), 1_000, 1_100, 30, |_| 1_100);
    let usage = tally.usage().get(&(account(0), QosName::new("q"))).unwrap();
    assert_eq!((usage.used, usage.reserved, usage.running), (1_600, 0, false));
    assert!(tally.busy().is_empty());
}

#[test]
fn a_reading_that_fails_leaves_the_last_figures() {
    let runs = [run(1, 100, 900)];
    let mut tally = Tally::default();
    cycle(&mut tally, &runs, &everyone(), 100, 300, 50, |_| 300);
    let before = tally.usage().clone();
    {
        let (everyone, mut settled) = (everyone(), false);
        let mut sweep = tally.sweep(&everyone, 400, 500);
        while let Some(slice) = sweep.next(50).filter(|slice| slice.window.from < 200) {
            let mut part = Part::new(slice.window);
            runs.iter().filter_map(|run| run.shown(slice.window, 500)).for_each(|record| part.add(record));
            settled |= slice.settled;
            sweep.took(slice, part);
        }
        assert!(settled);
    }
    assert_eq!(tally.usage(), &before);
    cycle(&mut tally, &runs, &everyone(), 400, 500, 50, |_| 500);
    assert_eq!(counted(&tally), exact(&runs, 500));
}

#[test]
fn suspended_time_is_no_use_but_is_charged() {
    let runs = [Run { halt: (150, 250), ..run(1, 100, 300) }];
    let mut tally = Tally::default();
    cycle(&mut tally, &runs, &everyone(), 220, 500, 30, |_| 500);
    let usage = tally.usage().get(&(account(0), QosName::new("q"))).unwrap();
    assert_eq!((usage.used, usage.surcharge), (200, 200));
}

#[test]
fn an_account_that_began_anew_is_counted_from_there() {
    let runs = [run(1, 100, 200), run(2, 300, 400)];
    let mut tally = Tally::default();
    cycle(&mut tally, &runs, &everyone(), 450, 500, 60, |_| 500);
    assert_eq!(counted(&tally), BTreeMap::from([(account(0), 400)]));
    let later = BTreeMap::from([(account(0), 250)]);
    cycle(&mut tally, &runs, &later, 450, 500, 60, |_| 500);
    assert_eq!(counted(&tally), BTreeMap::from([(account(0), 200)]));
}

#[test]
fn looks_settle_only_what_two_good_ones_saw() {
    let mut looks = Completeness::default();
    assert_eq!(looks.looked(100, true), None);
    assert_eq!(looks.looked(110, true), None);
    assert_eq!(looks.looked(120, true), Some(100));
    assert_eq!(looks.looked(150, false), Some(100));
    assert_eq!(looks.looked(180, true), Some(100));
    assert_eq!(looks.looked(200, true), Some(180));
    looks.failed();
    assert_eq!(looks.looked(300, true), Some(180));
    assert_eq!(looks.looked(400, true), Some(300));
}
