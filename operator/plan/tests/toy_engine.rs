//! An engine that is known to this file alone: what its registration brings about.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the properties of networks")]
mod evaluator;
#[allow(dead_code, reason = "shared with other properties")]
mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::factory::Dns;
use aifactory_api::grant::{AfterRetention, KubernetesSubject, MemberRole, RunningWork, SubjectKind};
use aifactory_api::name::tenant_namespace;
use aifactory_api::pool::PerGpu;
use aifactory_api::{Kind, OwnerRef, Reason, labels};
use aifactory_plan::engine::contract::Engine;
use aifactory_plan::engine::grant_stages::{GrantScene, GrantStages};
use aifactory_plan::engine::network::{DEFAULT_DENY, Network};
use aifactory_plan::engine::registry::Api;
use aifactory_plan::engine::site_stages::{SiteScene, SiteStages};
use aifactory_plan::engine::tenancy::{Access, Tenancy};
use aifactory_plan::engine::uses::{KindUse, Place};
use aifactory_plan::engine::{self, Engines};
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::{Body, Budget, Desired, End, GrantIntent, GrantPoolIntent, Intent, MemberIntent, SiteIntent, VERSION};
use aifactory_plan::model::kind::{KindInfo, ObjectKind};
use aifactory_plan::model::object::{Object, ObjectKey};
use aifactory_plan::model::plan::{Action, Plan, Purpose};
use aifactory_plan::model::report::Detail;
use aifactory_plan::model::view::View;
use aifactory_plan::site::index::{Index, IndexedObject};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::pools::Pools;
use aifactory_plan::site::reconcile::Reconciler;
use aifactory_plan::site::usage::Accounts;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use scene::HUB;

const WIDGET: ObjectKind = ObjectKind::new(&KindInfo::new("example.dev", "v1", "Widget", "widgets"));
const LICENCE: ObjectKind = ObjectKind::new(&KindInfo::new("example.dev", "v1", "Licence", "licences"));

const KINDS: [KindUse; 2] = [
    KindUse { api: Some("Widgets"), ..KindUse::new(WIDGET, Place::Anywhere) },
    KindUse { api: Some("Widgets"), ..KindUse::new(LICENCE, Place::Named) },
];

/// A widget in each grant's namespace, a licence beside it that outlives the lock, and one widget that names all grants.
struct Toy;

/// What is read of a widget.
#[derive(Debug, PartialEq)]
struct Size(i64);

impl Engine for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn kinds(&self) -> &'static [KindUse] {
        &KINDS
    }

    fn grant(&self, scene: &GrantScene<'_>, stages: &mut GrantStages) {
        let licence = ObjectKey::cluster(LICENCE, scene.namespace.as_str());
        stages.fence([Object::new(licence, scene.ownership, json!({"spec": {"seats": 1}}))]);
        if scene.access == Access::Open {
            let widget = ObjectKey::namespaced(WIDGET, scene.namespace.as_str(), "mine");
            stages.inside([Object::new(widget, scene.ownership, json!({"spec": {"size": 3}}))]);
        }
    }

    fn site(&self, scene: &SiteScene<'_>, stages: &mut SiteStages) {
        let living = |intent: &&Arc<Intent>| matches!(&intent.body, Body::Grant(grant) if grant.desired == Desired::Bound);
        let names: Vec<&str> = scene.intents.values().filter(living).map(|intent| intent.owner.name.as_str()).collect();
        if !scene.site.release && !names.is_empty() {
            let everybody = ObjectKey::namespaced(WIDGET, "widgets", "everybody");
            stages.want([Object::new(everybody, scene.ownership, json!({"spec": {"of": names}}))]);
        }
    }

    fn shares(&self) -> bool {
        true
    }

    fn read(&self, kind: ObjectKind, object: &Value) -> Option<View> {
        (kind == WIDGET).then(|| View::new(Size(object["spec"]["size"].as_i64().unwrap_or_default())))
    }
}

