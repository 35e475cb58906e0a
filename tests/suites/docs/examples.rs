//! Every example decodes as its type, names only what is there, and asks for nothing that would be refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use aifactory_plan::hub::cache::{Cache, pools_of_grant};
use aifactory_plan::hub::project;
use aifactory_plan::model::id::{HubId, TenantNamespace};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{files, none, read};

fn documents(path: &Path) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(&read(path))
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .filter(|document| !document.is_null())
        .collect()
}

fn all() -> Vec<(String, Value)> {
    files("examples", ".yaml")
        .iter()
        .flat_map(|path| documents(path).into_iter().map(move |document| (path.display().to_string(), document)))
        .collect()
}

fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap_or_default()
}

fn name<'v>(document: &'v Value, field: &str) -> &'v str {
    document["metadata"][field].as_str().unwrap_or_default()
}

/// What was written and did not come back as it was: unknown fields and unknown enum values.
fn lost(path: &str, written: &Value, read: &Value, complaints: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (key, value) in written {
                match read.get(key) {
                    Some(found) => lost(&format!("{path}.{key}"), value, found, complaints),
                    None => complaints.push(format!("{path}.{key}: no such field")),
                }
            }
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (index, (written, read)) in written.iter().zip(read).enumerate() {
                lost(&format!("{path}[{index}]"), written, read, complaints);
            }
        }
        _ if written == read => {}
        _ => complaints.push(format!("{path}: {written} is read as {read}")),
    }
}

fn strictly<K: DeserializeOwned + Serialize>(origin: &str, document: &Value, complaints: &mut Vec<String>) {
    match serde_json::from_value::<K>(document.clone()) {
        Ok(object) => lost(origin, document, &serde_json::to_value(object).unwrap(), complaints),
        Err(error) => complaints.push(format!("{origin}: {error}")),
    }
}

#[test]
fn every_file_decodes_as_its_type() {
    let mut complaints = Vec::new();
    for (path, document) in all() {
        let origin = format!("{path} {}/{}", kind(&document), name(&document, "name"));
        match kind(&document) {
            "AIFactory" => strictly::<AIFactory>(&origin, &document, &mut complaints),
            "GPUPool" => strictly::<GPUPool>(&origin, &document, &mut complaints),
            "AccessGrant" => strictly::<AccessGrant>(&origin, &document, &mut complaints),
            "Namespace" => strictly::<k8s_openapi::api::core::v1::Namespace>(&origin, &document, &mut complaints),
            "RoleBinding" => strictly::<k8s_openapi::api::rbac::v1::RoleBinding>(&origin, &document, &mut complaints),
            other => complaints.push(format!("{origin}: a {other} is not for examples")),
        }
    }
    none(complaints);
}

#[test]
fn every_file_begins_with_its_purpose() {
    let silent = files("examples", ".yaml").into_iter().filter(|path| {
        let text = read(path);
        !text.starts_with("# ") && !text.contains("    # ")
    });
    none(silent.map(|path| format!("{}: no comment", path.display())).collect());
}

#[test]
fn every_folder_brings_its_namespace_and_push_sites_their_binding() {
    let mut complaints = Vec::new();
    let mut folders: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (path, document) in all() {
        let folder = Path::new(&path).parent().unwrap().display().to_string();
        folders.entry(folder).or_default().push(document);
    }
    assert_eq!(folders.len(), 5, "{:?}", folders.keys());
    for (folder, documents) in folders {
        let namespaces: BTreeSet<&str> = documents.iter().filter(|d| kind(d) == "Namespace").map(|d| name(d, "name")).collect();
        let bound: BTreeSet<&str> = documents
            .iter()
            .filter(|d| kind(d) == "RoleBinding" && name(d, "name") == "aifactory-credentials")
            .map(|d| name(d, "namespace"))
            .collect();
        for document in documents.iter().filter(|d| kind(d) != "Namespace") {
            let namespace = name(document, "namespace");
            if !namespaces.contains(namespace) {
                complaints.push(format!("{folder}: no Namespace {namespace}"));
            }
            let mut sites = document["spec"]["sites"].as_array().into_iter().flatten();
            let pushes = sites.any(|site| !site["kubernetes"]["push"].is_null() || !site["slurm"]["rest"].is_null());
            if pushes && !bound.contains(namespace) {
                complaints.push(format!("{folder}: no RoleBinding aifactory-credentials in {namespace}"));
            }
        }
    }
    none(complaints);
}

