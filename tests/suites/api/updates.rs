//! Mistakes in changes of what is there.

use aifactory_tests::run;
use serde_json::json;

use super::Outcome;
use super::mistake::{Base, Mistake, check};

const LEAVES: &[&str] = &["sites: a site leaves the list only from stage Proposed or Decommissioned", "write `stage: Decommissioned` first"];
const REVISION: &[&str] = &[
    "decision.revision: more hours, another pool, an earlier notBefore or a later notAfter need a decision of a higher revision",
    "example: `decision: {reference: AIF-2026-12/3, revision: 2}`",
];

const HELD: &[&str] = &["spec.sites: a site leaves the list only once it holds nothing any more", "wait until status.sites[] says `claimed: false`"];
const REACHED: &[&str] = &["spec.sites: how a site is reached", "changes only at stage Proposed or Decommissioned", "`claimed: false`"];

/// What a site is reached by, as long as it may hold something.
fn reached() -> Vec<Mistake> {
    let row = |name, stage: &str, found: serde_json::Value| {
        let rest = json!({"url": "https://slurm.example:6820", "tokenSecretRef": {"name": "bissen-slurm", "key": "token"}});
        Mistake::update(name, Base::Factory)
            .given("/spec/links", json!([]))
            .given("/spec/sites/0/stage", json!(stage))
            .given("/spec/sites/0/slurm", json!({"clusterName": "bissen", "rest": rest}))
            .found(json!({"sites": [found]}))
    };
    let claimed = || json!({"name": "bissen", "claimed": true});
    let free = || json!({"name": "bissen", "claimed": false, "pools": 0, "grants": 0});
    let secret = json!({"name": "bissen-2026", "key": "config"});
    vec![
        row("a site leaves that is claimed", "Decommissioned", claimed())
            .wrote("/spec/sites/0", json!(null))
            .meant("/spec/sites/1/country", json!("DE"))
            .error(HELD),
        row("a site leaves that grants are bound at", "Decommissioned", json!({"name": "bissen", "grants": 1}))
            .wrote("/spec/sites/0", json!(null))
            .error(HELD),
        row("a site leaves that a pool is at", "Proposed", json!({"name": "bissen", "pools": 1})).wrote("/spec/sites/0", json!(null)).error(HELD),
        row("a site that is free leaves from Production", "Production", free())
            .wrote("/spec/sites/0", json!(null))
            .meant("/spec/sites/0/stage", json!("Decommissioned"))
            .error(LEAVES),
        row("Kubernetes taken away", "Decommissioned", claimed())
            .wrote("/spec/sites/0/kubernetes", json!(null))
            .meant("/spec/sites/0/kubernetes/push/kubeconfigSecretRef", secret)
            .error(REACHED),
        row("Kubernetes reached otherwise", "Production", free())
            .wrote("/spec/sites/0/kubernetes", json!({"local": {}}))
            .meant("/spec/sites/0/network/podCIDRs", json!(["10.44.0.0/16"]))
            .error(REACHED),
        row("Slurm's REST taken away", "Production", claimed())
            .wrote("/spec/sites/0/slurm/rest", json!(null))
            .meant("/spec/sites/0/slurm/rest/tokenSecretRef/name", json!("bissen-slurm-2026"))
            .error(REACHED),
        row("another Slurm under the same name", "Production", claimed())
            .wrote("/spec/sites/0/slurm/rest/url", json!("https://other.example:6820"))
            .meant("/spec/sites/0/slurm/rest/parentAccount", json!("eu-aif"))
            .error(REACHED),
        row("another cluster's name", "Decommissioned", claimed()).wrote("/spec/sites/0/slurm/clusterName", json!("belval")).error(REACHED),
        row("another cluster's name while nothing is there, and a claimed site's Kubernetes", "Decommissioned", free())
            .wrote("/spec/sites/0/slurm/clusterName", json!("belval"))
            .wrote("/spec/sites/1/kubernetes", json!({"pull": {}}))
            .meant("/spec/sites/0/slurm/clusterName", json!("belval"))
            .error(REACHED),
        row("all that is free at once", "Decommissioned", free())
            .wrote("/spec/sites/1", json!(null))
            .meant("/spec/sites/0", json!(null))
            .error(LEAVES),
    ]
}

