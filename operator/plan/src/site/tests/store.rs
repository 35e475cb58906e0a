//! A site as an API server that a test writes to by hand, and as the operator sees it through its index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::grant::{AfterRetention, KubernetesSubject, MemberRole, RunningWork, SubjectKind};
use aifactory_api::name::tenant_namespace;
use aifactory_api::pool::PerGpu;
use aifactory_api::{Kind, OwnerRef, Reason, labels};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::model::id::HubId;
use crate::model::intent::{Body, Budget, Desired, End, GrantIntent, GrantPoolIntent, Intent, MemberCaps, MemberIntent, SiteIntent, VERSION};
use crate::model::object::{ObjectKey, ObjectKind};
use crate::model::plan::{Action, Plan, Purpose};
use crate::model::report::{Detail, GrantDetail};
use crate::site::index::{Index, IndexedObject};
use crate::site::policy::SitePolicy;
use crate::site::pools::Pools;
use crate::site::reconcile::Reconciler;
use crate::site::usage::Accounts;

pub const HUB: &str = "hub";

pub fn owner() -> OwnerRef {
    OwnerRef::new(Kind::AccessGrant, "example", "alpha")
}

pub fn namespace() -> String {
    tenant_namespace(HUB, &owner())
}

pub fn namespace_key() -> ObjectKey {
    ObjectKey::cluster(ObjectKind::NAMESPACE, namespace())
}

pub fn inside(kind: ObjectKind, name: &str) -> ObjectKey {
    ObjectKey::namespaced(kind, namespace(), name)
}

pub fn begin() -> Timestamp {
    "2026-12-01T00:00:00Z".parse().unwrap()
}

pub fn site_intent() -> SiteIntent {
    SiteIntent::bare(HUB, OwnerRef::new(Kind::AIFactory, "example", "example"), "uid", "bissen")
}

fn member(id: &str, role: MemberRole) -> MemberIntent {
    let subject = KubernetesSubject { kind: SubjectKind::User, name: format!("oidc:{id}") };
    MemberIntent { id: id.to_owned(), role, subject: Some(subject), slurm_user: None }
}

pub fn pool(entry: &str, pool: &str) -> GrantPoolIntent {
    GrantPoolIntent {
        pool: pool.to_owned(),
        resource: "nvidia.com/gpu".to_owned(),
        max_gpus: 4,
        per_gpu: PerGpu { cpus: 16, memory_gib: 120 },
        open: true,
        entry: entry.to_owned(),
        budget: Budget { device_minutes: 60_000, ..Budget::default() },
        partition: None,
    }
}

pub fn grant() -> GrantIntent {
    GrantIntent {
        code: "EHPC-1".to_owned(),
        organisation: "Example SARL".to_owned(),
        desired: Desired::Bound,
        only_if_held: None,
        keep: false,
        barred: Vec::new(),
        members: vec![member("lead", MemberRole::Lead), member("member", MemberRole::Member), member("reader", MemberRole::Reader)],
        pools: vec![pool("main", "h100")],
        caps: MemberCaps::default(),
        end: End { running_work: RunningWork::Finish, grace_seconds: 3600, retention_seconds: 86400, after_retention: AfterRetention::Delete },
        not_after: "2027-03-01T00:00:00Z".parse().unwrap(),
        storage: "1Ti".to_owned(),
        egress: Vec::new(),
        cross_site: None,
        adopt_previous: false,
    }
}

pub fn ended() -> Desired {
    Desired::Ended { because: Reason::Revoked, message: "revoked".to_owned(), at: None }
}

/// What the API server of a site stores, and what the operator knows of it.
pub struct Site {
    pub intent: SiteIntent,
    pub grant: GrantIntent,
    pub uid: String,
    /// Whether the hub has the grant still.
    pub on_hub: bool,
    pub policy: SitePolicy,
    pub index: Index,
    pub hours: Accounts,
    pub lost: BTreeSet<OwnerRef>,
    pub now: Timestamp,
    objects: BTreeMap<ObjectKey, Value>,
    version: u64,
    born: u64,
}

