//! What the scenarios look at on sites.

use std::time::Duration;

use aifactory_tests::{Cluster, eventually};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

/// UIDs of all tenants' namespaces of a site, by name.
pub async fn tenants(site: &Cluster) -> std::collections::BTreeMap<String, String> {
    let api: Api<Namespace> = Api::all(site.admin());
    let found = api.list(&ListParams::default().labels("aifactory.dev/tenant=true")).await.unwrap();
    found.iter().map(|namespace| (namespace.name_any(), namespace.uid().unwrap())).collect()
}

pub async fn state(site: &Cluster, tenant: &str) -> Option<String> {
    let api: Api<Namespace> = Api::all(site.admin());
    api.get(tenant).await.unwrap().labels().get("aifactory.dev/state").cloned()
}

/// Roles that members have in a namespace.
pub async fn roles(site: &Cluster, tenant: &str) -> Vec<String> {
    let api: Api<RoleBinding> = Api::namespaced(site.admin(), tenant);
    let mut roles: Vec<String> = api.list(&ListParams::default()).await.unwrap().into_iter().map(|binding| binding.role_ref.name).collect();
    roles.sort();
    roles
}

/// Waits until a site is free of a factory: no claim, no node held, nobody who works.
pub async fn released(site: &Cluster) {
    eventually(Duration::from_secs(30), format!("{} is released", site.name()), async || {
        let claims: Api<ConfigMap> = Api::namespaced(site.admin(), "aifactory-system");
        if let Some(hub) = claims.get("aifactory-claim").await?.data.and_then(|data| data.get("hub").cloned()).filter(|hub| !hub.is_empty()) {
            return Err(format!("claimed by {hub}").into());
        }
        for node in Api::<Node>::all(site.admin()).list(&ListParams::default()).await? {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
            if node.labels().contains_key("aifactory.dev/pool") || taints.iter().any(|taint| taint.key == "nvidia.com/gpu") {
                return Err(format!("{} is held: {taints:?}", node.name_any()).into());
            }
        }
        let working = ["aifactory-lead", "aifactory-member"];
        for binding in Api::<RoleBinding>::all(site.admin()).list(&ListParams::default()).await? {
            if working.contains(&binding.role_ref.name.as_str()) {
                return Err(format!("{}/{} is there", binding.namespace().unwrap_or_default(), binding.name_any()).into());
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}
