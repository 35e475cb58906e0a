//! The operator is killed again and again while grants come, change and go.

use std::time::{Duration, Instant};

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::{Operator, eventually, run};
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::chance::Chance;
use crate::fixture::{self, FACTORY, PATIENCE, POOL, World, condition};
use crate::picture;
use crate::shared;

const GRANTS: usize = 50;
const KILLS: usize = 20;
/// How long the changes take when they are spread over the kills.
const SPAN: Duration = Duration::from_secs(25);

#[test]
fn a_kill_at_any_moment_changes_nothing_in_the_end() {
    run(async {
        let mut world = shared().await;
        world.operator.kill();
        // What is told apart here is the end of a process; its lease shall not end before.
        let options = fixture::options().name("killed").lease("15s", "10s", "1s");
        world.operator = Operator::start(&world.federation, options).await.unwrap();
        let times = (fixture::at(-60), fixture::at(7200));
        let calm = Instant::now();
        everything(&world, "calm", &times, &mut Chance::seeded(0), Duration::from_millis(1)).await;
        settled(&world, "calm").await;
        eprintln!("without kills: {:?}", calm.elapsed());

        let begun = Instant::now();
        let leases: Api<Lease> = Api::namespaced(world.hub().admin(), "aifactory-system");
        let mut moments = Chance::seeded(5);
        let kills = async {
            for _ in 0..KILLS {
                tokio::time::sleep(moments.moment(Duration::from_millis(2500))).await;
                world.operator.kill();
                // Nobody else waits for the lease of the dead, and nothing is learned by waiting.
                leases.delete("aifactory-operator", &DeleteParams::default()).await.ok();
                world.operator.restart().await.unwrap();
            }
        };
        let mut pauses = Chance::seeded(50);
        tokio::join!(kills, everything(&world, "kill", &times, &mut pauses, SPAN));
        let last = Instant::now();
        settled(&world, "kill").await;
        eprintln!("{KILLS} kills within {:?}, all true {:?} after the last", last.duration_since(begun), last.elapsed());

        let grants = world.api::<AccessGrant>().list(&ListParams::default()).await.unwrap().items;
        same(&picture::of_hub(&grants, "calm"), &picture::of_hub(&grants, "kill"), "the hub");
        for site in world.federation.sites() {
            same(&picture::of_site(site, "calm").await, &picture::of_site(site, "kill").await, site.name());
        }
        let factory = world.ready::<AIFactory>(FACTORY).await;
        assert_eq!(condition(&factory.status.as_ref().unwrap().conditions, "OrphansFound").status, "False");
        world.ready::<GPUPool>(POOL).await;
        world.at_rest(Duration::from_secs(1)).await;
        world.restart_writes_nothing(Duration::from_secs(5)).await;
    });
}

/// Creates, changes and ends all grants, each with pauses of its own that fill `span` together.
async fn everything(world: &World, prefix: &str, times: &(String, String), chance: &mut Chance, span: Duration) {
    let third = span / 3;
    let lives = (0..GRANTS).map(|index| {
        let pauses = [chance.moment(third), chance.moment(third), chance.moment(third)];
        life(world, format!("{prefix}-{index:02}"), index % 6, times, pauses)
    });
    join_all(lives).await;
}

/// What happens to one grant.
async fn life(world: &World, name: String, kind: usize, times: &(String, String), pauses: [Duration; 3]) {
    let made = || {
        let mut made = fixture::grant(&name);
        (made["spec"]["notBefore"], made["spec"]["notAfter"]) = (json!(times.0), json!(times.1));
        made
    };
    tokio::time::sleep(pauses[0]).await;
    world.apply(made()).await;
    tokio::time::sleep(pauses[1]).await;
    let change: Value = match kind {
        0 => return,
        1 => {
            let mut members = made()["spec"]["members"].as_array().unwrap().clone();
            members.remove(2);
            members.push(json!({"id": "p-4", "role": "Member", "kubernetes": {"kind": "User", "name": "oidc:4"}}));
            json!({"spec": {"members": members}})
        }
        2 => json!({"spec": {"state": "Revoked"}}),
        3 | 4 => {
            // The end of what never began leaves nothing: both runs delete what is in force.
            world.phase(&name, "Active").await;
            world.delete_grant(&name).await;
            if kind == 3 {
                return;
            }
            tokio::time::sleep(pauses[2]).await;
            world.gone::<AccessGrant>(&name).await;
            world.apply(made()).await;
            return;
        }
        _ => json!({"spec": {"state": "Paused"}}),
    };
    if kind == 2 {
        world.phase(&name, "Active").await;
    }
    world.patch_grant(&name, change).await;
    if kind == 5 {
        tokio::time::sleep(pauses[2]).await;
        world
            .patch_grant(
                &name,
                json!({"spec": {"state": "Active", "members": [{"id": "p-1", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:1"}}]}}),
            )
            .await;
    }
}

/// Waits until every grant is what it shall be: Ready, or gone.
async fn settled(world: &World, prefix: &str) {
    for index in 0..GRANTS {
        let name = format!("{prefix}-{index:02}");
        if index % 6 == 3 { world.gone::<AccessGrant>(&name).await } else { drop(world.ready::<AccessGrant>(&name).await) }
    }
    // A deleted grant goes when access is gone everywhere; the lock may follow.
    eventually(PATIENCE, "no namespace is without its state", async || {
        for site in world.federation.sites() {
            for (key, object) in picture::of_site(site, prefix).await {
                if object["deleting"] == true {
                    return Err(format!("{key} at {} is being deleted", site.name()).into());
                }
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}

fn same(calm: &std::collections::BTreeMap<String, Value>, killed: &std::collections::BTreeMap<String, Value>, place: &str) {
    assert!(!calm.is_empty());
    for key in calm.keys().chain(killed.keys()) {
        assert_eq!(calm.get(key), killed.get(key), "{key} at {place}, without kills and with them");
    }
    eprintln!("{place}: {} objects, all the same", calm.len());
}
