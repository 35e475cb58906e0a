//! Every example, rendered for each of its sites by the pure core, beside files that are reviewed like code. `UPDATE=1` rewrites them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[allow(dead_code)]
#[path = "../../operator/plan/tests/slurm/mod.rs"]
mod stand_in;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use aifactory_plan::engine;
use aifactory_plan::engine::nodes::{self, NodeView};
use aifactory_plan::engine::slurm_accounts::{AccountView, RemovalProgress, plan_grant};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::ledger::Ledger;
use aifactory_plan::hub::project;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::{Body, Intent, SiteIntent};
use aifactory_plan::model::kind::ObjectKind;
use aifactory_plan::model::plan::{Action, ObservedObjects, Plan};
use aifactory_plan::model::site_key::{Part, SiteKey};
use aifactory_plan::model::view::Views;
use aifactory_plan::site::grant::{self, GrantView};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::pool::{self, PoolView};
use aifactory_tests::{Manifests, layout};
use kube::ResourceExt;
use serde_json::json;

const HUB: &str = "0123456789abcdef";

fn world(folders: &[&str]) -> Cache {
    let mut world = Cache::default();
    for folder in folders {
        for object in Manifests::read(&layout::root().join("examples").join(folder)).unwrap().objects() {
            let Some(kind) = object.types.as_ref().and_then(|types| Kind::parse(&types.kind)) else { continue };
            let owner = OwnerRef::new(kind, object.namespace().unwrap(), object.name_any());
            let mut value = serde_json::to_value(object).unwrap();
            value["metadata"]["uid"] = json!(format!("uid-of-{}", owner.name));
            value["metadata"]["generation"] = json!(1);
            value["metadata"]["creationTimestamp"] = json!("2026-11-21T00:00:00Z");
            match kind {
                Kind::AIFactory => world.put_factory(owner, Arc::new(serde_json::from_value::<AIFactory>(value).unwrap())),
                Kind::GPUPool => world.put_pool(owner, Arc::new(serde_json::from_value::<GPUPool>(value).unwrap())),
                Kind::AccessGrant => {
                    // In force now, whatever its dates.
                    value["spec"]["notBefore"] = json!("2026-11-20T00:00:00Z");
                    value["spec"]["notAfter"] = json!("2027-03-01T00:00:00Z");
                    world.put_grant(owner, Arc::new(serde_json::from_value::<AccessGrant>(value).unwrap()));
                }
            }
        }
    }
    world
}

/// What each site is asked to hold, on a site where nothing is yet.
fn rendered(world: &Cache) -> BTreeMap<String, String> {
    let now = "2026-11-21T12:00:00Z".parse().unwrap();
    let none = BTreeSet::new();
    let mut intents: BTreeMap<SiteKey, Vec<Intent>> = BTreeMap::new();
    for (owner, _) in world.pools() {
        for (key, intent) in project::pool(world, owner, &none).sites {
            intents.entry(key).or_default().push(intent);
        }
    }
    for (owner, _) in world.grants() {
        for (key, intent) in project::grant_within(world, owner, &none, Some(&mut Ledger::default()), now).unwrap().sites {
            intents.entry(key).or_default().push(intent);
        }
    }
    let mut files = BTreeMap::new();
    for (key, intents) in intents {
        let site = project::site(world, &HubId::new(HUB), &key, None).unwrap();
        if key.part == Part::Slurm {
            files.insert(format!("{}-{}-slurm.txt", key.factory.name, key.site), asked_of_slurm(&site, &intents, now));
            continue;
        }
        let mut text = String::new();
        for intent in &intents {
            let plan = plan(&site, intent, now);
            writeln!(text, "# {} is {:?} here", intent.owner, plan.phase).unwrap();
            for finding in &plan.findings {
                writeln!(text, "# {}: {}", finding.reason, finding.message).unwrap();
            }
            for (number, step) in plan.steps.iter().enumerate() {
                for action in &step.actions {
                    writeln!(text, "--- # step {}, {:?}", number + 1, step.purpose).unwrap();
                    match action {
                        Action::Apply(object) => text.push_str(&serde_yaml::to_string(&object.content).unwrap()),
                        other => text.push_str(&serde_yaml::to_string(other).unwrap()),
                    }
                }
            }
        }
        files.insert(format!("{}-{}.yaml", key.factory.name, key.site), text);
    }
    files
}

