//! What a grant has used of its budgets, and whether anything is left.

use std::collections::BTreeSet;

use aifactory_api::grant::{AccessGrant, AccessGrantStatus, GpuHours, GrantPoolStatus, LocalBudget};
use aifactory_api::pool::Accounting;
use aifactory_api::{ConditionType, OwnerRef, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::site_status::Standing;
use crate::hub::cache::{Cache, pools_of_grant};
use crate::hub::conditions::{Conditions, Status};
use crate::hub::reports::ReportIndex;
use crate::model::budget;
use crate::model::intent::{Body, GrantPoolIntent, Intent};
use crate::model::report::{Detail, EntryUsage, GrantDetail, Report};
use crate::model::text::bounded;
use crate::model::time::whole_seconds;

/// One granted pool.
pub struct Entry {
    name: String,
    granted: i64,
    /// Ten-thousandths of canonical hours; `None` where no site counts.
    used: Option<i64>,
    complete_through: Option<Timestamp>,
    running: bool,
    /// Sites whose figure is old, and why, for people.
    stale: Vec<String>,
    /// Every site has closed it: nothing more can start.
    exhausted: bool,
    /// Whether its use is counted.
    counted: bool,
}

/// A site's intent for a grant with its answer, from which the grant's usage there is read.
pub struct SiteUsage<'a> {
    pub name: &'a str,
    pub placed: bool,
    pub standing: &'a Standing<'a>,
    pub intent: &'a Intent,
}

impl SiteUsage<'_> {
    fn detail(&self) -> Option<&GrantDetail> {
        self.standing.report.and_then(detail)
    }

    fn pool(&self, entry: &str) -> Option<&GrantPoolIntent> {
        match &self.intent.body {
            Body::Grant(grant) => grant.pools.iter().find(|pool| pool.entry == entry),
            Body::Pool(_) => None,
        }
    }
}

fn detail(report: &Report) -> Option<&GrantDetail> {
    match &report.detail {
        Detail::Grant(detail) => Some(detail),
        Detail::Pool(_) | Detail::None => None,
    }
}

