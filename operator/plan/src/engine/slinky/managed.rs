//! A Slurm that we set up ourselves: keys, Accounting, Controller, RestApi and Token.

use std::collections::BTreeSet;

use aifactory_api::managed_slurm::{JWT_KEY, ManagedSlurm, NAME, SLURM_KEY};
use aifactory_api::{Reason, slurm::Slinky};
use serde_json::{Map, Value, json};

use super::token::{Cluster, DatabaseName, GresType, Host, IllegalToken, Image, Namespace, SecretKey, SecretName, Size, StorageClass};
use super::view::NodeSetView;
use crate::engine::site_stages::SiteStages;
use crate::model::intent::SiteIntent;
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use crate::model::plan::{Action, ObservedObjects, applies};
use crate::model::report::Finding;

/// Length of slurm.key, and of the key that tokens are signed with.
const KEY_BYTES: (usize, usize) = (1024, 32);
/// How many nodes Slinky writes into slurm.conf by itself.
const USUAL_NODES: i32 = 1024;
/// The user that the Token is for: SlurmUser, who may do everything in Slurm.
const ADMINISTRATOR: &str = "slurm";

/// What is known of a site's managed Slurm.
#[derive(Clone, Debug)]
pub struct ManagedView<'a> {
    /// Whether the site serves all of Slinky's kinds that we write.
    pub served: bool,
    /// The factory's objects there.
    pub objects: &'a ObservedObjects,
    /// The NodeSets of all pools.
    pub node_sets: Vec<&'a NodeSetView>,
}

/// Adds the objects of a managed Slurm to the stages, or their removal.
pub fn plan(site: &SiteIntent, ownership: &Ownership, view: &ManagedView<'_>, stages: &mut SiteStages) {
    let slinky = site.slurm.as_ref().and_then(|slurm| slurm.slinky.as_ref()).filter(|_| !site.release);
    let mut kept = BTreeSet::new();
    if let (Some(slinky), Some(managed)) = (slinky, slinky.and_then(|slinky| slinky.managed.as_ref())) {
        if !view.served {
            let message = "slurm.slinky.managed: the site does not serve Controller, Accounting, RestApi and Token of slinky.slurm.net/v1beta1; install slurm-operator 1.2".to_owned();
            stages.find(Finding::stalled(Reason::EngineMissing, message));
            return;
        }
        match wanted(site, slinky, managed, ownership, &view.node_sets) {
            Ok(wanted) => {
                kept = wanted.objects.iter().map(|object| object.key.clone()).collect();
                establish(wanted, view.objects, stages);
            }
            Err(error) => {
                stages.find(Finding::stalled(Reason::InvalidSpec, format!("slurm.slinky: {error}")));
                return;
            }
        }
    }
    remove(view, &kept, stages);
}

struct Wanted {
    keys: Vec<Action>,
    /// Accounting first, then the Controller, then what speaks to it.
    objects: Vec<Object>,
}

/// Creates keys before every object that refers to them, and only while there is no Controller: after that only a person may replace a key.
fn establish(wanted: Wanted, objects: &ObservedObjects, stages: &mut SiteStages) {
    let controller = wanted.objects.iter().find(|object| object.key.kind == ObjectKind::CONTROLLER);
    if controller.is_none_or(|controller| !objects.contains_key(&controller.key)) {
        stages.step(wanted.keys);
    }
    stages.step(applies(wanted.objects, objects));
}

/// Removes the objects that are not kept, except keys and Accounting: the usage that Slurm has counted would be lost with them.
fn remove(view: &ManagedView<'_>, kept: &BTreeSet<ObjectKey>, stages: &mut SiteStages) {
    let removable = |key: &ObjectKey| matches!(key.kind, ObjectKind::CONTROLLER | ObjectKind::REST_API | ObjectKind::TOKEN) && !kept.contains(key);
    let mut actions = Vec::new();
    for (key, found) in view.objects.iter().filter(|(key, found)| removable(key) && !found.terminating) {
        let served: Vec<&str> =
            view.node_sets.iter().filter(|node_set| node_set.namespace == key.namespace).map(|node_set| node_set.name.as_str()).collect();
        if served.is_empty() {
            actions.push(Action::Delete { key: key.clone(), uid: Some(found.uid.clone()) });
        } else if key.kind == ObjectKind::CONTROLLER {
            let message = format!("{key} stays until its partitions are gone: {}", served.join(", "));
            stages.find(Finding::note(Reason::InProgress, message));
        }
    }
    stages.step(actions);
}

fn wanted(
    site: &SiteIntent,
    slinky: &Slinky,
    managed: &ManagedSlurm,
    ownership: &Ownership,
    node_sets: &[&NodeSetView],
) -> Result<Wanted, IllegalToken> {
    let namespace = Namespace::parse(&slinky.namespace)?.to_string();
    let cluster = Cluster::parse(site.slurm.as_ref().map(|slurm| slurm.cluster_name.as_str()).unwrap_or_default())?;
    let object = |kind, spec: Value| Object::new(ObjectKey::namespaced(kind, &namespace, NAME), ownership, json!({"spec": spec}));
    let key = |(name, field): (&str, &str), bytes| {
        let key = ObjectKey::namespaced(ObjectKind::SECRET, &namespace, name);
        Action::CreateKey { object: Object::new(key, ownership, json!({"type": "Opaque", "immutable": true})), field: field.to_owned(), bytes }
    };
    let controller = controller(managed, &cluster, &gres_types(site, &namespace, node_sets))?;
    Ok(Wanted {
        keys: vec![key(SLURM_KEY, KEY_BYTES.0), key(JWT_KEY, KEY_BYTES.1)],
        objects: vec![
            object(ObjectKind::ACCOUNTING, accounting(managed)?),
            object(ObjectKind::CONTROLLER, controller),
            object(ObjectKind::REST_API, rest_api(managed)?),
            object(ObjectKind::TOKEN, json!({"username": ADMINISTRATOR, "jwtKeyRef": key_ref(JWT_KEY), "refresh": true})),
        ],
    })
}

