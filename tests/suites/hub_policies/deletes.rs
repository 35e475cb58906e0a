//! Deletes by mistake: of grants that give access, of namespaces that hold them, of the CRDs and of the operator's own namespace.

use aifactory_tests::{SYSTEM_NAMESPACE, eventually};
use kube::Client;
use serde_json::{Value, json};

use crate::admission::objects::{config_map_path, namespace_path};
use crate::admission::{By, Request, Row, all_refused, await_refused, passes};
use crate::scene::*;
use crate::{Outcome, run, scene};

const GRANTS: By = By::Policy("aifactory-hub-living-grants");
const IN_USE: By = By::Policy("aifactory-hub-in-use");
const FINALIZERS: By = By::Policy("aifactory-hub-finalizers");
const NAMESPACES: By = By::Policy("aifactory-hub-namespaces");
const DEFINITIONS: By = By::Policy("aifactory-hub-definitions");

#[test]
fn living_grants_are_not_deleted_by_mistake() -> Outcome {
    run(async {
        let scene = scene().await?;
        let row = |what, request| Row::new("living grants", what, request, &[GRANTS]).words("aifactory.dev/confirm-delete=");
        let active = grant_path(TEAM, "active");
        let rows = [
            row("Active", Request::delete(active.clone())).words("kubectl annotate accessgrant -n team active aifactory.dev/confirm-delete="),
            row("Active, with other advice", Request::delete(active.clone())).words("set spec.state: Revoked"),
            row("Paused", Request::delete(grant_path(TEAM, "paused"))),
            row("Exhausted", Request::delete(grant_path(TEAM, "exhausted"))),
            row("by force", Request::delete(format!("{active}?gracePeriodSeconds=0"))),
            row("in the foreground", Request::delete(format!("{active}?propagationPolicy=Foreground"))),
            row("left by its owner", Request::delete(format!("{active}?propagationPolicy=Orphan"))),
            row("as a dry run", Request::delete(active.clone()).dry_run()),
        ];
        let all = row("all of them", Request::delete(grant_path(TEAM, "")));
        for (name, status) in [
            ("unknown", json!({})),
            ("away", json!({"phase": "Pending", "mayGiveAccess": true})),
            ("typo", json!({"phase": "Refused", "mayGiveAccess": true})),
        ] {
            scene.has(grant_path(TEAM, name), grant(name), status).await?;
        }
        let hidden = [
            row("not looked at yet", Request::delete(grant_path(TEAM, "unknown"))).words("(not looked at yet) may give access"),
            row("Pending, since its site is away", Request::delete(grant_path(TEAM, "away"))),
            row("Refused, since a pool is misspelt", Request::delete(grant_path(TEAM, "typo"))).words("(Refused) may give access"),
        ];
        all_refused(&scene.admin(), &hidden).await?;
        let lead = scene.hub().client_as("oidc:team", &[]).await?;
        scene.hub().apply(&crate::users::bound(TEAM, "aifactory-team", "oidc:team").to_string()).await?;
        all_refused(&scene.admin(), &rows).await?;
        all_refused(&scene.admin(), &[all]).await?;
        await_refused(&lead, &rows).await?;
        Ok(())
    })
}

#[test]
fn other_grants_go() -> Outcome {
    run(async {
        let scene = scene().await?;
        for phase in aifactory_api::grant::GrantPhase::ALL {
            let name = format!("no-{}", phase.as_str().to_lowercase());
            let path = grant_path(TEAM, &name);
            scene.has(path.clone(), grant(&name), json!({"phase": phase, "mayGiveAccess": false})).await?;
            passes(&scene.admin(), &name, &Request::delete(path.clone())).await?;
            let again = json!({"status": {"mayGiveAccess": true}});
            passes(&scene.operator, "a site is away meanwhile", &Request::merge(format!("{path}/status"), again)).await?;
            passes(&scene.admin(), "a deletion that is under way, asked for again", &Request::delete(path.clone())).await?;
            passes(&scene.operator, "let go", &Request::merge(path, let_go())).await?;
        }
        let mut unseen = grant("unseen");
        unseen["metadata"]["finalizers"] = json!([]);
        scene.put(grant_path(TEAM, "unseen"), unseen).await?;
        passes(&scene.admin(), "nothing was ever given", &Request::delete(grant_path(TEAM, "unseen"))).await?;
        Ok(())
    })
}

