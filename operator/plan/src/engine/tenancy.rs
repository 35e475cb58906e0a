//! Tenancy: a grant's namespace with its quota, limits, ServiceAccount, role bindings and a ConfigMap with information for members.

mod binding;
mod engine;
mod kinds;
mod stale;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::grant::MemberRole;
use aifactory_api::labels;
use aifactory_api::name::member_binding;
use serde_json::{Map, Value, json};

use crate::model::id::TenantNamespace;
use crate::model::intent::{GrantIntent, GrantPoolIntent, MemberIntent, SiteIntent};
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use crate::model::quantity;

pub use binding::{BindingView, Subject, has_our_name, lets_work};
pub use engine::Tenancy;
pub use stale::{letting_work, none_lets_work, only, stale, stale_impostors, tokens};
pub use strangers::{Stranger, Strangers};

/// Accelerators that get quota 0 wherever they are not granted, whether or not a pool names them.
const KNOWN_ACCELERATORS: [&str; 5] = ["nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "habana.ai/gaudi"];

/// What members may do in the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Work.
    Open,
    /// See what is there; start nothing.
    Paused,
    /// Copy data out.
    Locked,
}

/// Annotations of a namespace beside its owner: its account of GPU time, and, where it is locked, the terms of its retention, by which the site acts
/// even when the grant is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The namespace.
pub fn namespace(site: &SiteIntent, grant: &GrantIntent, name: &TenantNamespace, access: Access, mark: &Mark, ownership: &Ownership) -> Object {
    let mut more = namespace_labels(site, access);
    let mut annotations = Map::new();
    annotations.insert(labels::CODE.to_owned(), json!(grant.code));
    let resources: BTreeSet<&str> = grant.pools.iter().map(|pool| pool.resource.as_str()).collect();
    annotations.insert(labels::RESOURCES.to_owned(), json!(resources.into_iter().collect::<Vec<_>>().join(",")));
    annotations.extend(mark.annotations.iter().map(|(key, value)| (key.clone(), json!(value))));
    match access {
        Access::Open => {
            // Two entries may name one pool.
            let open: BTreeMap<&str, &str> =
                grant.pools.iter().filter(|pool| pool.open).map(|pool| (pool.pool.as_str(), pool.resource.as_str())).collect();
            for pool in open.keys() {
                more.insert(format!("{}{pool}", labels::POOL_PREFIX), json!("true"));
            }
            let mut pools = open.into_iter();
            if let (Some((pool, resource)), None) = (pools.next(), pools.next()) {
                more.insert(labels::SINGLE_POOL.to_owned(), json!("true"));
                annotations.insert(labels::POOL.to_owned(), json!(pool));
                annotations.insert(labels::POOL_RESOURCE.to_owned(), json!(resource));
            }
        }
        Access::Paused | Access::Locked => {}
    }
    Object::with_metadata(ObjectKey::cluster(ObjectKind::NAMESPACE, name.as_str()), ownership, more, annotations, Value::Null)
}

/// A locked namespace whose grant is gone: with the annotations that it has, and those of `mark`.
pub fn locked_namespace(site: &SiteIntent, name: &TenantNamespace, known: &BTreeMap<String, String>, mark: &Mark, ownership: &Ownership) -> Object {
    let of_living = [labels::POOL, labels::POOL_RESOURCE, labels::CANCEL_PODS];
    let kept = known.iter().filter(|(key, _)| !of_living.contains(&key.as_str())).chain(&mark.annotations);
    let annotations = kept.map(|(key, value)| (key.clone(), json!(value))).collect();
    Object::with_metadata(
        ObjectKey::cluster(ObjectKind::NAMESPACE, name.as_str()),
        ownership,
        namespace_labels(site, Access::Locked),
        annotations,
        Value::Null,
    )
}

/// Keeps the annotation of resources that a namespace has, where not all pools are known.
pub fn keep_resources(namespace: &mut Object, named: Option<&str>) {
    if let (Some(named), Some(found)) = (named, namespace.content.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)) {
        found.insert(labels::RESOURCES.to_owned(), json!(named));
    }
}

