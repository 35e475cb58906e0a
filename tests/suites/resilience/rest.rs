//! Nothing spins: neither a leader nor a standby, whatever is missing.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant};
use aifactory_tests::{Operator, eventually, run};
use kube::api::DeleteParams;
use serde_json::json;

use crate::fixture::{self, PATIENCE, condition, factory, grant, site};
use crate::shared;

#[test]
fn leader_and_standby_rest_with_a_missing_secret_and_a_reference_to_nothing() {
    run(async {
        let world = shared().await;
        let mut other = factory();
        other["metadata"]["name"] = json!("rest");
        other["spec"]["sites"] = json!([site("nowhere", "LU", "10.62")]);
        other["spec"]["links"] = json!([]);
        world.apply(other).await;
        let mut dangling = grant("rest-dangling");
        dangling["spec"]["pools"][0]["poolRef"]["name"] = json!("missing");
        world.apply(dangling).await;
        eventually(PATIENCE, "the missing Secret is told", async || {
            let status = world.api::<AIFactory>().get("rest").await?.status.unwrap_or_default();
            let named = status.conditions.iter().any(|condition| condition.status == "False" && condition.message.contains("nowhere"));
            if named { Ok(()) } else { Err(fixture::summary(&status.conditions).into()) }
        })
        .await
        .unwrap();
        let refused = world.until::<AccessGrant>("rest-dangling", "Ready", "False").await;
        assert!(!condition(&refused.status.unwrap().conditions, "Ready").message.is_empty());
        let standby = Operator::start(&world.federation, fixture::options().name("standby")).await.unwrap();
        standby.await_ready(PATIENCE).await.unwrap();
        world.counted().await;
        fixture::until_quiet(&world.federation, Duration::from_secs(1), PATIENCE).await.unwrap();
        fixture::assert_at_rest(&world.federation, &[&world.operator, &standby], Duration::from_secs(20)).await;
        drop(standby);
        world.delete_grant("rest-dangling").await;
        world.gone::<AccessGrant>("rest-dangling").await;
        world.api::<AIFactory>().delete("rest", &DeleteParams::default()).await.unwrap();
        world.gone::<AIFactory>("rest").await;
    });
}
