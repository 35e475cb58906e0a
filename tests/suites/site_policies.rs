//! A site confines the operator: the credential that a hub holds is used directly, to escape. RBAC and admission policies of
//! `charts/aifactory-site` must refuse, each for its own reason, and must let all legitimate work pass.

#![allow(clippy::indexing_slicing, reason = "an index into a JSON value gives null where there is nothing")]

#[allow(dead_code, reason = "each suite uses its part of the tables")]
mod admission;
#[path = "site_policies/cluster_wide.rs"]
mod cluster_wide;
#[path = "site_policies/elsewhere.rs"]
mod elsewhere;
#[path = "site_policies/legitimate.rs"]
mod legitimate;
#[path = "site_policies/local.rs"]
mod local;
#[path = "site_policies/namespaces.rs"]
mod namespaces;
#[path = "site_policies/node_sets.rs"]
mod node_sets;
#[path = "site_policies/nodes.rs"]
mod nodes;
#[path = "site_policies/role_bindings.rs"]
mod role_bindings;
#[path = "site_policies/roles.rs"]
mod roles;
#[path = "site_policies/scene.rs"]
mod scene;
#[path = "site_policies/self_test.rs"]
mod self_test;
#[path = "site_policies/sites_own_policy.rs"]
mod sites_own_policy;
#[path = "site_policies/slurm.rs"]
mod slurm;

use std::error::Error;

use admission::objects::{binding, binding_path, default_deny, namespace_path, network_policy_path, service_account_path, tenant};
use admission::request::namespaced;
use admission::{Request, Row, all_refused, passes};
use aifactory_tests::{Federation, run};
use scene::Scene;
use tokio::sync::OnceCell;

type Outcome = Result<(), Box<dyn Error>>;

/// The hub is a site of its own here, so that one federation serves both a pushed and a local site.
static FEDERATION: OnceCell<Federation> = OnceCell::const_new();
static SITE: OnceCell<Scene> = OnceCell::const_new();

async fn federation() -> aifactory_tests::Result<&'static Federation> {
    let start = async || Federation::builder().name("site-policies").sites(["bissen"]).kwok(false).scheduler(false).start().await;
    FEDERATION.get_or_try_init(start).await
}

async fn site() -> aifactory_tests::Result<&'static Scene> {
    SITE.get_or_try_init(async || Scene::prepare(federation().await?.site("bissen")?).await).await
}

fn attacks() -> Vec<Row> {
    [
        namespaces::rows(),
        elsewhere::outside(),
        elsewhere::inside(),
        role_bindings::rows(),
        nodes::rows(),
        node_sets::rows(),
        slurm::rows(),
        cluster_wide::rows(),
        cluster_wide::reads(),
    ]
    .concat()
}

/// Legitimate work deletes what attacks are tried on: it waits until none is under way, and they for it.
static TURNS: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

#[test]
fn attacks_with_the_sites_credential_are_refused() -> Outcome {
    run(async {
        let _turn = TURNS.read().await;
        let rows = attacks();
        assert!(rows.len() >= 60, "{} attacks", rows.len());
        all_refused(&site().await?.operator, &rows).await?;
        Ok(())
    })
}

/// An administrator's mistake in RBAC must not open the site: a certificate of the operator in `system:masters` is confined alike.
#[test]
fn attacks_are_refused_where_rbac_allows_all() -> Outcome {
    run(async {
        let _turn = TURNS.read().await;
        let rows: Vec<Row> = attacks().iter().filter_map(Row::when_rbac_allows_all).collect();
        assert!(rows.len() >= 60, "{} attacks", rows.len());
        all_refused(&site().await?.widened, &rows).await?;
        Ok(())
    })
}

#[test]
fn legitimate_work_passes() -> Outcome {
    run(async {
        let _turn = TURNS.write().await;
        let scene = site().await?;
        scene::put(&scene.cluster, scene::cluster_node("worked"), scene::node("worked", true)).await?;
        for (what, request) in legitimate::requests("aif-worked-0123456789", "worked") {
            passes(&scene.operator, what, &request).await?;
        }
        legitimate::taints(&scene.operator, "worked").await?;
        scene.put_slurm().await?;
        Ok(())
    })
}

/// What lost our labels is found by its name: access is taken away first, and then the labels are put back.
#[test]
fn what_lost_our_labels_is_mended() -> Outcome {
    run(async {
        let scene = site().await?;
        let name = "aif-mended-0123456789";
        let lead = "aif-lead-0123456789";
        let ours = |object| scene::without_labels(object);
        for (path, object) in [
            (namespace_path(name), scene::stripped(name)),
            (binding_path(name, lead), ours(binding(name, lead, "aifactory-lead", "oidc:1"))),
            (network_policy_path(name, "aif-default-deny"), ours(default_deny(name, "aif-default-deny"))),
        ] {
            scene::put(&scene.cluster, path, object).await?;
        }
        let account = Request::get(service_account_path(name, "default"));
        aifactory_tests::eventually(std::time::Duration::from_secs(30), "the Namespace has its account", async || {
            account.send(&scene.cluster.admin()).await.map_err(Into::into)
        })
        .await?;
        for (what, request) in [
            ("a binding of our name deleted", Request::delete(binding_path(name, lead))),
            ("tokens stopped", Request::delete(service_account_path(name, "default"))),
            ("the Namespace's labels put back", Request::apply(namespace_path(name), tenant(name, "Locked", &[]))),
        ] {
            passes(&scene.operator, what, &request).await?;
        }
        let relabelled = Request::apply(network_policy_path(name, "aif-default-deny"), default_deny(name, "aif-default-deny"));
        // The policies see the Namespace's labels a moment later.
        aifactory_tests::eventually(std::time::Duration::from_secs(30), "the policy's label is put back", async || {
            passes(&scene.operator, "the policy's label put back", &relabelled).await.map(drop).map_err(Into::into)
        })
        .await?;
        Ok(())
    })
}

/// Pods of a living grant end where its namespace says that GPU-hours are used up, one by one by name.
#[test]
fn pods_end_where_hours_are_used_up() -> Outcome {
    run(async {
        let scene = site().await?;
        let one = format!("{}?fieldSelector=metadata.name%3D", namespaced("v1", scene::EXHAUSTED, "pods", ""));
        let work = Request::get(namespaced("v1", scene::EXHAUSTED, "pods", "work"));
        passes(&scene.operator, "another Pod ended", &Request::delete(format!("{one}none"))).await?;
        work.send(&scene.cluster.admin()).await?;
        passes(&scene.operator, "a Pod ended", &Request::delete(format!("{one}work"))).await?;
        assert!(work.send(&scene.cluster.admin()).await.is_err(), "the Pod is there");
        Ok(())
    })
}

/// Sixty Namespaces at once: no policy may look at a Namespace before it is seen everywhere.
#[test]
fn many_tenants_are_made_at_once() -> Outcome {
    run(async {
        let scene = site().await?;
        let grants = (0..60).map(async |number| {
            let namespace = format!("aif-many-{number:010}");
            for (what, request) in legitimate::requests(&namespace, "unused").into_iter().take(16) {
                passes(&scene.operator, what, &request).await?;
            }
            Ok::<_, String>(())
        });
        futures::future::try_join_all(grants).await?;
        Ok(())
    })
}