/// Doing what the message asks for works.
#[test]
fn a_confirmed_grant_goes() -> Outcome {
    run(async {
        let scene = scene().await?;
        let admin = scene.admin();
        let made = scene.grant(TEAM, "confirmed", Some("Active")).await?;
        let path = grant_path(TEAM, "confirmed");
        for wrong in ["true", "yes", "", "00000000-0000-0000-0000-000000000000"] {
            annotate(&admin, &path, wrong).await?;
            all_refused(&admin, &[Row::new("confirmation", "a wrong one", Request::delete(path.clone()), &[GRANTS])]).await?;
        }
        let uid = uid_in_message(&admin, &path).await?;
        assert_eq!(json!(uid), made["metadata"]["uid"]);
        annotate(&admin, &path, &uid).await?;
        passes(&admin, "confirmed", &Request::delete(path.clone())).await?;
        passes(&scene.operator, "let go", &Request::merge(path, let_go())).await?;
        Ok(())
    })
}

/// Objects that grants depend on: the message names how many grants would end.
#[test]
fn pools_and_factories_in_use_are_not_deleted_by_mistake() -> Outcome {
    run(async {
        let scene = scene().await?;
        let admin = scene.admin();
        let row = |what, path: &str| Row::new("in use", what, Request::delete(path), &[IN_USE]).words("aifactory.dev/confirm-delete=");
        for (kind, path, object) in [("GPUPool", pool_path("used"), pool("used")), ("AIFactory", factory_path("used"), factory("used"))] {
            scene.has(path.clone(), object.clone(), json!({"livingGrants": 3})).await?;
            await_refused(&admin, &[row("by three", &path), row("by three", &path).words("/used is used by 3 AccessGrants")]).await?;
            passes(&scene.operator, "not counted yet", &Request::merge(format!("{path}/status"), json!({"status": null}))).await?;
            all_refused(&admin, &[row("not counted yet", &path).words("an unknown number of AccessGrants")]).await?;
            let uid = uid_in_message(&admin, &path).await?;
            annotate(&admin, &path, &uid).await?;
            passes(&admin, kind, &Request::delete(path.clone())).await?;
            passes(&admin, "asked for again", &Request::delete(path.clone())).await?;
            passes(&scene.operator, "let go", &Request::merge(path.clone(), let_go())).await?;

            scene.has(path.clone(), object, json!({"livingGrants": 0})).await?;
            passes(&admin, "used by nobody", &Request::delete(path.clone())).await?;
            passes(&scene.operator, "let go", &Request::merge(path, let_go())).await?;
        }
        Ok(())
    })
}