fn namespace_labels(site: &SiteIntent, access: Access) -> Map<String, Value> {
    let level = site.policy.pod_security.as_str();
    let mut more = Map::new();
    more.insert(labels::TENANT.to_owned(), json!("true"));
    let state = match access {
        Access::Open => labels::STATE_BOUND,
        Access::Paused => labels::STATE_PAUSED,
        Access::Locked => labels::STATE_LOCKED,
    };
    more.insert(labels::STATE.to_owned(), json!(state));
    for mode in ["enforce", "warn", "audit"] {
        more.insert(format!("pod-security.kubernetes.io/{mode}"), json!(level));
        more.insert(format!("pod-security.kubernetes.io/{mode}-version"), json!("latest"));
    }
    if access == Access::Locked {
        more.insert(labels::CPU_PODS.to_owned(), json!("true"));
    }
    more
}

/// Quotas and limits. `held`: GPUs that Pods of closed pools still hold, by pool.
pub fn limits(
    site: &SiteIntent,
    grant: &GrantIntent,
    namespace: &TenantNamespace,
    access: Access,
    held: &BTreeMap<String, i64>,
    ownership: &Ownership,
) -> Vec<Object> {
    let hard = hard_limits(site, grant, access, held);
    let key = |kind, name: &str| ObjectKey::namespaced(kind, namespace.as_str(), name);
    vec![
        Object::new(key(ObjectKind::RESOURCE_QUOTA, "aifactory"), ownership, json!({"spec": {"hard": hard}})),
        // A small Pod with anti-affinity over all namespaces would keep others off its nodes.
        Object::new(
            key(ObjectKind::RESOURCE_QUOTA, "aifactory-affinity"),
            ownership,
            json!({"spec": {"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"}]}}}),
        ),
        Object::new(
            key(ObjectKind::LIMIT_RANGE, "aifactory"),
            ownership,
            json!({"spec": {"limits": [{"type": "Container", "default": {"memory": "4Gi"},
                "defaultRequest": {"cpu": "1", "memory": "4Gi"}}]}}),
        ),
    ]
}

/// The hard limits of a namespace's quota.
fn hard_limits(site: &SiteIntent, grant: &GrantIntent, access: Access, held: &BTreeMap<String, i64>) -> Map<String, Value> {
    let Share { gpus, total, mut cpus, mut memory } = share(site, grant, access, held);
    let pods = match access {
        Access::Open if total > 0 => total.saturating_mul(4).saturating_add(16),
        Access::Open | Access::Paused => 0,
        // Room for one Pod without accelerator, to copy data out.
        Access::Locked => {
            (cpus, memory) = (4, 16);
            1
        }
    };
    let jobs = if access == Access::Open { 1000 } else { 0 };
    let mut hard = Map::new();
    for (name, value) in gpus {
        hard.insert(format!("requests.{name}"), json!(quantity::count(value)));
    }
    hard.insert("requests.cpu".to_owned(), json!(quantity::count(cpus)));
    hard.insert("requests.memory".to_owned(), json!(quantity::gibibytes(memory)));
    hard.insert("limits.memory".to_owned(), json!(quantity::gibibytes(memory)));
    hard.insert("pods".to_owned(), json!(quantity::count(pods)));
    hard.insert("requests.storage".to_owned(), json!(quantity::storage(&grant.storage).unwrap_or_else(|| "0".to_owned())));
    hard.insert("services.loadbalancers".to_owned(), json!("0"));
    hard.insert("services.nodeports".to_owned(), json!("0"));
    hard.insert("count/configmaps".to_owned(), json!("200"));
    hard.insert("count/secrets".to_owned(), json!("200"));
    hard.insert("count/persistentvolumeclaims".to_owned(), json!("100"));
    hard.insert("count/services".to_owned(), json!("50"));
    hard.insert("count/jobs.batch".to_owned(), json!(quantity::count(jobs)));
    hard
}