#[test]
fn names_and_codes_are_invented_and_unique() {
    let mut codes = BTreeSet::new();
    let mut complaints = Vec::new();
    for (path, document) in all().into_iter().filter(|(_, document)| kind(document) == "AccessGrant") {
        let code = document["spec"]["code"].as_str().unwrap().to_owned();
        // Real calls have numbers below 99.
        if code.starts_with("EHPC-") && !code.contains("99-") {
            complaints.push(format!("{path}: {code} may be somebody's"));
        }
        if !codes.insert(code.clone()) {
            complaints.push(format!("{path}: {code} is used twice"));
        }
    }
    none(complaints);
}

fn owner(kind: Kind, document: &Value) -> OwnerRef {
    OwnerRef::new(kind, name(document, "namespace"), name(document, "name"))
}

fn world() -> Cache {
    let mut world = Cache::default();
    for (_, document) in all() {
        match kind(&document) {
            "AIFactory" => world.put_factory(owner(Kind::AIFactory, &document), Arc::new(serde_json::from_value(document).unwrap())),
            "GPUPool" => world.put_pool(owner(Kind::GPUPool, &document), Arc::new(serde_json::from_value(document).unwrap())),
            "AccessGrant" => {
                world.put_grant(owner(Kind::AccessGrant, &document), Arc::new(serde_json::from_value(document).unwrap()));
            }
            _ => {}
        }
    }
    world
}

#[test]
fn all_of_them_together_are_granted() {
    let world = world();
    let mut complaints = Vec::new();
    let mut bound = 0;
    for (pool, _) in world.pools() {
        for problem in project::pool(&world, pool, &BTreeSet::new()).problems {
            complaints.push(format!("{pool}: {}: {}", problem.reason, problem.message));
        }
    }
    for (owner, grant) in world.grants() {
        let now: Timestamp = grant.spec.not_before.0 + SignedDuration::from_hours(1);
        let projection = project::grant(&world, owner, &BTreeSet::new(), now).unwrap();
        for problem in &projection.problems {
            complaints.push(format!("{owner}: {}: {}", problem.reason, problem.message));
        }
        if projection.sites.is_empty() {
            complaints.push(format!("{owner}: at no site"));
        }
        bound += projection.sites.len();
        for pool in pools_of_grant(owner, grant) {
            let pool = world.pool(&pool).unwrap();
            if grant.spec.pools.iter().any(|entry| entry.max_gpus < entry.sites.iter().filter_map(|site| site.max_gpus).sum()) {
                complaints.push(format!("{owner}: its sites have more GPUs of {:?} than the grant", pool.metadata.name));
            }
        }
    }
    none(complaints);
    assert_eq!(bound, 14, "placements of all grants");
}

#[test]
fn no_range_of_an_example_stays_closed() {
    let world = world();
    let mut complaints = Vec::new();
    for (owner, grant) in world.grants() {
        let now: Timestamp = grant.spec.not_before.0 + SignedDuration::from_hours(1);
        let projection = project::grant(&world, owner, &BTreeSet::new(), now).unwrap();
        for (key, intent) in &projection.sites {
            let aifactory_plan::model::intent::Body::Grant(body) = &intent.body else { continue };
            let site = project::site(&world, &HubId::new("hub"), key, None).unwrap();
            let ownership = aifactory_plan::model::object::Ownership::new(&HubId::new("hub"), owner, "uid");
            let rendered = aifactory_plan::engine::network::policies(&site, body, &TenantNamespace::new("aif-example"), &ownership);
            complaints.extend(rendered.findings.into_iter().map(|finding| format!("{owner} at {key}: {finding}")));
            let members = grant.spec.members.iter().filter(|member| member.state == aifactory_api::grant::MemberState::Active).count();
            let subjects = body.members.iter().filter(|member| member.subject.is_some()).count();
            // A Slurm alone has a map of local users instead.
            if members != subjects && site.slurm.as_ref().is_none_or(|slurm| slurm.rest.is_none()) {
                complaints.push(format!("{owner} at {key}: {subjects} of {members} active members have a subject there"));
            }
        }
    }
    none(complaints);
}