/// Neither on purpose, nor by a replace with a manifest that has none, as Argo CD does it with `Replace=true`.
#[test]
fn nobody_but_the_operator_takes_its_finalizer_off() -> Outcome {
    run(async {
        let scene = scene().await?;
        let admin = scene.admin();
        let row = |what, request| Row::new("finalizers", what, request, &[FINALIZERS]);
        for (path, object) in [(grant_path(TEAM, "kept"), grant("kept")), (pool_path("kept"), pool("kept")), (factory_path("kept"), factory("kept"))]
        {
            scene.put(path.clone(), object.clone()).await?;
            let replaced = |found: &Value| {
                let mut bare = object.clone();
                bare["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
                bare["metadata"]["finalizers"] = json!([]);
                bare
            };
            let found = passes(&admin, "read", &Request::get(path.clone())).await?;
            let rows = [
                row("merge patch", Request::merge(path.clone(), let_go())).words("only the AI Factory operator takes its finalizer"),
                row("JSON patch", Request::json_patch(path.clone(), json!([{"op": "remove", "path": "/metadata/finalizers"}]))),
                row("replace", Request::put(path.clone(), replaced(&found))).words("leave out the sync option Replace=true"),
                row("another in its place", Request::merge(path.clone(), json!({"metadata": {"finalizers": ["example.org/theirs"]}}))),
            ];
            await_refused(&admin, &rows).await?;
            passes(
                &admin,
                "another beside it",
                &Request::merge(path.clone(), json!({"metadata": {"finalizers": ["aifactory.dev/finalizer", "example.org/theirs"]}})),
            )
            .await?;
            passes(&admin, "and off again", &Request::merge(path.clone(), json!({"metadata": {"finalizers": ["aifactory.dev/finalizer"]}}))).await?;
            let uid = found["metadata"]["uid"].as_str().unwrap_or_default();
            annotate(&admin, &path, uid).await?;
            passes(&admin, "confirmed", &Request::delete(path.clone())).await?;
            let found = passes(&admin, "read", &Request::get(path.clone())).await?;
            let rows = [
                row("while it is deleted", Request::merge(path.clone(), let_go())).words("aifactory.dev/abandon-site"),
                row("replace while it is deleted", Request::put(path.clone(), replaced(&found))).words("Wait until every site has answered"),
            ];
            all_refused(&admin, &rows).await?;
            passes(&scene.operator, "let go", &Request::merge(path, let_go())).await?;
        }
        Ok(())
    })
}

/// One after the other, since all change the list of namespaces with living grants.
#[test]
fn namespaces_with_living_grants_are_not_deleted_by_mistake() -> Outcome {
    run(async {
        let scene = scene().await?;
        let admin = scene.admin();
        let row = |what, name: &str| {
            Row::new("namespaces", what, Request::delete(namespace_path(name)), &[NAMESPACES]).words("aifactory.dev/confirm-delete=")
        };
        await_refused(&admin, &[row("with living grants", TEAM), row("with living grants", TEAM).words("kubectl annotate namespace team ")]).await?;

        scene.hub().ensure_namespace("empty").await?;
        passes(&admin, "a namespace without grants", &Request::delete(namespace_path("empty"))).await?;

        // The list may be behind: then the grants hold the namespace, and confirming it lets all go.
        for (name, late) in [("going", false), ("behind", true)] {
            scene.team(name).await?;
            scene.grant(name, "living", Some("Active")).await?;
            let free = json!({"metadata": {"finalizers": null}});
            passes(&admin, "its Secret freed", &Request::merge(secret_path(name, "credential"), free)).await?;
            if late {
                passes(&admin, "deleted while the list is behind", &Request::delete(namespace_path(name))).await?;
                held(&admin, name).await?;
                let uid = passes(&admin, "namespace", &Request::get(namespace_path(name))).await?["metadata"]["uid"].clone();
                annotate(&admin, &namespace_path(name), uid.as_str().unwrap_or_default()).await?;
            } else {
                scene.living(&[TEAM, name]).await?;
                // A deletion that got through before the list is in force is not looked at again.
                let dry = Row::new("namespaces", "that goes", Request::delete(namespace_path(name)).dry_run(), &[NAMESPACES]);
                await_refused(&admin, &[dry]).await?;
                all_refused(&admin, &[row("that goes", name)]).await?;
                let uid = uid_in_message(&admin, &namespace_path(name)).await?;
                annotate(&admin, &namespace_path(name), &uid).await?;
                passes(&admin, "confirmed", &Request::delete(namespace_path(name))).await?;
            }
            eventually(LONG, "the operator lets its grant go", async || {
                let path = grant_path(name, "living");
                let found = Request::get(path.clone()).send(&admin).await?;
                if found["metadata"]["deletionTimestamp"].is_null() {
                    return Err("not deleted yet".into());
                }
                Request::merge(path, let_go()).send(&scene.operator).await.map(drop).map_err(Into::into)
            })
            .await?;
            gone(&admin, name).await?;
        }

        let list = config_map_path(SYSTEM_NAMESPACE, "aifactory-living-grants");
        passes(&admin, "the list emptied", &Request::merge(list.clone(), json!({"data": null}))).await?;
        eventually(LONG, "an empty list refuses nothing", async || {
            Request::delete(namespace_path(TEAM)).dry_run().send(&admin).await.map(drop).map_err(Into::into)
        })
        .await?;
        passes(&admin, "the list deleted", &Request::delete(list)).await?;
        scene.hub().ensure_namespace("unlisted").await?;
        eventually(LONG, "no list refuses nothing", async || {
            Request::delete(namespace_path("unlisted")).send(&admin).await.map(drop).map_err(Into::into)
        })
        .await?;
        scene.living(&[TEAM]).await?;
        await_refused(&admin, &[row("listed again", TEAM)]).await?;
        Ok(())
    })
}

#[test]
fn definitions_are_not_deleted_by_mistake() -> Outcome {
    run(async {
        let scene = scene().await?;
        let admin = scene.admin();
        let row = |what, request| Row::new("definitions", what, request, &[DEFINITIONS]).words("aifactory.dev/confirm-delete=");
        let rows = [
            row("factories", Request::delete(definition_path("aifactories"))),
            row("pools", Request::delete(definition_path("gpupools"))).words("kubectl annotate customresourcedefinition gpupools.aifactory.dev "),
            row("grants", Request::delete(definition_path("accessgrants"))).words("all objects of this kind"),
            row("all", Request::delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")),
            row("the operator's namespace", Request::delete(namespace_path(SYSTEM_NAMESPACE))).words("the id of this hub"),
        ];
        all_refused(&admin, &rows).await?;
        for path in [definition_path("gpupools"), namespace_path(SYSTEM_NAMESPACE)] {
            let uid = uid_in_message(&admin, &path).await?;
            annotate(&admin, &path, &uid).await?;
            passes(&admin, "confirmed", &Request::delete(path.clone()).dry_run()).await?;
            annotate(&admin, &path, "").await?;
        }
        let foreign = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.org"},
            "spec": {
                "group": "example.org", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
        });
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.org";
        passes(&admin, "another's made", &Request::apply(path, foreign)).await?;
        passes(&admin, "another's deleted", &Request::delete(path)).await?;
        Ok(())
    })
}

async fn annotate(client: &Client, path: &str, confirmation: &str) -> Result<Value, String> {
    let annotation = json!({"metadata": {"annotations": {"aifactory.dev/confirm-delete": confirmation}}});
    passes(client, "the confirmation", &Request::merge(path, annotation)).await
}

/// The UID that the refusal tells people to confirm with.
async fn uid_in_message(client: &Client, path: &str) -> Result<String, String> {
    match Request::delete(path).send(client).await {
        Err(kube::Error::Api(status)) => {
            let (_, uid) = status.message.split_once("aifactory.dev/confirm-delete=").ok_or(status.message.clone())?;
            Ok(uid.trim().to_owned())
        }
        other => Err(format!("{path} was to be refused: {other:?}")),
    }
}

async fn held(client: &Client, namespace: &str) -> aifactory_tests::Result<()> {
    eventually(LONG, format!("{namespace} is held by its grant"), async || {
        let found = Request::get(namespace_path(namespace)).send(client).await?;
        let conditions = found["status"]["conditions"].to_string();
        Request::get(grant_path(namespace, "living")).send(client).await?;
        if conditions.contains("aifactory-hub-living-grants") { Ok(()) } else { Err(conditions.into()) }
    })
    .await
}

async fn gone(client: &Client, namespace: &str) -> aifactory_tests::Result<()> {
    eventually(LONG * 2, format!("{namespace} is gone"), async || match Request::get(namespace_path(namespace)).send(client).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Ok(found) => Err(found["status"].to_string().into()),
        Err(error) => Err(error.into()),
    })
    .await
}