/// What a grant's Pods may use at a site.
struct Share<'a> {
    /// Accelerators by resource name, 0 for those that are not granted.
    gpus: BTreeMap<&'a str, i64>,
    /// Accelerators of all kinds.
    total: i64,
    cpus: i64,
    /// In GiB.
    memory: i64,
}

fn share<'a>(site: &'a SiteIntent, grant: &'a GrantIntent, access: Access, held: &BTreeMap<String, i64>) -> Share<'a> {
    let none = KNOWN_ACCELERATORS.into_iter().chain(site.accelerators.iter().map(String::as_str)).map(|name| (name, 0));
    let mut sum = Share { gpus: none.collect(), total: 0, cpus: 0, memory: 0 };
    let mut held: BTreeMap<&str, i64> = held.iter().filter(|_| access == Access::Open).map(|(pool, gpus)| (pool.as_str(), *gpus)).collect();
    for pool in &grant.pools {
        let open = if pool.open && access == Access::Open { pool.max_gpus } else { 0 };
        let gpus = open.saturating_add(held.remove(pool.pool.as_str()).unwrap_or(0));
        *sum.gpus.entry(pool.resource.as_str()).or_default() += gpus;
        sum.total = sum.total.saturating_add(gpus);
        sum.cpus = sum.cpus.saturating_add(gpus.saturating_mul(pool.per_gpu.cpus.into()));
        sum.memory = sum.memory.saturating_add(gpus.saturating_mul(pool.per_gpu.memory_gib.into()));
    }
    sum
}

/// A quota under which nothing starts, for a namespace whose grant is not known any more.
pub fn closed_quota(site: &SiteIntent, namespace: &TenantNamespace, ownership: &Ownership) -> Object {
    let accelerators = KNOWN_ACCELERATORS.iter().copied().chain(site.accelerators.iter().map(String::as_str));
    let mut hard: Map<String, Value> = accelerators.map(|name| (format!("requests.{name}"), json!("0"))).collect();
    hard.extend(["pods", "requests.cpu", "requests.memory", "count/jobs.batch"].map(|name| (name.to_owned(), json!("0"))));
    let key = ObjectKey::namespaced(ObjectKind::RESOURCE_QUOTA, namespace.as_str(), "aifactory");
    Object::new(key, ownership, json!({"spec": {"hard": hard}}))
}

/// The ServiceAccount of members' workloads. It is bound to nothing.
pub fn service_account(namespace: &TenantNamespace, ownership: &Ownership) -> Object {
    let key = ObjectKey::namespaced(ObjectKind::SERVICE_ACCOUNT, namespace.as_str(), "aifactory");
    Object::new(key, ownership, json!({"automountServiceAccountToken": false}))
}

/// One RoleBinding a member, so that revoking one never touches another.
pub fn bindings(members: &[MemberIntent], namespace: &TenantNamespace, access: Access, ownership: &Ownership) -> Vec<Object> {
    let bound = members.iter().filter_map(|member| binding_of(member, role(access, member.role), None, namespace, ownership));
    by_key(bound)
}

/// The same in a locked namespace in which work with accelerators goes on: every member is a reader, and an annotation names the binding by which a
/// lead may copy data out later.
pub fn bindings_beside_work(members: &[MemberIntent], namespace: &TenantNamespace, ownership: &Ownership) -> Vec<Object> {
    let bound = members.iter().filter_map(|member| {
        let later = (role(Access::Locked, member.role) == "keeper").then(|| binding_name("keeper", member)).flatten();
        binding_of(member, "reader", later, namespace, ownership)
    });
    by_key(bound)
}

/// The binding that takes the place of one of [`bindings_beside_work`].
pub fn binding_after_work(name: &str, before: &BindingView, namespace: &TenantNamespace, ownership: &Ownership) -> Object {
    let subjects = before.subjects.iter().map(|subject| rbac_subject(&subject.kind, &subject.name)).collect();
    binding(name, "keeper", subjects, Map::new(), namespace, ownership)
}