/// What Slurm is asked for each grant, round by round, as the stand-in for it answers.
fn asked_of_slurm(site: &SiteIntent, intents: &[Intent], now: jiff::Timestamp) -> String {
    let mut slurm = stand_in::Cluster::new();
    let (policy, users, nobody) = (SitePolicy::default(), BTreeMap::new(), BTreeSet::new());
    let mut removals = RemovalProgress::default();
    let mut text = String::new();
    for intent in intents {
        let Body::Grant(grant) = &intent.body else { continue };
        slurm.state.partitions.extend(grant.pools.iter().filter_map(|pool| pool.partition.clone()));
        for round in 1.. {
            assert!(round < 9, "{text}");
            let snapshot = slurm.read();
            let view = AccountView { snapshot: &snapshot, policy: &policy, users: Some(&users), refused: None, busy: &nobody, removals: &removals };
            let plan = plan_grant(site, intent, grant, &view, now);
            if plan.calls.is_empty() {
                writeln!(text, "# {} is {:?} here", intent.owner, plan.phase).unwrap();
                for finding in &plan.findings {
                    writeln!(text, "# {}: {}", finding.reason, finding.message).unwrap();
                }
                break;
            }
            writeln!(text, "# round {round}").unwrap();
            for call in &plan.calls {
                writeln!(text, "{call:#?}").unwrap();
                slurm.apply(call).unwrap();
                removals.record(call);
            }
        }
    }
    text
}

fn plan(site: &SiteIntent, intent: &Intent, now: jiff::Timestamp) -> Plan {
    let objects = ObservedObjects::new();
    match &intent.body {
        Body::Grant(body) => {
            let policy = SitePolicy::default();
            let view = GrantView::of(&objects, &policy);
            grant::plan(site, intent, body, &view, now)
        }
        Body::Pool(body) => {
            let nodes: Vec<NodeView> = Vec::new();
            let pools = BTreeMap::from([(intent.owner.clone(), body)]);
            let assigned = nodes::assign(&pools, &nodes.iter().collect::<Vec<_>>()).remove(&intent.owner).unwrap_or_default();
            let view = PoolView {
                engines: engine::ALL,
                nodes: assigned,
                objects: &objects,
                views: &Views::default(),
                served: &BTreeSet::from([ObjectKind::NODE_SET]),
                allocated: Some(0),
                paused: false,
                now,
            };
            pool::plan(site, intent, body, view)
        }
    }
}

fn compare(name: &str, folders: &[&str]) {
    let directory: PathBuf = layout::root().join("tests/golden").join(name);
    let files = rendered(&world(folders));
    assert_eq!(files, rendered(&world(folders)), "rendering is deterministic to the byte");
    if std::env::var_os("UPDATE").is_some() {
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        for (file, text) in &files {
            std::fs::write(directory.join(file), text).unwrap();
        }
    }
    let mut found: Vec<String> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, files.keys().cloned().collect::<Vec<_>>(), "files of {name}; `UPDATE=1` rewrites them");
    for (file, text) in files {
        let golden = std::fs::read_to_string(directory.join(&file)).unwrap();
        if golden != text {
            let line = golden.lines().zip(text.lines()).position(|(old, new)| old != new).unwrap_or_default();
            panic!("tests/golden/{name}/{file} differs from line {}; look at the change, then `UPDATE=1`", line + 1);
        }
    }
}

#[test]
fn two_sites() {
    compare("two-sites", &["two-sites"]);
}

#[test]
fn antenna() {
    compare("antenna", &["two-sites", "antenna"]);
}

#[test]
fn gigafactory() {
    compare("gigafactory", &["gigafactory"]);
}

#[test]
fn local() {
    compare("local", &["local"]);
}

#[test]
fn slurm() {
    compare("slurm", &["slurm"]);
}
