//! The harness itself: what the other suites rely on holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "federation/access.rs"]
mod access;
#[path = "federation/ending.rs"]
mod ending;
#[path = "federation/work.rs"]
mod work;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aifactory_tests::{ADMIN_USER, Cluster, Component, Cut, Federation, eventually, run};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::OnceCell;

const LONG: Duration = Duration::from_secs(60);

static SHARED: OnceCell<Federation> = OnceCell::const_new();

async fn shared() -> &'static Federation {
    SHARED.get_or_try_init(async || Federation::builder().name("shared").sites(["bissen", "bettembourg"]).start().await).await.expect("a federation")
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"key": "value"}})).unwrap()
}

fn code<T>(answer: kube::Result<T>) -> u16 {
    match answer {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("no answer of the API server: {error}"),
    }
}

#[test]
fn a_hub_and_two_sites_serve_within_seconds() {
    run(async {
        let federation = shared().await;
        eprintln!("hub and two sites: ready after {:?}", federation.start_time());
        assert!(federation.start_time() < LONG, "{:?}", federation.start_time());
        let mut addresses = BTreeSet::new();
        for cluster in federation.clusters() {
            let version = cluster.admin().apiserver_version().await.unwrap();
            assert_eq!(version.minor, "36");
            assert!(addresses.insert(cluster.address()) && addresses.insert(cluster.proxy().address()));
        }
        let running = |cluster: &Cluster| cluster.process_ids().into_keys().collect::<Vec<_>>();
        assert_eq!(running(federation.hub()), [Component::ApiServer, Component::ControllerManager]);
        assert_eq!(running(federation.site("bissen").unwrap()).len(), 4);
        assert!(federation.site("nowhere").is_err());
    });
}

#[test]
fn a_cut_line_is_seen_and_heals() {
    run(async {
        let site = shared().await.site("bissen").unwrap();
        let proxy = site.proxy();
        let kubeconfig = site.kubeconfig_for("harness:observer", &["system:masters"]).unwrap();
        let client = kubeconfig.at(proxy.address()).client().await.unwrap();
        let namespaces: Api<Namespace> = Api::all(client);
        namespaces.get("default").await.unwrap();
        let before = proxy.traffic();
        assert!(before.accepted >= 1 && before.open >= 1 && before.received > before.sent / 100, "{before:?}");

        proxy.cut(Cut::Refuse).await;
        assert_eq!(proxy.traffic().open, 0);
        let started = Instant::now();
        for _ in 0..3 {
            assert!(namespaces.get("default").await.is_err());
        }
        assert!(started.elapsed() < Duration::from_secs(5), "refused late: {:?}", started.elapsed());
        let refused = tokio::net::TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        proxy.restore().await;
        namespaces.get("default").await.unwrap();

        proxy.cut(Cut::Silent).await;
        let silent = tokio::time::timeout(Duration::from_millis(700), namespaces.get("default")).await;
        assert!(silent.is_err(), "an answer through a silent line");
        let asked = namespaces.get("default");
        tokio::pin!(asked);
        assert!(futures::poll!(asked.as_mut()).is_pending());
        proxy.restore().await;
        asked.await.expect("what was asked meanwhile is answered");

        let delay = Duration::from_millis(200);
        proxy.delay(delay);
        let started = Instant::now();
        namespaces.get("default").await.unwrap();
        let took = started.elapsed();
        assert!(took >= 2 * delay && took < 20 * delay, "{took:?}");
        proxy.delay(Duration::ZERO);
        // The line of the other site and the server itself were never touched.
        Api::<Namespace>::all(site.admin()).get("default").await.unwrap();
    });
}

#[test]
fn the_audit_log_counts_exactly() {
    run(async {
        const USER: &str = "harness:writer";
        let site = shared().await.site("bettembourg").unwrap();
        let client = site.client_as(USER, &["system:masters"]).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client, "default");
        for round in 0..20 {
            let mark = site.audit().mark().unwrap();
            let name = format!("counted-{round}");
            maps.create(&PostParams::default(), &config_map(&name)).await.unwrap();
            let dry = PostParams { dry_run: true, ..PostParams::default() };
            maps.create(&dry, &config_map("never")).await.unwrap();
            let patch = Patch::Merge(json!({"data": {"key": "other"}}));
            maps.patch(&name, &PatchParams::default(), &patch).await.unwrap();
            maps.get(&name).await.unwrap();
            assert_eq!(code(maps.create(&PostParams::default(), &config_map(&name)).await), 409);
            maps.delete(&name, &DeleteParams::default()).await.unwrap();

            let requests = site.audit().since(mark).unwrap().by(USER);
            let writes = requests.clone().writes();
            let seen: Vec<_> = writes.iter().map(|write| (write.verb.as_str(), write.code)).collect();
            let wanted = [("create", 201), ("patch", 200), ("create", 409), ("delete", 200)];
            assert_eq!(seen, wanted, "{}", requests.summary());
            assert_eq!(writes.clone().accepted().len(), 3);
            assert!(writes.iter().all(|write| write.resource == "configmaps" && write.namespace == "default"));
            assert_eq!(writes[1].name, name);
            assert_eq!(requests.len(), 6, "{}", requests.summary());
        }
        let mark = site.audit().mark().unwrap();
        let leases_and_events = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "held", "namespace": "default"}, "spec": {"holderIdentity": "test"},
        });
        site.apply(&leases_and_events.to_string()).await.unwrap();
        let writes = site.audit().since(mark).unwrap().by(ADMIN_USER).writes();
        assert!(writes.iter().any(|write| write.resource == "leases"));
        assert!(writes.without_leases().iter().all(|write| write.name != "held"));
    });
}

#[test]
fn the_last_known_state_is_reported() {
    run(async {
        let maps: Api<ConfigMap> = Api::namespaced(shared().await.hub().admin(), "default");
        let mut looks = 0;
        let map = eventually(LONG, "the authority is published", async || {
            looks += 1;
            Ok(maps.get("kube-root-ca.crt").await?)
        });
        assert!(map.await.unwrap().data.is_some() && looks > 0);
        let late = eventually(Duration::from_millis(50), "it comes", async || Err::<(), _>("still not".into())).await;
        assert_eq!(late.unwrap_err().to_string(), "it comes: not within 50ms; last seen: still not");
    });
}
