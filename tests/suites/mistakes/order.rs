//! Deletes in the wrong order, and names that are used again.

use std::time::{Duration, Instant};

use aifactory_api::labels::ADOPT_PREVIOUS;
use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::{eventually, run};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::fixture::{self, FACTORY, NAMESPACE, PATIENCE, POOL, condition, grant};
use crate::{shared, site};

#[test]
fn deletes_in_the_wrong_order_end() {
    run(async {
        let world = shared().await;
        for name in ["order-1", "order-2"] {
            world.apply(grant(name)).await;
        }
        let tenant = world.tenant(&world.ready::<AccessGrant>("order-1").await);
        world.ready::<AccessGrant>("order-2").await;
        let begun = Instant::now();
        let secrets: Api<Secret> = Api::namespaced(world.hub().admin(), NAMESPACE);
        for name in ["bissen-kubeconfig", "bettembourg-kubeconfig"] {
            secrets.delete(name, &DeleteParams::default()).await.unwrap();
        }
        world.delete_confirmed::<AIFactory>(FACTORY).await;
        world.delete_confirmed::<GPUPool>(POOL).await;
        let pool = world.until::<GPUPool>(POOL, "Ready", "False").await;
        let ready = condition(&pool.status.as_ref().unwrap().conditions, "Ready").clone();
        assert!(ready.reason != "GrantsRemain" || ready.message.contains("order-1"), "{ready:?}");
        eventually(PATIENCE, "the factory names what remains", async || {
            let factory = world.api::<AIFactory>().get(FACTORY).await?;
            let ready = condition(&factory.status.as_ref().unwrap().conditions, "Ready").clone();
            if ready.reason == "PoolsRemain" && ready.message.contains(POOL) { Ok(()) } else { Err(format!("{ready:?}").into()) }
        })
        .await
        .unwrap();
        world.delete_grant("order-1").await;
        world.delete_grant("order-2").await;
        for name in ["order-1", "order-2"] {
            world.gone::<AccessGrant>(name).await;
        }
        world.gone::<GPUPool>(POOL).await;
        world.gone::<AIFactory>(FACTORY).await;
        eventually(PATIENCE, "the Secrets are let go", async || match secrets.get_opt("bissen-kubeconfig").await? {
            None => Ok(()),
            Some(found) => Err(format!("{:?}", found.metadata.finalizers).into()),
        })
        .await
        .unwrap();
        eprintln!("Secrets, factory, pool, grants, in this order: gone after {:?}", begun.elapsed());
        for cluster in world.federation.sites() {
            site::released(cluster).await;
            assert_eq!(site::state(cluster, &tenant).await.as_deref(), Some("Locked"));
        }
    });
}

#[test]
fn a_name_that_is_used_again_is_not_harmed_by_its_past() {
    run(async {
        let world = shared().await;
        world.apply(grant("again")).await;
        let tenant = world.tenant(&world.ready::<AccessGrant>("again").await);
        let site_of = |index: usize| &world.federation.sites()[index];
        let uids = [site::tenants(site_of(0)).await, site::tenants(site_of(1)).await];
        for _ in 0..5 {
            world.delete_grant("again").await;
            // Applied while the old one is still going, and at once when it is gone.
            eventually(PATIENCE, "the new one is made", async || {
                let old = world.api::<AccessGrant>().get_opt("again").await?;
                match old {
                    Some(_) => Err("the old one is there".into()),
                    None => {
                        world.apply(grant("again")).await;
                        Ok(())
                    }
                }
            })
            .await
            .unwrap();
            world.ready::<AccessGrant>("again").await;
            for cluster in world.federation.sites() {
                assert_eq!(site::roles(cluster, &tenant).await, ["aifactory-lead", "aifactory-member", "aifactory-reader"]);
                assert_eq!(site::state(cluster, &tenant).await.as_deref(), Some("Bound"));
            }
        }
        // Pool and factory, while the grant is there: they wait for it, so they are made again only after it.
        world.delete_grant("again").await;
        world.gone::<AccessGrant>("again").await;
        world.delete_confirmed::<GPUPool>(POOL).await;
        world.gone::<GPUPool>(POOL).await;
        world.delete_confirmed::<AIFactory>(FACTORY).await;
        world.gone::<AIFactory>(FACTORY).await;
        world.factory().await;

        // Another project under the same name does not get the data of the first.
        let mut other = grant("again");
        other["spec"]["code"] = json!("EHPC-AIF-2026PG99-other");
        world.apply(other.clone()).await;
        let stopped = world.until::<AccessGrant>("again", "Stalled", "True").await;
        let ready = condition(&stopped.status.as_ref().unwrap().conditions, "Ready").clone();
        assert!(ready.reason == "PreviousIncarnation" && ready.message.contains(ADOPT_PREVIOUS), "{ready:?}");
        for cluster in world.federation.sites() {
            assert_eq!(site::state(cluster, &tenant).await.as_deref(), Some("Locked"));
        }
        other["metadata"]["annotations"] = json!({ADOPT_PREVIOUS: "true"});
        world.apply(other).await;
        world.ready::<AccessGrant>("again").await;
        for (index, before) in uids.iter().enumerate() {
            assert_eq!(site::tenants(site_of(index)).await[&tenant], before[&tenant], "the namespace is the same");
        }
        world.delete_grant("again").await;
        world.gone::<AccessGrant>("again").await;
        world.counted().await;
        world.at_rest(Duration::from_secs(3)).await;
        let _ = fixture::POOL;
    });
}