/// An engine that gives access too early.
struct Hasty;

impl Engine for Hasty {
    fn name(&self) -> &'static str {
        "hasty"
    }

    fn grant(&self, scene: &GrantScene<'_>, stages: &mut GrantStages) {
        let key = ObjectKey::namespaced(ObjectKind::ROLE_BINDING, scene.namespace.as_str(), "robot");
        let binding = Object::new(key, scene.ownership, json!({"roleRef": {"kind": "ClusterRole", "name": "view"}}));
        stages.fence([binding]);
    }
}

static WITH_TOY: Engines = Engines::new(&[&Network, &Tenancy, &Toy]);
static WITH_HASTY: Engines = Engines::new(&[&Hasty, &Network, &Tenancy]);

fn site_intent() -> SiteIntent {
    scene::site_intent("bissen", Vec::new(), Dns::default(), Vec::new())
}

fn grant() -> GrantIntent {
    let subject = KubernetesSubject { kind: SubjectKind::User, name: "oidc:4711".to_owned() };
    let pool = GrantPoolIntent {
        pool: "h100".to_owned(),
        resource: "nvidia.com/gpu".to_owned(),
        max_gpus: 4,
        per_gpu: PerGpu { cpus: 16, memory_gib: 120 },
        open: true,
        entry: "main".to_owned(),
        budget: Budget { device_minutes: 60_000, ..Budget::default() },
        partition: None,
    };
    GrantIntent {
        members: vec![MemberIntent { id: "p-4711".to_owned(), role: MemberRole::Lead, subject: Some(subject), slurm_user: None }],
        pools: vec![pool],
        end: End { running_work: RunningWork::Finish, grace_seconds: 0, retention_seconds: 86400, after_retention: AfterRetention::Delete },
        ..scene::grant_intent(Vec::new(), None)
    }
}

fn named(name: &str) -> OwnerRef {
    OwnerRef::new(Kind::AccessGrant, "example", name)
}

/// An API server, and what the operator knows of it by its index.
struct Site {
    engines: Engines,
    intent: SiteIntent,
    intents: BTreeMap<OwnerRef, Arc<Intent>>,
    index: Index,
    objects: BTreeMap<ObjectKey, Value>,
    now: Timestamp,
    version: u64,
}

impl Site {
    fn of(engines: Engines, grants: &[&str]) -> Self {
        let mut site = Self {
            engines,
            intent: site_intent(),
            intents: BTreeMap::new(),
            index: Index::default(),
            objects: BTreeMap::new(),
            now: "2026-12-01T00:00:00Z".parse().unwrap(),
            version: 0,
        };
        grants.iter().for_each(|name| site.ask(name, Desired::Bound));
        site
    }

    fn ask(&mut self, name: &str, desired: Desired) {
        let body = Body::Grant(Box::new(GrantIntent { desired, ..grant() }));
        let intent =
            Intent { version: VERSION, owner: named(name), uid: format!("uid-of-{name}"), generation: 1, created: self.now, serial: 0, body };
        self.intents.insert(named(name), Arc::new(intent));
    }

    fn plan(&self, name: Option<&str>) -> Plan {
        let reconciler = Reconciler {
            site: &self.intent,
            intents: &self.intents,
            index: &self.index,
            policy: &SitePolicy::default(),
            refusals: &BTreeMap::new(),
            lost: &BTreeSet::new(),
            pools: &Pools::default(),
            hours: &Accounts::default(),
            engines: self.engines,
            served: &BTreeSet::from([WIDGET, LICENCE]),
            now: self.now,
        };
        match name {
            Some(name) => reconciler.intent(&self.intents[&named(name)]),
            None => reconciler.factory(),
        }
    }