/// The figures of every entry.
pub fn entries(cache: &Cache, owner: &OwnerRef, grant: &AccessGrant, sites: &[SiteUsage<'_>]) -> Vec<Entry> {
    let pools = pools_of_grant(owner, grant);
    grant
        .spec
        .pools
        .iter()
        .zip(pools)
        .map(|(entry, pool)| {
            let pool = cache.pool(&pool);
            let accounting = pool.map(|pool| pool.spec.accounting).unwrap_or_default();
            let slurm = pool.is_some_and(|pool| pool.spec.slurm.is_some());
            sum(&entry.name, entry.gpu_hours, accounting, slurm, grant.status.as_ref(), sites)
        })
        .collect()
}

fn sum(name: &str, granted: i64, accounting: Accounting, slurm: bool, previous: Option<&AccessGrantStatus>, sites: &[SiteUsage<'_>]) -> Entry {
    let mut sum = Sum::new(name, granted, slurm, previous);
    for site in sites {
        sum.add(site);
    }
    sum.finish(accounting)
}

/// The sum of what all sites report of one entry.
struct Sum<'a> {
    entry: Entry,
    /// Whether the pool is used through Slurm.
    slurm: bool,
    previous: Option<&'a AccessGrantStatus>,
    /// The entry's figures in the last status.
    known: Option<&'a GpuHours>,
    /// Device-seconds; `None` while no site has reported any.
    seconds: Option<i64>,
    /// Until when each site has counted, for sites where the figure may still grow; `None`: not known.
    through: Vec<Option<Timestamp>>,
    /// The same for sites where no Pod runs, so that the figure is complete however old it is.
    resting: Vec<Timestamp>,
    /// At how many sites the entry is placed.
    places: usize,
    /// A Kubernetes site has not reported since the hub began. Status has only the sum of all sites, so the sum never gets less than that.
    silent: bool,
}

impl<'a> Sum<'a> {
    fn new(name: &str, granted: i64, slurm: bool, previous: Option<&'a AccessGrantStatus>) -> Self {
        let entry = Entry {
            name: name.to_owned(),
            granted,
            used: None,
            complete_through: None,
            running: false,
            stale: Vec::new(),
            exhausted: true,
            counted: slurm,
        };
        let known = previous.and_then(|status| status.pools.iter().find(|pool| pool.name == name)).map(|pool| &pool.gpu_hours);
        Self { entry, slurm, previous, known, seconds: None, through: Vec::new(), resting: Vec::new(), places: 0, silent: false }
    }

    /// Adds what one site reports.
    fn add(&mut self, site: &SiteUsage<'_>) {
        let assigned = site.pool(&self.entry.name);
        let pool = assigned.filter(|_| site.placed);
        let usage = site.detail().and_then(|detail| detail.usage.get(&self.entry.name));
        if let Some(usage) = usage {
            self.add_seconds(usage.used);
            if self.slurm || usage.running || usage.stale {
                self.through.push(usage.complete_through);
            } else {
                self.resting.extend(usage.complete_through);
            }
            self.entry.running |= usage.running;
            self.entry.counted = true;
        }
        if let Some(pool) = pool {
            self.places += 1;
            self.entry.exhausted &= closed(site, pool);
            if self.slurm && usage.is_none() {
                self.add_from_status(site.name);
            }
        }
        self.silent |= !self.slurm && assigned.is_some() && usage.is_none() && !site.standing.reachable;
        let counts = usage.is_some() || pool.is_some_and(|_| self.slurm || self.known.is_some_and(|known| known.used.is_some()));
        self.entry.stale.extend(staleness(site, usage, counts));
    }

    fn add_seconds(&mut self, seconds: i64) {
        self.seconds = Some(self.seconds.unwrap_or(0).saturating_add(seconds));
    }

    /// Adds the figure in the last status for a Slurm site that has not reported since the hub began.
    fn add_from_status(&mut self, site: &str) {
        let row = self.previous.and_then(|status| status.sites.iter().find(|row| row.name == site));
        let used = row.and_then(|row| row.budgets.iter().find(|budget| budget.name == self.entry.name)).and_then(|budget| budget.used);
        if let Some(minutes) = used {
            self.add_seconds(minutes.saturating_mul(60));
            self.through.push(self.known_through());
        }
    }

    fn known_through(&self) -> Option<Timestamp> {
        self.known.and_then(|known| known.complete_through.as_ref()).map(|at| at.0)
    }

    fn finish(mut self, accounting: Accounting) -> Entry {
        self.entry.exhausted &= self.places > 0;
        if self.through.is_empty() {
            self.through.push(self.resting.iter().copied().max());
        }
        self.entry.used = self.seconds.map(|seconds| budget::ten_thousandths(seconds, accounting));
        if let Some(before) = self.known.filter(|_| self.silent).and_then(|known| budget::parse(known.used.as_deref()?)) {
            self.entry.used = self.entry.used.max(Some(before));
            self.entry.counted = true;
            self.through.push(self.known_through());
        }
        let complete = self.through.into_iter().collect::<Option<Vec<_>>>();
        Entry { complete_through: complete.and_then(|times| times.into_iter().min()), ..self.entry }
    }
}

/// Why a site's figure is old, for people. `counts`: the site counts the entry, or is to.
fn staleness(site: &SiteUsage<'_>, usage: Option<&EntryUsage>, counts: bool) -> Option<String> {
    if counts && !site.standing.reachable {
        Some(format!("{}: not reachable", site.name))
    } else if let Some(usage) = usage.filter(|usage| usage.stale) {
        let since = usage.complete_through.map(|at| format!(" since {}", whole_seconds(at))).unwrap_or_default();
        Some(format!("{}: usage could not be read{since}", site.name))
    } else if counts && usage.is_none() && site.standing.settled {
        Some(format!("{}: usage was not read yet", site.name))
    } else {
        None
    }
}

/// Whether a site has closed a pool, since its part of the budget is used up.
pub fn closed(site: &SiteUsage<'_>, pool: &GrantPoolIntent) -> bool {
    let usage = site.detail().and_then(|detail| detail.usage.get(&pool.entry));
    usage.is_some_and(|usage| if pool.partition.is_some() { left(site, pool, usage) < 60 } else { usage.closed })
}

/// Device-seconds that are left by the site's own counter, under the limit that is in force there, or the larger one that was sent and not confirmed.
fn left(site: &SiteUsage<'_>, pool: &GrantPoolIntent, usage: &EntryUsage) -> i64 {
    let read = site.detail().and_then(|detail| detail.slurm.as_ref()?.entries.get(&pool.entry)?.limit);
    let limit = match read {
        Some(read) if site.standing.settled => read,
        read => read.unwrap_or(0).max(pool.budget.device_minutes),
    };
    limit.saturating_mul(60).saturating_sub(usage.used.saturating_add(usage.surcharge))
}

/// A grant's budgets at one Kubernetes site, as it enforces them. `confirmed`: the report answers the last intent.
pub fn at_kubernetes(detail: &GrantDetail, intent: &Intent, confirmed: bool) -> Vec<LocalBudget> {
    let Body::Grant(grant) = &intent.body else { return Vec::new() };
    let budget = |pool: &GrantPoolIntent| {
        let usage = detail.usage.get(&pool.entry)?;
        let limit = confirmed.then_some(pool.budget.device_minutes);
        Some(LocalBudget { name: pool.entry.clone(), unit: budget::OF_PODS.to_owned(), limit, used: Some(usage.used / 60), counter: None })
    };
    grant.pools.iter().filter_map(budget).collect()
}

/// A grant's budgets at one Slurm, as it shows them. `confirmed`: the report answers the last intent.
pub fn at_slurm(detail: &GrantDetail, confirmed: bool) -> Vec<LocalBudget> {
    let entries = detail.slurm.iter().flat_map(|slurm| &slurm.entries);
    entries
        .map(|(name, entry)| {
            let usage = detail.usage.get(name);
            LocalBudget {
                name: name.clone(),
                unit: budget::OF_JOBS.to_owned(),
                limit: entry.limit.filter(|_| confirmed),
                used: usage.map(|usage| usage.used / 60),
                counter: usage.map(|usage| usage.used.saturating_add(usage.surcharge) / 60),
            }
        })
        .collect()
}

/// The figures as status shows them.
pub fn pools(entries: &[Entry]) -> Vec<GrantPoolStatus> {
    entries
        .iter()
        .filter(|entry| entry.counted)
        .map(|entry| GrantPoolStatus {
            name: entry.name.clone(),
            gpu_hours: GpuHours {
                granted: entry.granted.to_string(),
                used: entry.used.map(budget::shown),
                complete_through: entry.complete_through.map(|at| Time(whole_seconds(at))),
                includes_running: entry.used.map(|_| entry.running),
            },
        })
        .collect()
}

/// `1234/5000`, or `5000` where no site counts.
pub fn summary(entries: &[Entry]) -> String {
    let granted = entries.iter().fold(0, |sum: i64, entry| sum.saturating_add(entry.granted));
    let used = entries.iter().filter_map(|entry| entry.used).reduce(i64::saturating_add);
    used.map_or_else(|| granted.to_string(), |used| format!("{}/{granted}", used / 10_000))
}

/// Whether every pool that is counted is used up everywhere.
pub fn used_up(entries: &[Entry]) -> bool {
    let mut counted = entries.iter().filter(|entry| entry.counted).peekable();
    counted.peek().is_some() && counted.all(|entry| entry.exhausted)
}

/// Whether no pool is left in which members can start anything.
pub fn nothing_left(entries: &[Entry]) -> bool {
    used_up(entries) && entries.iter().all(|entry| entry.counted)
}

/// Sets `WithinBudget`.
pub fn within_budget(conditions: &mut Conditions<'_>, entries: &[Entry]) {
    let figure = |entry: &Entry| {
        let used = entry.used.map_or_else(|| "an unknown part".to_owned(), budget::shown);
        format!("{}: {used} of {} GPU-hours used", entry.name, entry.granted)
    };
    let counted: Vec<&Entry> = entries.iter().filter(|entry| entry.counted).collect();
    let figures = bounded(&counted.iter().map(|entry| figure(entry)).collect::<Vec<_>>());
    let stale: Vec<String> = counted.iter().flat_map(|entry| entry.stale.iter().map(|text| format!("{}, {text}", entry.name))).collect();
    let gone: Vec<String> = counted.iter().filter(|entry| entry.exhausted).map(|entry| entry.name.clone()).collect();
    let kind = ConditionType::WithinBudget;
    if counted.is_empty() {
        conditions.set(kind, Status::Unknown, Reason::NotApplicable, "nobody counts what is used of these pools");
    } else if used_up(entries) {
        let text = format!("{figures}. Nothing more can start; raise pools[].gpuHours to go on, what was used stays counted");
        conditions.set(kind, false, Reason::Exhausted, text);
    } else if !stale.is_empty() {
        conditions.set(kind, Status::Unknown, Reason::UsageStale, format!("{figures}, at least; not up to date: {}", bounded(&stale)));
    } else if gone.is_empty() {
        conditions.set(kind, true, Reason::AsSpecified, figures);
    } else {
        conditions.set(kind, true, Reason::AsSpecified, format!("{figures}. Used up: {}", bounded(&gone)));
    }
}

/// Whole canonical hours that grants have used of a pool; `None` where no site counts.
pub fn of_pool(index: &ReportIndex, pool: &OwnerRef, accounting: Accounting) -> Option<i64> {
    Some(budget::ten_thousandths(index.used(pool)?, accounting) / 10_000)
}

/// The entries of a grant that are used through Kubernetes: their figures grow all the time while Pods run, so that status is not written for each
/// change.
pub fn growing(cache: &Cache, owner: &OwnerRef, grant: &AccessGrant) -> BTreeSet<String> {
    let pools = grant.spec.pools.iter().zip(pools_of_grant(owner, grant));
    pools.filter(|(_, pool)| cache.pool(pool).is_some_and(|pool| pool.spec.slurm.is_none())).map(|(entry, _)| entry.name.clone()).collect()
}

/// Removes these entries' figures from a status, to find out whether anything else has changed.
pub fn strip(status: &mut AccessGrantStatus, growing: &BTreeSet<String>) {
    for pool in status.pools.iter_mut().filter(|pool| growing.contains(&pool.name)) {
        pool.gpu_hours.used = None;
        pool.gpu_hours.complete_through = None;
    }
    for budget in status.sites.iter_mut().flat_map(|site| &mut site.budgets).filter(|budget| growing.contains(&budget.name)) {
        budget.used = None;
    }
    if !growing.is_empty() {
        for condition in status.conditions.iter_mut().filter(|condition| condition.type_ == ConditionType::WithinBudget.as_str()) {
            condition.message.clear();
        }
    }
}
