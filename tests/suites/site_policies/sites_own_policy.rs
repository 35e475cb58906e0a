//! The site's own policy: `paused` and `allowDeletion` in its ConfigMap, absent, empty, unreadable, and removed.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::{By, Request, Row, await_refused, passes};
use crate::scene::{PLATFORM, Scene, put, site_policy};
use crate::{Outcome, federation, local, run};
use aifactory_tests::{Cluster, eventually};

const SITE_POLICY: &str = "aifactory-site-policy";
const TENANT: &str = "aif-word-0123456789";
const PAUSED: By = By::Policy("aifactory-site-paused");
const DELETION: By = By::Policy("aifactory-site-deletion");

/// One test after the other, since all of them change the same ConfigMap.
#[test]
fn the_sites_own_policy_prevails() -> Outcome {
    run(async {
        let hub = federation().await?.hub();
        hub.install_hub().await?;
        hub.apply_path(aifactory_tests::layout::root().join("charts/aifactory-site/local")).await?;
        let scene = Scene::prepare(hub).await?;
        local::hub_work_passes(&scene).await?;
        local::attacks_are_refused(&scene).await?;
        paused(&scene).await?;
        deletion(&scene).await?;
        silence(&scene).await?;
        label_taken_off(&scene).await
    })
}

async fn set_policy(cluster: &Cluster, data: Value) -> aifactory_tests::Result<()> {
    let policy = Request::delete(config_map_path("aifactory-system", SITE_POLICY));
    // Replaced rather than merged, so that keys leave too.
    drop(policy.send(&cluster.admin()).await);
    put(cluster, config_map_path("aifactory-system", SITE_POLICY), site_policy(data)).await
}

fn write() -> Request {
    Request::apply(namespace_path(TENANT), tenant(TENANT, "Bound", &["h100"]))
}

fn write_policy() -> Request {
    Request::apply(network_policy_path(TENANT, "aif-default-deny"), default_deny(TENANT, "aif-default-deny"))
}

async fn may(scene: &Scene, what: &str, request: Request) -> aifactory_tests::Result<()> {
    eventually(std::time::Duration::from_secs(30), what.to_owned(), async || {
        passes(&scene.operator, what, &request).await.map(drop).map_err(Into::into)
    })
    .await
}

async fn paused(scene: &Scene) -> Outcome {
    let binding_at = binding_path(TENANT, "aif-lead-0123456789");
    let bind = Request::apply(binding_at.clone(), binding(TENANT, "aif-lead-0123456789", "aifactory-lead", "oidc:1"));
    for (what, request) in [("Namespace", write()), ("NetworkPolicy", write_policy()), ("RoleBinding", bind.clone())] {
        may(scene, what, request).await?;
    }
    for word in ["true", "yes", "", " True"] {
        set_policy(&scene.cluster, json!({"paused": word})).await?;
        let row = |what, request| Row::new("paused", what, request, &[PAUSED]).words("paused in the ConfigMap");
        let locked = json!({"metadata": {"annotations": {"aifactory.dev/ended-because": "x"}}});
        await_refused(
            &scene.operator,
            &[
                row("a Namespace written", Request::merge(namespace_path(TENANT), locked)),
                row("a Namespace made", Request::apply(namespace_path("aif-new"), tenant("aif-new", "Bound", &[]))),
                row("a Namespace deleted", Request::delete(namespace_path(TENANT))),
                row("a policy written", write_policy()),
                row("a policy deleted", Request::delete(network_policy_path(TENANT, "aif-default-deny"))),
                row("a binding written", bind.clone()),
                row("a Node labelled", Request::merge("/api/v1/nodes/offered", json!({"metadata": {"labels": {"aifactory.dev/pool": "h100"}}}))),
                row("the claim written", {
                    let claim = config_map("aifactory-system", "aifactory-claim");
                    Request::apply(config_map_path("aifactory-system", "aifactory-claim"), claim)
                }),
            ],
        )
        .await?;
    }
    passes(&scene.operator, "while paused, access taken away", &Request::delete(binding_at)).await?;
    passes(&scene.operator, "while paused, tokens stopped", &Request::delete(service_account_path(TENANT, "default"))).await?;
    passes(&local::operator(scene).await?, "while paused, work of the hub", &local::living_grants(json!({"example": ""}))).await?;
    for (what, data) in [("not paused", json!({"paused": "false"})), ("not paused, with a line break", json!({"paused": "false\n"}))] {
        set_policy(&scene.cluster, data).await?;
        may(scene, what, write()).await?;
    }
    Ok(())
}

async fn deletion(scene: &Scene) -> Outcome {
    for word in ["false", "no", ""] {
        set_policy(&scene.cluster, json!({"allowDeletion": word})).await?;
        let row = Row::new("deletion", "a Namespace deleted", Request::delete(namespace_path(TENANT)).dry_run(), &[DELETION]);
        await_refused(&scene.operator, &[row.words("kubectl delete namespace")]).await?;
        may(scene, "where deletion is refused, all else", write()).await?;
    }
    set_policy(&scene.cluster, json!({"allowDeletion": "true"})).await?;
    may(scene, "deletion, where it is allowed", Request::delete(namespace_path(TENANT)).dry_run()).await?;
    Ok(())
}

/// A site without a policy, by an absent or an empty ConfigMap, is neither paused nor does it keep Namespaces; and it runs no image.
async fn silence(scene: &Scene) -> Outcome {
    let node_set = Request::apply(crate::node_sets::node_set_path("slurm", "new"), crate::node_sets::node_set("slurm", "new", json!({})));
    let image = |by| Row::new("silence", "any image", node_set.clone(), &[by]);
    set_policy(&scene.cluster, json!({})).await?;
    await_refused(&scene.operator, &[image(By::Policy("aifactory-site-nodeset-images"))]).await?;
    may(scene, "a write, with an empty ConfigMap", write()).await?;
    may(scene, "a delete, with an empty ConfigMap", Request::delete(namespace_path(TENANT)).dry_run()).await?;
    Request::delete(config_map_path("aifactory-system", SITE_POLICY)).send(&scene.cluster.admin()).await?;
    await_refused(&scene.operator, &[image(By::MissingParameter("aifactory-site-nodeset-images"))]).await?;
    may(scene, "a write, without the ConfigMap", write()).await?;
    may(scene, "a delete, without the ConfigMap", Request::delete(namespace_path(TENANT)).dry_run()).await?;
    let platform = Row::new("silence", "the platform's", Request::delete(namespace_path(PLATFORM)), &[By::Policy("aifactory-site-cluster-scoped")]);
    await_refused(&scene.operator, &[platform]).await?;
    Ok(())
}

/// An administrator who takes our label off a Namespace stops us there.
async fn label_taken_off(scene: &Scene) -> Outcome {
    may(scene, "the tenant's policy", write_policy()).await?;
    let unlabel = json!({"metadata": {"labels": {"aifactory.dev/managed": null}}});
    Request::merge(namespace_path(TENANT), unlabel).send(&scene.cluster.admin()).await?;
    let row = |what, request, by| Row::new("label taken off", what, request, &[By::Policy(by)]);
    await_refused(
        &scene.operator,
        &[row("the Namespace", write(), "aifactory-site-cluster-scoped"), row("what is in it", write_policy(), "aifactory-site-namespaced")],
    )
    .await?;
    Ok(())
}