    /// Carries out plans until nothing is left to do. Gives the actions, in order.
    fn settle(&mut self, name: Option<&str>) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..8 {
            let plan = self.plan(name);
            if plan.steps.is_empty() {
                return done;
            }
            for action in plan.steps.into_iter().flat_map(|step| step.actions) {
                self.act(&action);
                done.push(action);
            }
        }
        panic!("comes to no rest: {:#?}", self.plan(name).steps)
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Apply(object) => {
                let mut content = object.content.clone();
                let body = content.as_object().unwrap().keys().filter(|key| !["apiVersion", "kind", "metadata"].contains(&key.as_str()));
                let mut fields: BTreeMap<String, Value> = body.map(|key| (format!("f:{key}"), json!({}))).collect();
                fields.insert("f:metadata".to_owned(), json!({"f:labels": {}, "f:annotations": {}}));
                content["metadata"]["managedFields"] = json!([{"manager": labels::SITE_MANAGER, "operation": "Apply", "fieldsV1": fields}]);
                content["metadata"]["uid"] = json!(format!("uid-of-{}", object.key));
                self.store(&object.key, content);
            }
            Action::Delete { key, .. } => self.delete(key),
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, key: &ObjectKey, mut content: Value) {
        self.version += 1;
        content["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), content.clone());
        self.index.put(IndexedObject::reduce(self.engines, key.kind, &content, &HubId::new(HUB)).unwrap());
    }

    fn delete(&mut self, key: &ObjectKey) {
        if self.objects.remove(key).is_some() {
            self.version += 1;
            self.index.remove(key, &format!("uid-of-{key}"), self.version);
            if key.kind == ObjectKind::NAMESPACE {
                self.objects.retain(|inside, _| inside.namespace != key.name);
            }
        }
    }
}

fn namespace(name: &str) -> String {
    tenant_namespace(HUB, &named(name))
}

fn widget(name: &str) -> ObjectKey {
    ObjectKey::namespaced(WIDGET, namespace(name), "mine")
}

fn everybody() -> ObjectKey {
    ObjectKey::namespaced(WIDGET, "widgets", "everybody")
}

fn ended() -> Desired {
    Desired::Ended { because: Reason::Revoked, message: "revoked".to_owned(), at: None }
}

/// The place of an object among all that is written.
fn applied(actions: &[Action], select: impl Fn(&ObjectKey) -> bool) -> usize {
    actions.iter().position(|action| matches!(action, Action::Apply(object) if select(&object.key))).expect("it is written")
}

#[test]
fn its_kinds_are_looked_for_and_watched_where_they_are_served() {
    let (site, both) = (site_intent(), BTreeSet::from([WIDGET, LICENCE]));
    let api = Api { name: "Widgets", group: "example.dev", version: "v1" };
    assert_eq!(WITH_TOY.apis().get(&api), Some(&vec![WIDGET, LICENCE]));
    assert!(WITH_TOY.watched(&site, &both).is_superset(&both));
    assert!(WITH_TOY.watched(&site, &BTreeSet::new()).is_disjoint(&both), "a watch on what is not served fails for ever");
    assert!(engine::ALL.use_of(WIDGET).is_none(), "it is registered here alone");
}

#[test]
fn its_objects_come_after_the_fence_and_before_access() {
    let mut site = Site::of(WITH_TOY, &["alpha"]);
    let done = site.settle(Some("alpha"));
    let fence = applied(&done, |key| key.name == DEFAULT_DENY).max(applied(&done, |key| key.kind == ObjectKind::RESOURCE_QUOTA));
    let inside = applied(&done, |key| *key == widget("alpha"));
    let access = applied(&done, |key| key.kind == ObjectKind::ROLE_BINDING);
    assert!(fence < inside && inside < access, "{done:#?}");
    assert_eq!(site.index.views().get(&widget("alpha")), Some(&Size(3)), "it reads what is there");
}

