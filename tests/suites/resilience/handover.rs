//! Two replicas: the leader is stopped in the middle of its work, and goes on when another leads.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aifactory_api::AccessGrant;
use aifactory_tests::{Operator, OperatorOptions, eventually, run};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::chance::Chance;
use crate::fixture::{self, PATIENCE, World, grant};
use crate::shared;

const ROUNDS: usize = 4;
const GRANTS: usize = 5;

#[test]
fn a_leader_that_was_stopped_begins_no_write_when_it_goes_on() {
    run(async {
        let mut world = shared().await;
        world.operator.kill();
        let known = credentials(&world);
        world.operator = Operator::start(&world.federation, replica("first")).await.unwrap();
        await_holder(&world, "first").await;
        let first_credential = fresh(&world, &known).await;
        let known = credentials(&world);
        let second = Operator::start(&world.federation, replica("second")).await.unwrap();
        second.await_ready(PATIENCE).await.unwrap();
        let second_credential = fresh(&world, &known).await;
        let replicas = [("first", &world.operator, first_credential), ("second", &second, second_credential)];
        let mut chance = Chance::seeded(6);
        for round in 0..ROUNDS {
            let (_, leader, credential) = &replicas[round % 2];
            let (successor, standby, _) = &replicas[(round + 1) % 2];
            let names: Vec<String> = (0..GRANTS).map(|index| format!("round-{round}-{index}")).collect();
            for name in &names {
                world.apply(grant(name)).await;
            }
            tokio::time::sleep(chance.moment(Duration::from_millis(250))).await;
            leader.freeze().unwrap();
            let stopped = Instant::now();
            // What the stopped leader would go on to give is taken back meanwhile.
            world.patch_grant(&names[0], json!({"spec": {"state": "Revoked"}})).await;
            await_holder(&world, successor).await;
            let taken = stopped.elapsed();
            for name in &names {
                world.ready::<AccessGrant>(name).await;
            }
            assert_eq!(world.phase(&names[0], "Revoked").await.metadata.name.as_ref(), Some(&names[0]));
            let converged = stopped.elapsed();

            let marks: Vec<_> = world.federation.clusters().map(|cluster| (cluster, cluster.audit().mark().unwrap())).collect();
            leader.thaw().unwrap();
            let thawed = Instant::now();
            let status =
                eventually(PATIENCE, "the former leader ends", async || leader.exit_status().ok_or_else(|| "it still runs".into())).await.unwrap();
            assert!(!status.success(), "{status}");
            let ended = thawed.elapsed();
            for (cluster, mark) in marks {
                let hub = cluster.name() == world.hub().name();
                let writes = cluster
                    .audit()
                    .since(mark)
                    .unwrap()
                    .only(|request| request.user.contains("aifactory") && (!hub || request.credential == *credential))
                    .writes();
                assert!(writes.is_empty(), "written on {} after SIGCONT: {}\n{}", cluster.name(), writes.summary(), leader.log().unwrap());
            }
            for site in world.federation.sites() {
                let revoked = world.api::<AccessGrant>().get(&names[0]).await.unwrap();
                assert_eq!(working_roles(&world, site.name(), &revoked).await, 0, "access to a revoked grant at {}", site.name());
            }
            assert!(standby.exit_status().is_none());
            eprintln!("round {round}: led by another after {taken:?}, all true after {converged:?}, the former leader ended {ended:?} after SIGCONT");
            leader.restart().await.unwrap();
            leader.await_ready(PATIENCE).await.unwrap();
        }
        second.kill();
        world.counted().await;
        world.at_rest(Duration::from_secs(3)).await;
    });
}

/// Bindings with which members can do more than read.
async fn working_roles(world: &World, site: &str, grant: &AccessGrant) -> usize {
    let sites = &grant.status.as_ref().unwrap().sites;
    let Some(access) = sites.iter().find(|known| known.name == site).and_then(|known| known.access.as_ref()) else { return 0 };
    let namespace = &access.kubernetes.as_ref().unwrap().namespace;
    let api: Api<RoleBinding> = Api::namespaced(world.site(site).admin(), namespace);
    let bindings = api.list(&ListParams::default()).await.unwrap();
    bindings.iter().filter(|binding| matches!(binding.role_ref.name.as_str(), "aifactory-lead" | "aifactory-member")).count()
}

async fn await_holder(world: &World, name: &str) {
    let leases: Api<Lease> = Api::namespaced(world.hub().admin(), "aifactory-system");
    eventually(PATIENCE, format!("{name} leads"), async || {
        let holder = leases.get("aifactory-operator").await?.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        if holder.starts_with(&format!("{name}_")) { Ok(()) } else { Err(holder.into()) }
    })
    .await
    .unwrap();
}

/// A replica that can be told from others on the Lease.
fn replica(name: &str) -> OperatorOptions {
    fixture::options().name(name).environment("HOSTNAME", name)
}

/// The credential of an operator that has just started.
async fn fresh(world: &World, known: &BTreeSet<String>) -> String {
    eventually(PATIENCE, "a new operator asks the hub", async || {
        credentials(world).into_iter().find(|credential| !known.contains(credential)).ok_or_else(|| "nobody new".into())
    })
    .await
    .unwrap()
}

fn credentials(world: &World) -> BTreeSet<String> {
    let user = "system:serviceaccount:aifactory-system:aifactory-operator";
    world.hub().audit().all().unwrap().by(user).into_iter().map(|request| request.credential).collect()
}
