//! The sums that are updated with each report equal those over all reports.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use aifactory_api::Kind;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::digest::digest_of;
use crate::model::report::{Detail, EntryUsage, GrantDetail, PoolDetail, SitePhase};
use crate::model::site_key::Part;

#[derive(Clone, Debug)]
enum Step {
    Grant { grant: u8, pools: Vec<u8> },
    OfGrant { grant: u8, site: u8, slurm: bool, bound: bool, used: Vec<(u8, i64)> },
    OfPool { pool: u8, site: u8, slurm: bool, gone: bool, gpus: i64, allocated: Option<i64> },
    Remove(bool, u8),
    Part(u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let used = proptest::collection::vec((0..3u8, 0..9i64), 0..3);
    prop_oneof![
        (0..3u8, proptest::collection::vec(0..3u8, 0..3)).prop_map(|(grant, pools)| Step::Grant { grant, pools }),
        (0..3u8, 0..2u8, any::<bool>(), any::<bool>(), used).prop_map(|(grant, site, slurm, bound, used)| Step::OfGrant {
            grant,
            site,
            slurm,
            bound,
            used
        }),
        (0..3u8, 0..2u8, any::<bool>(), any::<bool>(), 0..9i64, proptest::option::of(0..9i64))
            .prop_map(|(pool, site, slurm, gone, gpus, allocated)| Step::OfPool { pool, site, slurm, gone, gpus, allocated }),
        (any::<bool>(), 0..3u8).prop_map(|(grant, index)| Step::Remove(grant, index)),
        (0..2u8, any::<bool>()).prop_map(|(site, slurm)| Step::Part(site, slurm)),
    ]
}

fn owner(kind: Kind, index: u8) -> OwnerRef {
    OwnerRef::new(kind, "n", format!("o{index}"))
}

fn key(site: u8, slurm: bool) -> SiteKey {
    let part = if slurm { Part::Slurm } else { Part::Kubernetes };
    SiteKey { part, ..SiteKey::new(OwnerRef::new(Kind::AIFactory, "n", "f"), format!("s{site}")) }
}

fn grant(pools: &[u8]) -> aifactory_api::AccessGrant {
    let pools: Vec<_> = pools
        .iter()
        .enumerate()
        .map(|(at, pool)| json!({"name": format!("e{at}"), "poolRef": {"name": format!("o{pool}")}, "gpuHours": 1, "maxGPUs": 1}))
        .collect();
    serde_json::from_value(json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"name": "g"}, "spec": {
        "factoryRef": {"name": "f"}, "organisation": {"name": "o", "country": "FR", "category": "SME"}, "code": "EHPC-1", "accessMode": "Regular",
        "members": [], "pools": pools, "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2036-01-01T00:00:00Z"}}))
    .unwrap()
}

fn report(owner: OwnerRef, phase: SitePhase, detail: Detail) -> Report {
    Report { owner, uid: String::new(), generation: 1, answers: digest_of(&()), phase, settled: true, findings: Vec::new(), detail }
}

/// The sums of a site in their simplest form: each pool and grant counts once.
fn counted(index: &ReportIndex, site: u8) -> (usize, usize, i64, i64) {
    let (mut pools, mut grants, mut capacity, mut allocated) = (0, 0, 0, 0);
    for reports in index.by_owner.values() {
        let [kubernetes, slurm] = [false, true].map(|slurm| reports.get(&key(site, slurm)));
        let pool = |report: &Report| match &report.detail {
            Detail::Pool(detail) if report.phase != SitePhase::Gone => Some(detail.clone()),
            _ => None,
        };
        let here = [kubernetes, slurm].map(|report| report.and_then(pool));
        grants += usize::from(
            [kubernetes, slurm].into_iter().flatten().any(|report| report.phase == SitePhase::Bound && matches!(report.detail, Detail::Grant(_))),
        );
        if let Some(detail) = here[0].as_ref().or(here[1].as_ref()) {
            pools += 1;
            capacity += detail.gpus;
            allocated += here[1].as_ref().and_then(|detail| detail.allocated).or(here[0].as_ref().and_then(|detail| detail.allocated)).unwrap_or(0);
        }
    }
    (pools, grants, capacity, allocated)
}

