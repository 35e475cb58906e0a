//! A site as a store: what plans apply is there, and what they delete is not.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::name::owner_label;
use aifactory_api::{OwnerRef, labels};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::project;
use aifactory_plan::model::intent::{Body, Intent, SiteIntent};
use aifactory_plan::model::object::{Object, ObjectKey, ObjectKind};
use aifactory_plan::model::plan::{Action, Observed, ObservedObjects, Plan};
use aifactory_plan::model::report::Report;
use aifactory_plan::model::site_key::SiteKey;
use aifactory_plan::site::grant::{self, GrantView, NamespaceView};
use aifactory_plan::site::policy::SitePolicy;
use jiff::Timestamp;

use crate::evaluator::{Cluster, Labels};
use crate::hub;

/// One site's objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    pub objects: BTreeMap<ObjectKey, (u64, Object)>,
    pub policy: SitePolicy,
    writes: u64,
}

/// All sites of a hub.
pub type Sites = BTreeMap<SiteKey, Site>;

impl Site {
    fn observed(&self, owner: &OwnerRef) -> ObservedObjects {
        let label = owner_label(hub::id().as_str(), owner);
        let ours = self.objects.iter().filter(|(_, (_, object))| object.content["metadata"]["labels"][labels::OWNER] == *label);
        ours.map(|(key, (uid, object))| {
            let found = Observed { uid: uid.to_string(), digest: Some(object.digest()), terminating: false };
            (key.clone(), found)
        })
        .collect()
    }

    /// A tenant's namespace, as the site worker keeps it.
    pub fn namespace(&self, name: &str) -> Option<NamespaceView> {
        let (uid, object) = self.objects.get(&ObjectKey::cluster(ObjectKind::NAMESPACE, name))?;
        let metadata = &object.content["metadata"];
        let annotations = serde_json::from_value(metadata["annotations"].clone()).expect("annotations");
        let state = metadata["labels"][labels::STATE].as_str().unwrap_or_default().to_owned();
        Some(NamespaceView { uid: uid.to_string(), terminating: false, state, annotations })
    }

    /// Plans what an intent means here now.
    pub fn plan(&self, site: &SiteIntent, intent: &Intent, now: Timestamp) -> Plan {
        let Body::Grant(grant) = &intent.body else { panic!("a grant's intent") };
        let name = aifactory_api::name::tenant_namespace(site.hub.as_str(), &intent.owner);
        let (namespace, objects) = (self.namespace(&name), self.observed(&intent.owner));
        let view = GrantView { namespace: namespace.as_ref(), ..GrantView::of(&objects, &self.policy) };
        grant::plan(site, intent, grant, &view, now)
    }

    /// Does what a plan says, and holds it to the order that safety needs.
    pub fn apply(&mut self, plan: &Plan) {
        for action in plan.steps.iter().flat_map(|step| &step.actions) {
            match action {
                Action::Apply(object) => {
                    self.check(object);
                    self.writes += 1;
                    let uid = self.objects.get(&object.key).map_or(self.writes, |(uid, _)| *uid);
                    self.objects.insert(object.key.clone(), (uid, object.clone()));
                }
                Action::Delete { key, uid } => {
                    let same = |found: u64| uid.as_ref().is_none_or(|uid| *uid == found.to_string());
                    if self.objects.get(key).is_some_and(|(found, _)| same(*found)) {
                        self.objects.remove(key);
                        if key.kind == ObjectKind::NAMESPACE {
                            self.objects.retain(|inside, _| inside.namespace != key.name);
                        }
                    }
                }
                Action::EndWork { namespace } => {
                    let state = self.namespace(namespace.as_str()).map(|found| found.state);
                    assert_eq!(state.as_deref(), Some(labels::STATE_LOCKED), "work ends in locked namespaces only");
                }
                Action::EndPod { namespace, .. } => {
                    let marked = self.namespace(namespace.as_str()).is_some_and(|found| found.annotations.contains_key(labels::CANCEL_PODS));
                    assert!(marked, "Pods end where the namespace says so only");
                }
                Action::PatchNode(_) => panic!("a grant patches no node"),
                Action::CreateKey { .. } => panic!("a grant has no keys"),
            }
        }
    }

    fn check(&self, object: &Object) {
        let inside = |kind, name: &str| self.objects.contains_key(&ObjectKey::namespaced(kind, object.key.namespace.as_str(), name));
        if !object.key.namespace.is_empty() {
            assert!(self.namespace(&object.key.namespace).is_some(), "{}: before its namespace", object.key);
        }
        if object.key.kind == ObjectKind::ROLE_BINDING {
            assert!(inside(ObjectKind::NETWORK_POLICY, "aif-default-deny"), "{}: before default deny", object.key);
            assert!(inside(ObjectKind::RESOURCE_QUOTA, "aifactory"), "{}: before the quota", object.key);
        }
    }

    /// The site as its network sees it.
    pub fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        for (key, (_, object)) in &self.objects {
            match key.kind {
                ObjectKind::NAMESPACE => {
                    let mut labels: Labels = serde_json::from_value(object.content["metadata"]["labels"].clone()).expect("labels");
                    labels.insert("kubernetes.io/metadata.name".to_owned(), key.name.clone());
                    cluster.namespaces.insert(key.name.clone(), labels);
                }
                ObjectKind::NETWORK_POLICY => cluster.policies.push(serde_json::from_value(object.content.clone()).expect("a policy")),
                _ => {}
            }
        }
        cluster
    }
}

/// The sites that hold something of an owner.
pub fn holders(sites: &Sites, owner: &OwnerRef) -> BTreeSet<SiteKey> {
    sites.iter().filter(|(_, site)| !site.observed(owner).is_empty()).map(|(key, _)| key.clone()).collect()
}

/// Reconciles every grant at every site once. Returns the reports, and the number of actions.
pub fn reconcile_all(world: &Cache, sites: &mut Sites, now: Timestamp) -> (Vec<(SiteKey, Report)>, usize) {
    let (mut reports, mut actions) = (Vec::new(), 0);
    let owners: Vec<OwnerRef> = world.grants().map(|(owner, _)| owner.clone()).collect();
    for owner in &owners {
        let Some(projection) = project::grant(world, owner, &holders(sites, owner), now) else { continue };
        for (key, intent) in &projection.sites {
            let Some(site) = project::site(world, &hub::id(), key, None) else { continue };
            let here = sites.entry(key.clone()).or_default();
            let plan = here.plan(&site, intent, now);
            here.apply(&plan);
            actions += plan.steps.iter().map(|step| step.actions.len()).sum::<usize>();
            let report = Report { settled: plan.steps.is_empty(), findings: plan.findings, ..Report::answering(intent, plan.phase, plan.detail) };
            reports.push((key.clone(), report));
        }
    }
    (reports, actions)
}

/// Reconciles until nothing is left to do.
pub fn settle(world: &Cache, sites: &mut Sites, now: Timestamp) -> usize {
    (1..10).find(|_| reconcile_all(world, sites, now).1 == 0).expect("comes to rest")
}
