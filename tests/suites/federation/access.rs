//! Credentials open what they should and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use aifactory_tests::{Credential, eventually, run};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

use crate::{LONG, code, shared};

async fn whoami(client: &Client) -> kube::Result<(String, BTreeSet<String>)> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = review.status.unwrap_or_default().user_info.unwrap_or_default();
    Ok((user.username.unwrap_or_default(), user.groups.unwrap_or_default().into_iter().collect()))
}

#[test]
fn credentials_are_of_one_cluster_and_no_more_than_asked() {
    run(async {
        let federation = shared().await;
        let (hub, site) = (federation.hub(), federation.site("bissen").unwrap());
        let member = site.kubeconfig_for("oidc:4711", &["one", "two"]).unwrap();
        let client = member.client().await.unwrap();
        let groups: BTreeSet<String> = ["one", "two", "system:authenticated"].map(str::to_owned).into();
        assert_eq!(whoami(&client).await.unwrap(), ("oidc:4711".to_owned(), groups));
        assert_eq!(code(Api::<Secret>::namespaced(client, "default").list(&ListParams::default()).await), 403);
        assert!(site.kubeconfig_for("x", &["a", "b", "c"]).is_err());

        let account = site.kubeconfig_of("team", "worker").await.unwrap();
        let client = account.clone().at(site.proxy().address()).client().await.unwrap();
        assert_eq!(whoami(&client).await.unwrap().0, "system:serviceaccount:team:worker");

        // A credential of the site is worth nothing on the hub, nor is the site's authority.
        for kubeconfig in [&member, &account] {
            let mut stolen = kubeconfig.clone().at(hub.address());
            assert!(whoami(&stolen.client().await.unwrap()).await.is_err(), "the wrong authority was taken");
            stolen.authority = hub.admin_kubeconfig().authority;
            assert_eq!(code(whoami(&stolen.client().await.unwrap()).await), 401);
        }
        let anonymous = site.kubeconfig(Credential::Anonymous).client().await.unwrap();
        assert_eq!(code(Api::<Namespace>::all(anonymous).get("default").await), 403);

        let soon = std::time::SystemTime::now() + Duration::from_secs(2);
        let short = site.kubeconfig_until("oidc:1", &[], Some(soon)).unwrap();
        assert!(whoami(&short.client().await.unwrap()).await.is_ok());
        eventually(LONG, "the certificate ends", async || match whoami(&short.client().await?).await {
            Ok(who) => Err(format!("{who:?}").into()),
            Err(_) => Ok(()),
        })
        .await
        .unwrap();
    });
}

#[test]
fn installing_leads_the_operator_through_the_proxies() {
    run(async {
        let federation = shared().await;
        federation.install(["example"]).await.unwrap();
        let site = federation.site("bissen").unwrap();
        let secrets: Api<Secret> = Api::namespaced(federation.hub().admin(), "example");
        let data = secrets.get("bissen-kubeconfig").await.unwrap().data.unwrap();
        let text = String::from_utf8(data["kubeconfig"].0.clone()).unwrap();
        assert!(text.contains(&format!("https://{}", site.proxy().address())), "{}", text.len());
        let kubeconfig = site.site_kubeconfig().await.unwrap();
        let client = kubeconfig.client().await.unwrap();
        assert_eq!(whoami(&client).await.unwrap().0, "system:serviceaccount:aifactory-system:aifactory-site");
        let hub = federation.hub().hub_kubeconfig().await.unwrap().client().await.unwrap();
        assert_eq!(whoami(&hub).await.unwrap().0, "system:serviceaccount:aifactory-system:aifactory-operator");
    });
}