/// What was used of a pool in its simplest form.
fn used(cache: &Cache, index: &ReportIndex, pool: &OwnerRef) -> BTreeMap<SiteKey, i64> {
    let mut sums = BTreeMap::new();
    for (owner, grant) in cache.grants() {
        for (entry, _) in grant.spec.pools.iter().zip(crate::hub::cache::pools_of_grant(owner, grant)).filter(|(_, named)| named == pool) {
            for (key, report) in index.by_owner.get(owner).into_iter().flatten() {
                let Detail::Grant(detail) = &report.detail else { continue };
                if let Some(usage) = detail.usage.get(&entry.name) {
                    *sums.entry(key.clone()).or_default() += usage.used;
                }
            }
        }
    }
    sums
}

fn apply(cache: &mut Cache, index: &mut ReportIndex, step: Step) {
    match step {
        Step::Grant { grant: at, pools } => {
            cache.put_grant(owner(Kind::AccessGrant, at), Arc::new(grant(&pools)));
            index.recount(cache, &owner(Kind::AccessGrant, at));
        }
        Step::OfGrant { grant, site, slurm, bound, used } => {
            let usage = used.into_iter().map(|(entry, used)| (format!("e{entry}"), EntryUsage { used, ..EntryUsage::default() })).collect();
            let phase = if bound { SitePhase::Bound } else { SitePhase::Locked };
            let detail = Detail::Grant(GrantDetail { usage, ..GrantDetail::default() });
            if cache.contains(&owner(Kind::AccessGrant, grant)) {
                index.put(cache, &key(site, slurm), report(owner(Kind::AccessGrant, grant), phase, detail));
            }
        }
        Step::OfPool { pool, site, slurm, gone, gpus, allocated } => {
            let phase = if gone { SitePhase::Gone } else { SitePhase::Bound };
            let detail = Detail::Pool(PoolDetail { gpus, allocated, ..PoolDetail::default() });
            index.put(cache, &key(site, slurm), report(owner(Kind::GPUPool, pool), phase, detail));
        }
        Step::Remove(is_grant, at) => {
            let owner = owner(if is_grant { Kind::AccessGrant } else { Kind::GPUPool }, at);
            cache.remove(&owner);
            index.remove(&owner);
        }
        Step::Part(site, slurm) => index.remove_part(cache, &key(site, slurm)),
    }
}

proptest! {
    #[test]
    fn sums_are_those_of_all_reports(steps in proptest::collection::vec(step(), 1..40)) {
        let (mut cache, mut index) = (Cache::default(), ReportIndex::default());
        for step in steps {
            apply(&mut cache, &mut index, step);
            for site in 0..2 {
                let tally = index.tally(&key(site, true));
                let found = (tally.pools(), tally.grants(), tally.gpus().capacity, tally.gpus().allocated);
                let (pools, grants, capacity, allocated) = counted(&index, site);
                prop_assert_eq!(found, (i32::try_from(pools).unwrap(), i32::try_from(grants).unwrap(), capacity, allocated));
            }
            for pool in (0..3).map(|at| owner(Kind::GPUPool, at)) {
                prop_assert_eq!(index.used_by_part(&pool), used(&cache, &index, &pool));
            }
        }
    }
}

#[test]
fn a_report_is_awaited_until_it_is_there_or_nobody_asks_any_more() {
    let (mut cache, mut index) = (Cache::default(), ReportIndex::default());
    let (alpha, beta) = (owner(Kind::AccessGrant, 0), owner(Kind::AccessGrant, 1));
    cache.put_grant(alpha.clone(), Arc::new(grant(&[])));
    index.await_reports(&alpha, [key(0, false), key(1, false)]);
    index.await_reports(&beta, [key(0, false)]);
    assert!(!index.has_answered(&key(0, false)) && !index.has_answered(&key(1, false)));
    index.put(&cache, &key(1, false), report(alpha.clone(), SitePhase::Bound, Detail::None));
    assert!(index.has_answered(&key(1, false)));
    index.await_reports(&alpha, [key(1, false)]);
    assert!(!index.has_answered(&key(0, false)), "beta is awaited still");
    index.remove(&beta);
    assert!(index.has_answered(&key(0, false)));
    index.await_reports(&beta, [key(0, false)]);
    index.await_nothing_of(&key(0, false));
    assert!(index.has_answered(&key(0, false)));
}