impl Site {
    /// A site that holds the grant as asked for.
    pub fn bound() -> Self {
        let mut site = Self::empty();
        site.settle();
        site
    }

    pub fn empty() -> Self {
        Self {
            intent: site_intent(),
            grant: grant(),
            uid: "uid-1".to_owned(),
            on_hub: true,
            policy: SitePolicy::default(),
            index: Index::default(),
            hours: Accounts::default(),
            lost: BTreeSet::new(),
            now: begin(),
            objects: BTreeMap::new(),
            version: 0,
            born: 0,
        }
    }

    pub fn wait(&mut self, hours: i64) {
        self.now = self.now.checked_add(SignedDuration::from_hours(hours)).unwrap();
    }

    pub fn plan(&self) -> Plan {
        let intents = BTreeMap::from([(owner(), Arc::new(self.wanted()))]);
        let (none, nobody) = (BTreeMap::new(), BTreeMap::new());
        let reconciler = Reconciler {
            site: &self.intent,
            intents: if self.on_hub { &intents } else { &none },
            index: &self.index,
            policy: &self.policy,
            refusals: &nobody,
            lost: &self.lost,
            pools: &Pools::default(),
            hours: &self.hours,
            engines: crate::engine::ALL,
            served: &std::collections::BTreeSet::new(),
            now: self.now,
        };
        if self.on_hub { reconciler.intent(&intents[&owner()]) } else { reconciler.gone(&owner()).expect("a plan") }
    }

    fn wanted(&self) -> Intent {
        Intent {
            version: VERSION,
            owner: owner(),
            uid: self.uid.clone(),
            generation: 1,
            created: begin(),
            serial: 0,
            body: Body::Grant(Box::new(self.grant.clone())),
        }
    }

    pub fn detail(&self) -> GrantDetail {
        match self.plan().detail {
            Detail::Grant(detail) => detail,
            other => panic!("{other:?}"),
        }
    }

    /// Reconciles until nothing is left to do; gives the last plan.
    pub fn settle(&mut self) -> Plan {
        for _ in 0..8 {
            let plan = self.plan();
            if plan.steps.is_empty() {
                return plan;
            }
            self.execute(&plan, |_| true);
        }
        panic!("comes to no rest: {:#?}", self.plan().steps)
    }

    /// The same where something happens at the site after each round.
    pub fn settle_with(&mut self, after: impl Fn(&mut Self)) {
        for _ in 0..8 {
            let plan = self.plan();
            if plan.steps.is_empty() {
                return;
            }
            self.execute(&plan, |_| true);
            after(self);
        }
        panic!("comes to no rest: {:#?}", self.plan().steps)
    }

    /// Only what takes access away, as where the site's policies are not in force.
    pub fn remove_access(&mut self) -> Plan {
        for _ in 0..8 {
            let plan = self.plan();
            if !plan.steps.iter().any(|step| step.purpose == Purpose::RemoveAccess) {
                return plan;
            }
            self.execute(&plan, |purpose| purpose == Purpose::RemoveAccess);
        }
        panic!("comes to no rest: {:#?}", self.plan().steps)
    }

