//! A site's Kubernetes as a store: what plans apply is there, and what they delete is not.

use std::collections::BTreeMap;

use aifactory_api::{OwnerRef, labels};
use aifactory_plan::model::id::TenantNamespace;
use aifactory_plan::model::intent::{Body, Intent, Refusal, SiteIntent};
use aifactory_plan::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use aifactory_plan::model::plan::{Action, Observed, ObservedObjects, Plan};
use aifactory_plan::model::report::{Detail, SitePhase};
use aifactory_plan::site::grant::{self, GrantView, NamespaceView, Retained};
use aifactory_plan::site::policy::SitePolicy;
use jiff::Timestamp;

/// What is there of one grant.
#[derive(Clone, Debug, Default)]
pub struct Kubernetes {
    objects: BTreeMap<ObjectKey, (u64, Object)>,
    writes: u64,
    /// When work in the namespace was ended.
    pub work_ended: Vec<Timestamp>,
}

impl Kubernetes {
    pub fn namespace(&self, site: &SiteIntent, owner: &OwnerRef) -> Option<NamespaceView> {
        let (uid, object) = self.objects.get(&ObjectKey::cluster(ObjectKind::NAMESPACE, TenantNamespace::of(&site.hub, owner).as_str()))?;
        let metadata = &object.content["metadata"];
        Some(NamespaceView {
            uid: uid.to_string(),
            terminating: false,
            state: metadata["labels"][labels::STATE].as_str().unwrap_or_default().to_owned(),
            annotations: serde_json::from_value(metadata["annotations"].clone()).expect("annotations"),
        })
    }

    fn observed(&self) -> ObservedObjects {
        let observed = |uid: &u64, object: &Object| Observed { uid: uid.to_string(), digest: Some(object.digest()), terminating: false };
        self.objects.iter().map(|(key, (uid, object))| (key.clone(), observed(uid, object))).collect()
    }

    /// The plan for what the hub wants.
    pub fn plan(&self, site: &SiteIntent, intent: &Intent, refused: Option<&Refusal>, policy: &SitePolicy, now: Timestamp) -> Plan {
        let Body::Grant(grant) = &intent.body else { panic!("a grant's intent") };
        let (namespace, objects) = (self.namespace(site, &intent.owner), self.observed());
        let view = GrantView { namespace: namespace.as_ref(), refused, ..GrantView::of(&objects, policy) };
        grant::plan(site, intent, grant, &view, now)
    }

    /// The plan for what is left of a grant that is gone from the hub.
    pub fn plan_gone(&self, site: &SiteIntent, owner: &OwnerRef, policy: &SitePolicy, now: Timestamp) -> Plan {
        let name = TenantNamespace::of(&site.hub, owner);
        match self.namespace(site, owner) {
            None => Plan::nothing(SitePhase::Gone, Detail::None),
            Some(view) if view.retained() => {
                let ownership = Ownership::new(&site.hub, owner, &view.annotations[labels::OWNER_UID]);
                let (objects, strangers, becoming) = (self.observed(), BTreeMap::new(), BTreeMap::new());
                let retained =
                    Retained { name: &name, view: &view, objects: &objects, strangers: &strangers, becoming: &becoming, accelerators_in_use: false };
                grant::plan_retained(site, &ownership, retained, policy, now)
            }
            // An orphan, which the factory wants reported.
            Some(_) => Plan::nothing(SitePhase::Locked, Detail::None),
        }
    }

    pub fn execute(&mut self, plan: &Plan, now: Timestamp) {
        for action in plan.steps.iter().flat_map(|step| &step.actions) {
            match action {
                Action::Apply(object) => {
                    self.writes += 1;
                    let uid = self.objects.get(&object.key).map_or(self.writes, |(uid, _)| *uid);
                    self.objects.insert(object.key.clone(), (uid, object.clone()));
                }
                Action::Delete { key, .. } => {
                    self.objects.remove(key);
                    if key.kind == ObjectKind::NAMESPACE {
                        self.objects.retain(|inside, _| inside.namespace != key.name);
                    }
                }
                Action::EndWork { .. } => self.work_ended.push(now),
                other => panic!("{other:?}"),
            }
        }
    }
}