#[test]
fn what_a_site_is_reached_by_stays_while_it_may_hold_something() -> Outcome {
    run(check(reached(), 11))
}

fn rows() -> Vec<Mistake> {
    let factory = |name| Mistake::update(name, Base::Factory).given("/spec/links", json!([]));
    let pool = |name| Mistake::update(name, Base::Pool);
    let grant = |name| Mistake::update(name, Base::Grant);
    let higher = json!({"reference": "AIF-2026-12/3", "revision": 3});
    vec![
        factory("a site in production taken from the list")
            .wrote("/spec/sites/0", json!(null))
            .meant("/spec/sites/0/stage", json!("Decommissioned"))
            .error(LEAVES),
        factory("all sites taken away").wrote("/spec/sites", json!(null)).error(LEAVES),
        factory("a site renamed").wrote("/spec/sites/0/name", json!("bissen-1")).error(LEAVES),
        factory("a proposed site leaves, and one in production with it")
            .given("/spec/sites/-", json!({"name": "belval", "country": "LU", "stage": "Proposed", "kubernetes": {"pull": {}}}))
            .wrote("/spec/sites/2", json!(null))
            .wrote("/spec/sites/1", json!(null))
            .meant("/spec/sites/2", json!(null))
            .error(LEAVES),
        pool("a site in use taken from the list")
            .wrote("/spec/sites/0", json!(null))
            .meant("/spec/sites/1", json!(null))
            .error(&["sites: a site leaves the list only from state Draining", "write `state: Draining` first"]),
        pool("given to another factory").wrote("/spec/factoryRef/name", json!("other")).error(&["factoryRef is immutable", "make another pool"]),
        pool("other hardware")
            .wrote("/spec/accelerator/model", json!("H200-SXM5-141GB"))
            .meant("/spec/perGPU/cpus", json!(24))
            .error(&["accelerator is immutable", "make another pool"]),
        pool("from Kubernetes to Slurm")
            .wrote("/spec/kubernetes", json!(null))
            .wrote("/spec/slurm", json!({"partition": "h100"}))
            .error(&["slurm, kubernetes: how a pool is used is immutable", "make another pool"]),
        grant("given by another factory").wrote("/spec/factoryRef/name", json!("other")).error(&["factoryRef is immutable", "make another grant"]),
        grant("another code").wrote("/spec/code", json!("EHPC-AIF-2026PG99-002")).error(&["code is immutable", "make another grant"]),
        grant("more hours")
            .given("/metadata/labels", json!({"team": "x"}))
            .wrote("/spec/pools/0/gpuHours", json!(6000))
            .meant("/spec/pools/0/gpuHours", json!(6000))
            .meant("/spec/decision", higher.clone())
            .error(REVISION),
        grant("a later end")
            .wrote("/spec/notAfter", json!("2027-04-01T00:00:00Z"))
            .meant("/spec/notAfter", json!("2027-04-01T00:00:00Z"))
            .meant("/spec/decision", higher.clone())
            .error(REVISION),
        grant("an earlier beginning")
            .wrote("/spec/notBefore", json!("2026-11-01T00:00:00Z"))
            .meant("/spec/notBefore", json!("2026-12-15T00:00:00Z"))
            .error(REVISION),
        grant("another pool")
            .wrote("/spec/pools/-", json!({"name": "h200", "poolRef": {"name": "h200"}, "gpuHours": 1, "maxGPUs": 1}))
            .meant("/spec/pools/-", json!({"name": "h200", "poolRef": {"name": "h200"}, "gpuHours": 1, "maxGPUs": 1}))
            .meant("/spec/decision", higher.clone())
            .error(REVISION),
        grant("another pool under an old name")
            .wrote("/spec/pools/0/poolRef/name", json!("h200"))
            .meant("/spec/pools/0/gpuHours", json!(4000))
            .error(REVISION),
        grant("a lower revision")
            .wrote("/spec/decision/revision", json!(1))
            .meant("/spec/decision/revision", json!(3))
            .error(&["decision.revision must not become lower", "write `revision: 3`"]),
        grant("the decision taken away")
            .wrote("/spec/decision", json!(null))
            .meant("/spec/decision", higher)
            .error(&["decision must not be taken away", "example: `decision:"]),
    ]
}

#[test]
fn changes_of_what_is_there() -> Outcome {
    run(check(rows(), 17))
}