    pub fn execute(&mut self, plan: &Plan, select: impl Fn(Purpose) -> bool) {
        for action in plan.steps.iter().filter(|step| select(step.purpose)).flat_map(|step| &step.actions) {
            match action {
                Action::Apply(object) => {
                    let mut content = object.content.clone();
                    content["metadata"]["managedFields"] =
                        json!([{"manager": labels::SITE_MANAGER, "operation": "Apply", "fieldsV1": fields(&object.content)}]);
                    self.write(&object.key, content);
                }
                Action::Delete { key, uid } => {
                    if self.objects.get(key).is_some_and(|found| uid.as_ref().is_none_or(|uid| found["metadata"]["uid"] == **uid)) {
                        self.index.ordered_deletion(key);
                        self.delete(key);
                    }
                }
                Action::EndWork { .. } => assert_eq!(self.label(labels::STATE), "Locked"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Somebody writes an object; the watch shows it.
    pub fn write(&mut self, key: &ObjectKey, mut content: Value) {
        self.version += 1;
        let uid = self.objects.get(key).map(|found| found["metadata"]["uid"].clone()).unwrap_or_else(|| {
            self.born += 1;
            json!(format!("u{}", self.born))
        });
        content["metadata"]["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            content["metadata"]["namespace"] = json!(key.namespace);
        }
        content["metadata"]["uid"] = uid;
        content["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), content.clone());
        self.index.put(IndexedObject::reduce(crate::engine::ALL, key.kind, &content, &HubId::new(HUB)).unwrap());
    }

    /// Somebody edits an object.
    pub fn edit(&mut self, key: &ObjectKey, edit: impl Fn(&mut Value)) {
        let mut content = self.objects[key].clone();
        edit(&mut content);
        self.write(key, content);
    }

    /// Takes labels and annotations of ours off an object.
    pub fn strip(&mut self, key: &ObjectKey, parts: &[&str]) {
        self.edit(key, |content| parts.iter().for_each(|part| content["metadata"][*part] = json!({})));
    }

    /// Somebody deletes an object.
    pub fn delete(&mut self, key: &ObjectKey) {
        let Some(found) = self.objects.remove(key) else { return };
        self.version += 1;
        if key.kind == ObjectKind::NAMESPACE {
            let inside: Vec<ObjectKey> = self.objects.keys().filter(|inside| inside.namespace == key.name).cloned().collect();
            inside.iter().for_each(|key| self.delete(key));
        }
        let change = self.index.remove(key, found["metadata"]["uid"].as_str().unwrap(), self.version);
        self.lost.extend(change.lost);
    }

    pub fn bind(&mut self, name: &str, role: &str, subject: Value) {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        self.write(&inside(ObjectKind::ROLE_BINDING, name), json!({"metadata": {}, "roleRef": role, "subjects": [subject]}));
    }

    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.objects.contains_key(key)
    }

    pub fn object(&self, key: &ObjectKey) -> &Value {
        &self.objects[key]
    }

    pub fn label(&self, name: &str) -> String {
        self.objects[&namespace_key()]["metadata"]["labels"][name].as_str().unwrap_or_default().to_owned()
    }

    pub fn annotation(&self, name: &str) -> String {
        self.objects[&namespace_key()]["metadata"]["annotations"][name].as_str().unwrap_or_default().to_owned()
    }

    /// Roles that are bound in the namespace.
    pub fn roles(&self) -> Vec<String> {
        let bindings = self.objects.iter().filter(|(key, _)| key.kind == ObjectKind::ROLE_BINDING);
        bindings.map(|(_, content)| content["roleRef"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The first binding of ours to a role.
    pub fn binding(&self, role: &str) -> ObjectKey {
        let bindings = self.objects.iter().filter(|(key, _)| key.kind == ObjectKind::ROLE_BINDING);
        bindings.filter(|(_, content)| content["roleRef"]["name"] == *role).map(|(key, _)| key.clone()).next().expect("a binding")
    }
}

/// What an applier owns of an object.
fn fields(content: &Value) -> Value {
    match content {
        Value::Object(map) => {
            let not_owned = ["apiVersion", "kind", "name", "namespace"];
            let owned = map.iter().filter(|(key, _)| !(map.contains_key("metadata") && not_owned[..2].contains(&key.as_str())));
            let fields: Map<String, Value> = owned
                .map(|(key, value)| {
                    let below = if key == "metadata" { metadata_fields(value) } else { fields(value) };
                    (format!("f:{key}"), below)
                })
                .collect();
            Value::Object(fields)
        }
        _ => json!({}),
    }
}

fn metadata_fields(metadata: &Value) -> Value {
    let map = metadata.as_object().unwrap();
    map.iter().filter(|(key, _)| ["labels", "annotations"].contains(&key.as_str())).map(|(key, value)| (format!("f:{key}"), fields(value))).collect()
}