#[test]
fn what_is_altered_is_repaired_and_nothing_else_is_written() {
    let mut site = Site::of(WITH_TOY, &["alpha"]);
    site.settle(Some("alpha"));
    let mut content = site.objects[&widget("alpha")].clone();
    content["spec"]["size"] = json!(4);
    site.store(&widget("alpha"), content);
    assert_eq!(site.index.views().get(&widget("alpha")), Some(&Size(4)));
    let done = site.settle(Some("alpha"));
    assert_eq!((done.len(), applied(&done, |key| *key == widget("alpha"))), (1, 0));
    site.delete(&widget("alpha"));
    assert_eq!(site.settle(Some("alpha")).len(), 1);
}

#[test]
fn its_objects_go_at_the_end_after_access_has_gone() {
    let mut site = Site::of(WITH_TOY, &["alpha"]);
    site.settle(Some("alpha"));
    site.ask("alpha", ended());
    let first = site.plan(Some("alpha"));
    assert_eq!(first.steps[0].purpose, Purpose::RemoveAccess);
    let done = site.settle(Some("alpha"));
    let deleted = |kind: ObjectKind| done.iter().position(|action| matches!(action, Action::Delete { key, .. } if key.kind == kind)).unwrap();
    assert!(deleted(ObjectKind::ROLE_BINDING) < deleted(WIDGET));
    assert!(!site.objects.contains_key(&widget("alpha")));
    assert!(site.objects.contains_key(&ObjectKey::cluster(LICENCE, namespace("alpha"))), "it is still wanted in a locked namespace");
    site.now += SignedDuration::from_hours(48);
    site.settle(Some("alpha"));
    assert!(site.objects.is_empty(), "what lies in no namespace goes with it: {:?}", site.objects.keys());
    assert!(site.index.objects(&named("alpha")).is_none());
}

#[test]
fn a_shared_object_has_all_owners_in_view() {
    let mut site = Site::of(WITH_TOY, &["alpha", "beta"]);
    site.settle(None);
    assert_eq!(site.objects[&everybody()]["spec"]["of"], json!(["alpha", "beta"]));
    site.ask("alpha", ended());
    site.settle(None);
    assert_eq!(site.objects[&everybody()]["spec"]["of"], json!(["beta"]));
    site.ask("gamma", Desired::Bound);
    site.settle(None);
    assert_eq!(site.objects[&everybody()]["spec"]["of"], json!(["beta", "gamma"]));
    assert!(WITH_TOY.shares() && !engine::ALL.shares(), "who needs no view of all owners does not pay for it");
    site.intent.release = true;
    site.settle(None);
    assert!(!site.objects.contains_key(&everybody()));
}

#[test]
fn no_engine_lets_anybody_in_before_the_fence_stands() {
    let mut site = Site::of(WITH_HASTY, &["alpha"]);
    let done = site.settle(Some("alpha"));
    let robot = applied(&done, |key| key.name == "robot");
    assert!(applied(&done, |key| key.name == DEFAULT_DENY) < robot && applied(&done, |key| key.kind == ObjectKind::RESOURCE_QUOTA) < robot);
    let fenced = site.plan(Some("alpha"));
    assert!(fenced.steps.is_empty(), "{:#?}", fenced.steps);
}

#[test]
fn no_engine_keeps_anybody_in_by_forgetting_to_let_go() {
    let mut site = Site::of(WITH_HASTY, &["alpha"]);
    site.settle(Some("alpha"));
    site.ask("alpha", Desired::Paused);
    let done = site.settle(Some("alpha"));
    assert!(done.iter().any(|action| matches!(action, Action::Delete { key, .. } if key.name == "robot")), "{done:#?}");
    site.ask("alpha", Desired::Bound);
    site.settle(Some("alpha"));
    site.ask("alpha", ended());
    let done = site.settle(Some("alpha"));
    assert!(done.iter().any(|action| matches!(action, Action::Delete { key, .. } if key.name == "robot")), "{done:#?}");
    assert!(matches!(site.plan(Some("alpha")).detail, Detail::Grant(detail) if detail.access_removed));
}