/// Types of GPU that slurm.conf counts: those of all pools at the site, and of NodeSets of pools that are gone, since a partition that drains still has
/// jobs.
fn gres_types(site: &SiteIntent, namespace: &str, node_sets: &[&NodeSetView]) -> BTreeSet<String> {
    let of_pools = site.gres_types.iter().filter_map(|text| GresType::parse(text).ok());
    let own = node_sets.iter().filter(|node_set| node_set.namespace == namespace);
    let of_node_sets = own.filter_map(|node_set| node_set.parts.gres.clone()).map(|(kind, _)| kind);
    of_pools.chain(of_node_sets).map(|kind| kind.to_string()).collect()
}

fn key_ref((name, field): (&str, &str)) -> Value {
    json!({"name": name, "key": field})
}

fn image(text: &str) -> Result<Value, IllegalToken> {
    Image::parse(text).map(|image| json!({"image": image.to_string()}))
}

fn controller(managed: &ManagedSlurm, cluster: &Cluster, types: &BTreeSet<String>) -> Result<Value, IllegalToken> {
    let slurmctld = image(&managed.slurmctld_image)?;
    Ok(json!({
        "clusterName": cluster.to_string(),
        "external": false,
        "slurmKeyRef": key_ref(SLURM_KEY),
        "jwtKeyRef": key_ref(JWT_KEY),
        "accountingRef": {"name": NAME},
        "inplaceReconfigure": true,
        "persistence": persistence(managed)?,
        "extraConf": configuration(types, managed.max_nodes),
        // slurm-operator has no default for any of these images.
        "slurmctld": slurmctld,
        "reconfigure": slurmctld,
        "logfile": slurmctld,
    }))
}

fn accounting(managed: &ManagedSlurm) -> Result<Value, IllegalToken> {
    let database = &managed.accounting;
    Ok(json!({
        "external": false,
        "slurmKeyRef": key_ref(SLURM_KEY),
        "jwtKeyRef": key_ref(JWT_KEY),
        "storageConfig": {
            "host": Host::parse(&database.host)?.to_string(),
            "port": database.port,
            "database": DatabaseName::parse(&database.database)?.to_string(),
            "username": DatabaseName::parse(&database.user)?.to_string(),
            "passwordKeyRef": {
                "name": SecretName::parse(&database.password_secret_ref.name)?.to_string(),
                "key": SecretKey::parse(&database.password_secret_ref.key)?.to_string(),
            },
        },
        "slurmdbd": image(&managed.slurmdbd_image)?,
    }))
}

fn rest_api(managed: &ManagedSlurm) -> Result<Value, IllegalToken> {
    Ok(json!({"controllerRef": {"name": NAME}, "replicas": 1, "slurmrestd": image(&managed.slurmrestd_image)?}))
}

fn persistence(managed: &ManagedSlurm) -> Result<Value, IllegalToken> {
    let mut claim = Map::new();
    claim.insert("enabled".to_owned(), json!(true));
    claim.insert("accessModes".to_owned(), json!(["ReadWriteOnce"]));
    claim.insert("resources".to_owned(), json!({"requests": {"storage": Size::parse(&managed.storage.size)?.to_string()}}));
    if let Some(class) = &managed.storage.storage_class_name {
        claim.insert("storageClassName".to_owned(), json!(StorageClass::parse(class)?.to_string()));
    }
    Ok(Value::Object(claim))
}

/// The lines of slurm.conf that slurm-operator 1.2 does not write itself.
fn configuration(types: &BTreeSet<String>, max_nodes: Option<i32>) -> String {
    let tres: Vec<String> = std::iter::once("gres/gpu".to_owned()).chain(types.iter().map(|kind| format!("gres/gpu:{kind}"))).collect();
    let mut lines = vec![
        "GresTypes=gpu".to_owned(),
        "SelectTypeParameters=CR_Core_Memory".to_owned(),
        "ProctrackType=proctrack/cgroup".to_owned(),
        "TaskPlugin=task/affinity,task/cgroup".to_owned(),
        "PrologFlags=Contain".to_owned(),
        "ReturnToService=2".to_owned(),
        "JobAcctGatherType=jobacct_gather/cgroup".to_owned(),
        format!("AccountingStorageTRES={}", tres.join(",")),
        "AccountingStorageEnforce=associations,limits,qos,safe".to_owned(),
        "PriorityType=priority/multifactor".to_owned(),
    ];
    lines.extend(max_nodes.filter(|nodes| *nodes > USUAL_NODES).map(|nodes| format!("MaxNodeCount={nodes}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests;
