//! The roles for people: who reads, who grants, who runs a factory.

use kube::Client;
use serde_json::{Value, json};

use crate::admission::Request;
use crate::admission::request::cluster;
use crate::scene::TEAM;
use crate::{Outcome, run, scene};

/// A RoleBinding of a user to a ClusterRole.
pub fn bound(namespace: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": format!("{role}-{}", user.replace(':', "-")), "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}

async fn may(client: &Client, verb: &str, resource: &str) -> kube::Result<bool> {
    let group = if resource == "secrets" { "" } else { "aifactory.dev" };
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = json!({"namespace": TEAM, "verb": verb, "group": group, "resource": resource, "subresource": subresource});
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}});
    let answer = Request::post(cluster("authorization.k8s.io/v1", "selfsubjectaccessreviews", ""), review).send(client).await?;
    Ok(answer["status"]["allowed"] == true)
}

#[test]
fn people_may_do_what_their_role_allows() -> Outcome {
    run(async {
        let scene = scene().await?;
        let mut clients = Vec::new();
        for role in ["aifactory-viewer", "aifactory-allocator", "aifactory-team", "view"] {
            let user = format!("oidc:{role}");
            scene.hub().apply(&bound(TEAM, role, &user).to_string()).await?;
            clients.push(scene.hub().client_as(&user, &[]).await?);
        }
        for (verb, resource, allowed) in [
            ("list", "accessgrants", [true, true, true, true]),
            ("get", "aifactories", [true, true, true, true]),
            ("create", "accessgrants", [false, true, true, false]),
            ("delete", "accessgrants", [false, true, true, false]),
            ("patch", "gpupools", [false, false, true, false]),
            ("delete", "aifactories", [false, false, true, false]),
            ("patch", "accessgrants/status", [false, false, false, false]),
            ("get", "secrets", [false, false, false, false]),
        ] {
            aifactory_tests::eventually(crate::scene::LONG, format!("{verb} {resource}"), async || {
                let mut seen = Vec::new();
                for client in &clients {
                    seen.push(may(client, verb, resource).await?);
                }
                if seen == allowed { Ok(()) } else { Err(format!("viewer, allocator, team, view: {seen:?}").into()) }
            })
            .await?;
        }
        Ok(())
    })
}