fn role(access: Access, role: MemberRole) -> &'static str {
    match (access, role) {
        (Access::Open, MemberRole::Lead) => "lead",
        (Access::Open, MemberRole::Member) => "member",
        (Access::Open | Access::Paused | Access::Locked, MemberRole::Reader)
        | (Access::Paused, MemberRole::Lead | MemberRole::Member)
        | (Access::Locked, MemberRole::Member) => "reader",
        (Access::Locked, MemberRole::Lead) => "keeper",
    }
}

fn binding_name(role: &str, member: &MemberIntent) -> Option<String> {
    let subject = member.subject.as_ref()?;
    Some(member_binding(role, &member.id, &format!("{}:{}", subject.kind.as_str(), subject.name)))
}

fn binding_of(member: &MemberIntent, role: &str, becomes: Option<String>, namespace: &TenantNamespace, ownership: &Ownership) -> Option<Object> {
    let subject = member.subject.as_ref()?;
    let annotations = becomes.map(|name| (labels::BECOMES.to_owned(), json!(name))).into_iter().collect();
    let subjects = vec![rbac_subject(subject.kind.as_str(), &subject.name)];
    Some(binding(&binding_name(role, member)?, role, subjects, annotations, namespace, ownership))
}

fn rbac_subject(kind: &str, name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name})
}

fn binding(
    name: &str,
    role: &str,
    subjects: Vec<Value>,
    annotations: Map<String, Value>,
    namespace: &TenantNamespace,
    ownership: &Ownership,
) -> Object {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("aifactory-{role}")});
    let key = ObjectKey::namespaced(ObjectKind::ROLE_BINDING, namespace.as_str(), name);
    Object::with_metadata(key, ownership, Map::new(), annotations, json!({"roleRef": role, "subjects": subjects}))
}

fn by_key(objects: impl Iterator<Item = Object>) -> Vec<Object> {
    let objects: BTreeMap<ObjectKey, Object> = objects.map(|object| (object.key.clone(), object)).collect();
    objects.into_values().collect()
}

/// The ConfigMap with information for members: addresses, contacts, and pools whose GPU-hours are used up.
pub fn access_note(
    site: &SiteIntent,
    grant: &GrantIntent,
    namespace: &TenantNamespace,
    access: Access,
    used_up: &BTreeSet<&str>,
    ownership: &Ownership,
) -> Object {
    let mut data = Map::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            data.insert(key.to_owned(), json!(value));
        }
    };
    let state = match access {
        Access::Open if !used_up.is_empty() && grant.pools.iter().all(|pool| used_up.contains(pool.pool.as_str())) => {
            "The GPU-hours for this site are used up: nothing new starts."
        }
        Access::Open => "You can start work until the day under `expires`.",
        Access::Paused => "The grant is paused: nothing new starts. Ask the support below.",
        Access::Locked => "The grant has ended. Copy your data out before it goes; leads may run one Pod without GPU for that.",
    };
    put("state", Some(state.to_owned()));
    put("site", Some(site.site.clone()));
    put("grant", Some(format!("{}/{}", ownership.owner.namespace, ownership.owner.name)));
    put("code", Some(grant.code.clone()));
    put("namespace", Some(namespace.to_string()));
    put("expires", Some(grant.not_after.to_string()));
    put("server", site.access.api_server.clone());
    put("loginHosts", Some(site.access.login_hosts.join(",")));
    put("docs", site.access.docs_url.clone());
    put("support", site.access.support_url.clone());
    let pool = |pool: &GrantPoolIntent| {
        let over = if used_up.contains(pool.pool.as_str()) { "; its GPU-hours are used up" } else { "" };
        format!("{}: up to {} of {}{over}", pool.pool, pool.max_gpus, pool.resource)
    };
    let pools: Vec<String> = grant.pools.iter().filter(|pool| pool.max_gpus > 0).map(pool).collect();
    put("pools", Some(pools.join("\n")));
    Object::new(ObjectKey::namespaced(ObjectKind::CONFIG_MAP, namespace.as_str(), "aifactory-access"), ownership, json!({"data": data}))
}
