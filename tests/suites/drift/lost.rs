//! A grant's Namespace, deleted by somebody else: it is made again at once, and an Event and a finding report that what was in it is lost.

use aifactory_api::AccessGrant;
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_tests::{eventually, run};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};

use crate::fixture::{PATIENCE, ours};
use crate::{SECOND, SITE, end, milliseconds, rest, shared, tenant, warned};

#[test]
fn a_deleted_namespace_is_back_as_soon_as_it_is_really_gone() {
    run(async {
        let scene = shared().await;
        let (world, site) = (&scene.world, scene.world.site(SITE));
        let tenant = tenant(world, "lost").await;
        let of_tenant = async || ours(site).await.into_iter().filter(|object| object.contains(&tenant)).collect::<Vec<_>>();
        let before = of_tenant().await;
        let data = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: results, namespace: {tenant}}}}}");
        site.apply(&data).await.unwrap();

        let namespaces: Api<Namespace> = Api::all(site.admin());
        let uid = namespaces.get(&tenant).await.unwrap().uid();
        let mark = site.audit().mark().unwrap();
        namespaces.delete(&tenant, &DeleteParams::default()).await.unwrap();
        eventually(PATIENCE, "the Namespace is there anew with all that belongs in it", async || {
            let found = namespaces.get(&tenant).await?;
            if found.uid() == uid {
                return Err(format!("{:?}", found.status).into());
            }
            let now = of_tenant().await;
            if now == before { Ok(()) } else { Err(format!("{now:?}").into()) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
        let requests = site.audit().since(mark).unwrap().writes().accepted();
        let gone =
            requests.iter().rfind(|request| request.resource == "namespaces" && request.name == tenant && request.subresource == "finalize").unwrap();
        let ours = |request: &&aifactory_tests::Request| request.user.contains("aifactory") && request.answered > gone.answered;
        let last = requests.iter().filter(ours).rfind(|request| request.namespace == tenant || request.name == tenant).unwrap();
        let took = milliseconds(&gone.answered, &last.answered);
        eprintln!("all of a deleted Namespace was back {took} ms after it was really gone");
        assert!(took <= 2 * SECOND, "{took} ms");
        assert!(Api::<ConfigMap>::namespaced(site.admin(), &tenant).get_opt("results").await.unwrap().is_none());

        let warning = warned(world, "lost", "DataLost", &[SITE, &tenant]).await;
        assert!(warning.contains("made anew, empty"), "{warning}");
        world.ready::<AccessGrant>("lost").await;
        let key = ObjectKey::cluster(ObjectKind::NAMESPACE, tenant.clone());
        assert_eq!(crate::api(site, &key).get(&tenant).await.unwrap().labels()["aifactory.dev/state"], "Bound");
        rest(world).await;
        end(world, "lost").await;
    });
}
