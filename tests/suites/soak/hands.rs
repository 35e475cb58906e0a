//! Hands at a site: its own policy and nodes, and whoever edits what is ours.

use aifactory_api::labels;
use aifactory_tests::{OFFERED, SYSTEM_NAMESPACE};
use k8s_openapi::api::core::v1::{ConfigMap, LimitRange, Namespace, Node, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cast::{self, SITES};
use crate::ops::Op;
use crate::stage::Soak;

/// An object in a tenant's namespace.
struct Found {
    api: Api<DynamicObject>,
    kind: String,
    name: String,
    managed: bool,
}

impl Soak {
    /// Sets a key of the site's own policy, or takes the policy away.
    pub async fn set_policy(&self, site: usize, entry: Option<(&str, Option<&str>)>) {
        let api: Api<ConfigMap> = Api::namespaced(self.site(site).admin(), SYSTEM_NAMESPACE);
        let Some((key, value)) = entry else {
            let _ = api.delete(labels::SITE_POLICY, &DeleteParams::default()).await;
            return;
        };
        let policy: ConfigMap = serde_json::from_value(json!({"metadata": {"name": labels::SITE_POLICY}})).unwrap();
        let _ = api.create(&PostParams::default(), &policy).await;
        let patch = json!({"data": {key: value}});
        let _ = api.patch(labels::SITE_POLICY, &PatchParams::default(), &Patch::Merge(patch)).await;
    }

    async fn label_node(&self, site: usize, node: usize, label: &str, value: &str) {
        let api: Api<Node> = Api::all(self.site(site).admin());
        let patch = json!({"metadata": {"labels": {label: value}}});
        let _ = api.patch(&format!("{}-{node}", SITES[site]), &PatchParams::default(), &Patch::Merge(patch)).await;
    }

    /// What is in a tenant's namespace and carries our annotation, in the order of kind and name.
    async fn inside(&self, site: usize, grant: usize) -> Vec<Found> {
        let kinds = [
            ApiResource::erase::<RoleBinding>(&()),
            ApiResource::erase::<NetworkPolicy>(&()),
            ApiResource::erase::<ResourceQuota>(&()),
            ApiResource::erase::<LimitRange>(&()),
            ApiResource::erase::<ServiceAccount>(&()),
            ApiResource::erase::<ConfigMap>(&()),
        ];
        let mut found = Vec::new();
        for kind in kinds {
            let api: Api<DynamicObject> = Api::namespaced_with(self.site(site).admin(), &self.tenant(grant), &kind);
            for object in api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                if object.annotations().contains_key(labels::OWNER) {
                    let managed = object.labels().contains_key(labels::MANAGED);
                    found.push(Found { api: api.clone(), kind: kind.kind.clone(), name: object.name_any(), managed });
                }
            }
        }
        found
    }

    async fn one_inside(&self, site: usize, grant: usize, number: usize) -> Option<Found> {
        let mut inside = self.inside(site, grant).await;
        if inside.is_empty() { None } else { Some(inside.swap_remove(number % inside.len())) }
    }

    /// Whether the operation is one at a site.
    pub async fn lay_hands(&self, op: Op) -> bool {
        match op {
            Op::Paused(site, paused) => self.set_policy(site, Some(("paused", Some(if paused { "true" } else { "false" })))).await,
            Op::KeepNamespaces(site, keep) => self.set_policy(site, Some(("allowDeletion", Some(if keep { "false" } else { "true" })))).await,
            Op::RefuseGrant(site, grant) => {
                let name = grant.map(cast::grant).map(|grant| format!("{}/{}", grant.namespace, grant.name));
                self.set_policy(site, Some(("refuseGrants", name.as_deref()))).await;
            }
            Op::RefuseMember(site, member) => {
                let id = member.map(|member| format!("p-{member}"));
                self.set_policy(site, Some(("refuseMembers", id.as_deref()))).await;
            }
            Op::NodeGoes(site, node) => {
                let _ = self.site(site).remove_node(&format!("{}-{node}", SITES[site])).await;
            }
            Op::NodeComes(site, node) => {
                let _ = self.site(site).add_node(Self::node(site, node)).await;
            }
            Op::Offer(site, node, offered) => self.label_node(site, node, OFFERED, if offered { "true" } else { "false" }).await,
            Op::Relabelled(site, node, pool) => self.label_node(site, node, "model", cast::POOLS[pool]).await,
            Op::DeleteObject(site, grant, number) => {
                if let Some(found) = self.one_inside(site, grant, number).await {
                    let _ = found.api.delete(&found.name, &DeleteParams::default()).await;
                }
            }
            Op::EditObject(site, grant, number) => {
                if let Some(found) = self.one_inside(site, grant, number).await {
                    found.patch(&changed(&found.kind)).await;
                }
            }
            Op::Unlabel(site, grant, number) => {
                if let Some(found) = self.one_inside(site, grant, number).await {
                    found.patch(&json!({"metadata": {"labels": {labels::MANAGED: null}}})).await;
                }
            }
            Op::Relabel(site, grant) => {
                for found in self.inside(site, grant).await.into_iter().filter(|found| !found.managed) {
                    found.patch(&json!({"metadata": {"labels": {labels::MANAGED: "true"}}})).await;
                }
            }
            Op::UnlabelNamespace(site, grant) => {
                let api: Api<Namespace> = Api::all(self.site(site).admin());
                let patch = json!({"metadata": {"labels": {labels::MANAGED: null}}});
                let _ = api.patch(&self.tenant(grant), &PatchParams::default(), &Patch::Merge(patch)).await;
            }
            Op::Foreign(site, grant, member) => {
                let subject = member.map_or("oidc:somebody".to_owned(), cast::subject);
                let binding = json!({"metadata": {"name": format!("by-hand-{}", subject.replace(':', "-"))},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
                    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": subject}]});
                let api: Api<RoleBinding> = Api::namespaced(self.site(site).admin(), &self.tenant(grant));
                let _ = api.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await;
            }
            Op::DeleteNamespace(site, grant) => {
                let api: Api<Namespace> = Api::all(self.site(site).admin());
                let _ = api.delete(&self.tenant(grant), &DeleteParams::default()).await;
            }
            _ => return false,
        }
        true
    }
}

impl Found {
    async fn patch(&self, patch: &Value) {
        let _ = self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    }
}

/// What somebody may make of an object of ours.
fn changed(kind: &str) -> Value {
    match kind {
        "RoleBinding" => json!({"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "oidc:somebody"}]}),
        "NetworkPolicy" => json!({"spec": {"podSelector": {"matchLabels": {"edited": "true"}}}}),
        "ResourceQuota" => json!({"spec": {"hard": {"pods": "9000"}}}),
        "LimitRange" => json!({"spec": {"limits": []}}),
        "ConfigMap" => json!({"data": {"edited": "true"}}),
        _ => json!({"automountServiceAccountToken": true}),
    }
}
