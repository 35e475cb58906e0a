//! One sweep by mistake, then the same on purpose.

use std::time::{Duration, Instant};

use aifactory_api::labels::CONFIRM_DELETE;
use aifactory_api::{AIFactory, AccessGrant};
use aifactory_tests::{eventually, run};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::fixture::{NAMESPACE, PATIENCE, World, condition, grant};
use crate::{shared, site};

const GRANTS: usize = 40;
const SWEPT: usize = 20;
const LONG: Duration = Duration::from_secs(90);

#[test]
fn a_sweep_by_mistake_destroys_nothing_and_one_on_purpose_ends() {
    run(async {
        let world = shared().await;
        let names: Vec<String> = (0..GRANTS).map(|index| format!("swept-{index:02}")).collect();
        join_all(names.iter().map(|name| world.apply(grant(name)))).await;
        let mut tenants = Vec::new();
        for name in &names {
            tenants.push(world.tenant(&world.ready::<AccessGrant>(name).await));
        }
        let before = held(&world).await;
        assert_eq!(before[0].len(), before[1].len());

        by_mistake(&world, &names).await;
        assert_eq!(held(&world).await, before);

        let begun = Instant::now();
        join_all(names[..SWEPT].iter().map(|name| world.delete_grant(name))).await;
        join_all(names[..SWEPT].iter().map(|name| world.gone::<AccessGrant>(name))).await;
        eprintln!("{SWEPT} confirmed grants gone after {:?}", begun.elapsed());
        assert_eq!(held(&world).await, before, "namespaces are kept for the retention");
        for cluster in world.federation.sites() {
            for tenant in &tenants[..SWEPT] {
                eventually(PATIENCE, format!("{tenant} is locked"), async || match site::state(cluster, tenant).await.as_deref() {
                    Some("Locked") => Ok(()),
                    other => Err(format!("{other:?}").into()),
                })
                .await
                .unwrap();
                assert_eq!(site::roles(cluster, tenant).await, ["aifactory-keeper", "aifactory-reader", "aifactory-reader"]);
            }
        }
        let begun = Instant::now();
        join_all(names[..SWEPT].iter().map(|name| world.apply(grant(name)))).await;
        for (name, tenant) in names[..SWEPT].iter().zip(&tenants) {
            assert_eq!(world.tenant(&world.ready::<AccessGrant>(name).await), *tenant);
            for cluster in world.federation.sites() {
                assert_eq!(site::roles(cluster, tenant).await, ["aifactory-lead", "aifactory-member", "aifactory-reader"]);
            }
        }
        eprintln!("{SWEPT} grants applied again and Ready after {:?}", begun.elapsed());
        assert_eq!(held(&world).await, before, "the same namespaces, with what is in them");

        for_good(&world).await;
        assert_eq!(held(&world).await, before, "data is kept when a factory goes");
    });
}

/// Everything at once, without a confirmation.
async fn by_mistake(world: &World, names: &[String]) {
    let admin = world.hub().admin();
    let marks: Vec<_> = world.federation.sites().iter().map(|cluster| (cluster, cluster.audit().mark().unwrap())).collect();
    let grants = world.api::<AccessGrant>();
    let params = DeleteParams::default();
    for name in &names[..SWEPT] {
        refused(grants.delete(name, &params).await, name);
    }
    refused(grants.delete_collection(&params, &ListParams::default()).await, "all grants");
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let definitions: Api<CustomResourceDefinition> = Api::all(admin);
    // The namespace is listed as one with living grants a moment after its first grant.
    refused(namespaces.delete(NAMESPACE, &params).await, NAMESPACE);
    for plural in ["aifactories", "gpupools", "accessgrants"] {
        refused(definitions.delete(&format!("{plural}.aifactory.dev"), &params).await, plural);
    }
    for grant in grants.list(&ListParams::default()).await.unwrap() {
        assert!(grant.metadata.deletion_timestamp.is_none(), "{}", grant.name_any());
        assert_eq!(condition(&grant.status.as_ref().unwrap().conditions, "Ready").status, "True");
    }
    for (cluster, mark) in marks {
        let writes = cluster.audit().since(mark).unwrap().only(|request| request.user.contains("aifactory")).writes();
        assert!(writes.is_empty(), "{}: {}", cluster.name(), writes.summary());
    }
}

fn refused<T: std::fmt::Debug>(answer: kube::Result<T>, what: &str) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(CONFIRM_DELETE) => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// As docs/src/operations/delete.md tells: the confirmation on the namespace covers all that is in it.
async fn for_good(world: &World) {
    let namespaces: Api<Namespace> = Api::all(world.hub().admin());
    let uid = namespaces.get(NAMESPACE).await.unwrap().uid();
    let confirm = json!({"metadata": {"annotations": {CONFIRM_DELETE: uid}}});
    namespaces.patch(NAMESPACE, &PatchParams::default(), &Patch::Merge(confirm)).await.unwrap();
    let begun = Instant::now();
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await.unwrap();
    eventually(LONG, "the factory's namespace is gone", async || match namespaces.get_opt(NAMESPACE).await? {
        None => Ok(()),
        Some(found) => {
            let grants = world.api::<AccessGrant>().list(&ListParams::default()).await?.items.len();
            let factories = world.api::<AIFactory>().list(&ListParams::default()).await?.items;
            let conditions: Vec<_> =
                factories.iter().filter_map(|factory| factory.status.as_ref()).map(|status| crate::fixture::summary(&status.conditions)).collect();
            Err(format!("{grants} grants, {conditions:?}, {:?}", found.status.and_then(|status| status.conditions)).into())
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
    eprintln!("the factory's namespace, with {GRANTS} grants: gone after {:?}", begun.elapsed());
    for cluster in world.federation.sites() {
        site::released(cluster).await;
    }
}

async fn held(world: &World) -> Vec<std::collections::BTreeMap<String, String>> {
    let sites = world.federation.sites();
    join_all(sites.iter().map(site::tenants)).await
}
