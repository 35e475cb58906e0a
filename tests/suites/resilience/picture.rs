//! What a set of grants means on a cluster, free of names, identities and moments, so that two sets can be compared.

use std::collections::BTreeMap;

use aifactory_api::AccessGrant;
use aifactory_plan::engine::{self, uses::Care};
use aifactory_tests::Cluster;
use kube::api::{DynamicObject, ListParams};
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// All that a site holds for the grants whose names begin with `prefix`.
pub async fn of_site(site: &Cluster, prefix: &str) -> BTreeMap<String, Value> {
    let begin = format!("aif-{prefix}-");
    let mut picture = BTreeMap::new();
    let kinds = engine::ALL.kinds().filter(|used| used.api.is_none() && used.care != Care::Unseen).map(|used| used.kind);
    for kind in kinds {
        let (group, version, name, plural) = kind.gvk();
        let resource =
            ApiResource { group: group.into(), version: version.into(), api_version: kind.api_version(), kind: name.into(), plural: plural.into() };
        let api: Api<DynamicObject> = Api::all_with(site.admin(), &resource);
        for object in api.list(&ListParams::default()).await.unwrap() {
            let place = object.namespace().unwrap_or_else(|| object.name_any());
            if !place.starts_with(&begin) {
                continue;
            }
            let same = |text: &str| plain(&text.replace(&place, "NAMESPACE"), prefix);
            let grant = place.trim_start_matches(&begin).split('-').next().unwrap_or_default().to_owned();
            let key = same(&format!("{grant} {name} {}", object.name_any()));
            picture.insert(key, serde_json::from_str(&same(&reduced(&object).to_string())).unwrap());
        }
    }
    picture
}

/// What the hub says of the grants whose names begin with `prefix`.
pub fn of_hub(grants: &[AccessGrant], prefix: &str) -> BTreeMap<String, Value> {
    let own = grants.iter().filter(|grant| grant.name_any().starts_with(&format!("{prefix}-")));
    own.map(|grant| {
        let status = grant.status.clone().unwrap();
        let conditions: Vec<String> = status.conditions.iter().map(|found| format!("{}={} {}", found.type_, found.status, found.reason)).collect();
        let sites: Vec<String> = status.sites.iter().map(|site| format!("{} {} {:?}", site.name, site.phase, site.members)).collect();
        let seen = json!({"finalizers": grant.finalizers(), "phase": status.phase, "conditions": conditions, "sites": sites});
        (plain(&grant.name_any(), prefix), seen)
    })
    .collect()
}

fn plain(text: &str, prefix: &str) -> String {
    text.replace(&format!("{prefix}-"), "grant-")
}

fn reduced(object: &DynamicObject) -> Value {
    let of_ours = |name: &str| {
        let moment = ["/owner-uid", "/ended-at", "/locked-at", "/retained-until", "/cancel-work-at", "/work-cancelled-at"];
        !moment.iter().any(|end| name.ends_with(end))
    };
    let mut annotations = object.annotations().clone();
    annotations.retain(|name, _| of_ours(name));
    let mut labels = object.labels().clone();
    labels.remove(aifactory_api::labels::OWNER);
    let mut data = object.data.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.remove("status");
    }
    json!({"labels": labels, "annotations": annotations, "finalizers": object.finalizers(), "deleting": object.metadata.deletion_timestamp.is_some(), "data": data})
}
