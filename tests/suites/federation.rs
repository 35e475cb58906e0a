//! The harness itself: what the other suites rely on holds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aifactory_tests::{
    ADMIN_USER, ClusterOptions, Component, Credential, Cut, Federation, GpuNode, Operator,
    OperatorOptions, Result, eventually, holds, run,
};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::OnceCell;

const LONG: Duration = Duration::from_secs(60);
/// Tells a copy of this executable to start a federation, write its directory here, and wait to be killed.
const VICTIM: &str = "AIFACTORY_TEST_VICTIM";

static SHARED: OnceCell<Federation> = OnceCell::const_new();

async fn shared() -> &'static Federation {
    SHARED
        .get_or_try_init(async || {
            Federation::builder()
                .name("shared")
                .sites(["bissen", "bettembourg"])
                .start()
                .await
        })
        .await
        .expect("a federation")
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"key": "value"}})).unwrap()
}

async fn whoami(client: &Client) -> kube::Result<(String, BTreeSet<String>)> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await?;
    let user = review
        .status
        .unwrap_or_default()
        .user_info
        .unwrap_or_default();
    Ok((
        user.username.unwrap_or_default(),
        user.groups.unwrap_or_default().into_iter().collect(),
    ))
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
        eprintln!(
            "hub and two sites: ready after {:?}",
            federation.start_time()
        );
        assert!(
            federation.start_time() < LONG,
            "{:?}",
            federation.start_time()
        );
        let mut addresses = BTreeSet::new();
        for cluster in federation.clusters() {
            let version = cluster.admin().apiserver_version().await.unwrap();
            assert_eq!(version.minor, "36");
            assert!(
                addresses.insert(cluster.address()) && addresses.insert(cluster.proxy().address())
            );
        }
        let running = |cluster: &aifactory_tests::Cluster| {
            cluster.process_ids().into_keys().collect::<Vec<_>>()
        };
        assert_eq!(
            running(federation.hub()),
            [Component::ApiServer, Component::ControllerManager]
        );
        assert_eq!(running(federation.site("bissen").unwrap()).len(), 4);
        assert!(federation.site("nowhere").is_err());
    });
}

#[test]
fn a_cut_line_is_seen_and_heals() {
    run(async {
        let site = shared().await.site("bissen").unwrap();
        let proxy = site.proxy();
        let kubeconfig = site
            .kubeconfig_for("harness:observer", &["system:masters"])
            .unwrap();
        let client = kubeconfig.at(proxy.address()).client().await.unwrap();
        let namespaces: Api<Namespace> = Api::all(client);
        namespaces.get("default").await.unwrap();
        let before = proxy.traffic();
        assert!(
            before.accepted >= 1 && before.open >= 1 && before.received > before.sent / 100,
            "{before:?}"
        );

        proxy.cut(Cut::Refuse).await;
        assert_eq!(proxy.traffic().open, 0);
        let started = Instant::now();
        for _ in 0..3 {
            assert!(namespaces.get("default").await.is_err());
        }
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "refused late: {:?}",
            started.elapsed()
        );
        let refused = tokio::net::TcpStream::connect(proxy.address())
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        proxy.restore().await;
        namespaces.get("default").await.unwrap();

        proxy.cut(Cut::Silent).await;
        let silent =
            tokio::time::timeout(Duration::from_millis(700), namespaces.get("default")).await;
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
        Api::<Namespace>::all(site.admin())
            .get("default")
            .await
            .unwrap();
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
            maps.create(&PostParams::default(), &config_map(&name))
                .await
                .unwrap();
            let dry = PostParams {
                dry_run: true,
                ..PostParams::default()
            };
            maps.create(&dry, &config_map("never")).await.unwrap();
            let patch = Patch::Merge(json!({"data": {"key": "other"}}));
            maps.patch(&name, &PatchParams::default(), &patch)
                .await
                .unwrap();
            maps.get(&name).await.unwrap();
            assert_eq!(
                code(
                    maps.create(&PostParams::default(), &config_map(&name))
                        .await
                ),
                409
            );
            maps.delete(&name, &DeleteParams::default()).await.unwrap();

            let requests = site.audit().since(mark).unwrap().by(USER);
            let writes = requests.clone().writes();
            let seen: Vec<_> = writes
                .iter()
                .map(|write| (write.verb.as_str(), write.code))
                .collect();
            let wanted = [
                ("create", 201),
                ("patch", 200),
                ("create", 409),
                ("delete", 200),
            ];
            assert_eq!(seen, wanted, "{}", requests.summary());
            assert_eq!(writes.clone().accepted().len(), 3);
            assert!(
                writes
                    .iter()
                    .all(|write| write.resource == "configmaps" && write.namespace == "default")
            );
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
        assert!(
            writes
                .without_leases()
                .iter()
                .all(|write| write.name != "held")
        );
    });
}

#[test]
fn namespaces_go_with_all_that_is_in_them() {
    run(async {
        let site = shared().await.site("bissen").unwrap();
        site.apply(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: kept, namespace: leaving}}\n---\n\
             {apiVersion: v1, kind: Namespace, metadata: {name: leaving}}\n",
        )
        .await
        .expect("a Namespace is applied before what is in it");
        let namespaces: Api<Namespace> = Api::all(site.admin());
        namespaces
            .delete("leaving", &DeleteParams::default())
            .await
            .unwrap();
        let started = Instant::now();
        eventually(LONG, "the Namespace is gone", async || {
            match namespaces.get_opt("leaving").await? {
                None => Ok(()),
                Some(namespace) => Err(format!("{:?}", namespace.status).into()),
            }
        })
        .await
        .unwrap();
        eprintln!("a Namespace went within {:?}", started.elapsed());
    });
}

#[test]
fn gpu_pods_run_on_played_nodes() {
    run(async {
        let site = shared().await.site("bettembourg").unwrap();
        let node = GpuNode::new("gpu-1", 4)
            .product("NVIDIA-H100-80GB-HBM3")
            .label("rack", "7");
        site.add_node(node).await.unwrap();
        let node = site.await_node("gpu-1", LONG).await.unwrap();
        let capacity = node.status.unwrap_or_default().capacity.unwrap_or_default();
        assert_eq!(capacity["nvidia.com/gpu"].0, "4", "KWOK keeps the capacity");
        site.add_node(GpuNode::new("kept-by-site", 8).offered(false))
            .await
            .unwrap();
        let offered = ListParams::default().labels("site.aifactory.dev/offered=true");
        assert_eq!(
            Api::<Node>::all(site.admin())
                .list(&offered)
                .await
                .unwrap()
                .items
                .len(),
            1
        );

        let pod = |name: &str, gpus: u32| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "nodeSelector": {"rack": "7"},
                    "containers": [{"name": "train", "image": "registry.invalid/train:1",
                        "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}}}],
                },
            })
            .to_string()
        };
        let started = Instant::now();
        site.apply(&pod("train", 4)).await.unwrap();
        let running = site
            .await_pod("default", "train", "Running", LONG)
            .await
            .unwrap();
        eprintln!("a Pod ran within {:?}", started.elapsed());
        assert_eq!(running.spec.unwrap().node_name.as_deref(), Some("gpu-1"));
        site.apply(&pod("waits", 1)).await.unwrap();
        holds(
            Duration::from_secs(1),
            "a fifth GPU is not given",
            async || {
                let waiting = site
                    .await_pod("default", "waits", "Pending", Duration::from_secs(1))
                    .await?;
                match waiting.spec.unwrap().node_name {
                    None => Ok(()),
                    Some(node) => Err(node.into()),
                }
            },
        )
        .await
        .unwrap();
        site.delete(&pod("train", 4)).await.unwrap();
        site.await_pod("default", "waits", "Running", LONG)
            .await
            .unwrap();
        site.remove_node("kept-by-site").await.unwrap();
    });
}

#[test]
fn jobs_run_under_real_controllers_to_their_end() {
    run(async {
        let site = shared().await.site("bettembourg").unwrap();
        site.add_node(GpuNode::new("gpu-2", 8).label("rack", "8"))
            .await
            .unwrap();
        let mark = site.audit().mark().unwrap();
        site.apply(
            "{apiVersion: batch/v1, kind: Job, metadata: {name: short, namespace: default}, spec: {template: {spec: {
               restartPolicy: Never, nodeSelector: {rack: '8'}, containers: [{name: work, image: registry.invalid/w}]}}}}",
        )
        .await
        .unwrap();
        let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::namespaced(site.admin(), "default");
        eventually(LONG, "the Job succeeded", async || {
            match jobs.get("short").await?.status.unwrap_or_default() {
                status if status.succeeded == Some(1) => Ok(()),
                status => Err(format!("{status:?}").into()),
            }
        })
        .await
        .unwrap();
        let requests = site.audit().since(mark).unwrap();
        let controller = requests
            .by("system:serviceaccount:kube-system:job-controller")
            .writes();
        assert!(
            controller
                .iter()
                .any(|write| write.verb == "create" && write.resource == "pods")
        );
    });
}

#[test]
fn credentials_are_of_one_cluster_and_no_more_than_asked() {
    run(async {
        let federation = shared().await;
        let (hub, site) = (federation.hub(), federation.site("bissen").unwrap());
        let member = site.kubeconfig_for("oidc:4711", &["one", "two"]).unwrap();
        let client = member.client().await.unwrap();
        let groups: BTreeSet<String> = ["one", "two", "system:authenticated"]
            .map(str::to_owned)
            .into();
        assert_eq!(
            whoami(&client).await.unwrap(),
            ("oidc:4711".to_owned(), groups)
        );
        assert_eq!(
            code(
                Api::<Secret>::namespaced(client, "default")
                    .list(&ListParams::default())
                    .await
            ),
            403
        );
        assert!(site.kubeconfig_for("x", &["a", "b", "c"]).is_err());

        let account = site.kubeconfig_of("team", "worker").await.unwrap();
        let client = account
            .clone()
            .at(site.proxy().address())
            .client()
            .await
            .unwrap();
        assert_eq!(
            whoami(&client).await.unwrap().0,
            "system:serviceaccount:team:worker"
        );

        // A credential of the site is worth nothing on the hub, nor is the site's authority.
        for kubeconfig in [&member, &account] {
            let mut stolen = kubeconfig.clone().at(hub.address());
            assert!(
                whoami(&stolen.client().await.unwrap()).await.is_err(),
                "the wrong authority was taken"
            );
            stolen.authority = hub.admin_kubeconfig().authority;
            assert_eq!(code(whoami(&stolen.client().await.unwrap()).await), 401);
        }
        let anonymous = site
            .kubeconfig(Credential::Anonymous)
            .client()
            .await
            .unwrap();
        assert_eq!(
            code(Api::<Namespace>::all(anonymous).get("default").await),
            403
        );

        let soon = std::time::SystemTime::now() + Duration::from_secs(2);
        let short = site.kubeconfig_until("oidc:1", &[], Some(soon)).unwrap();
        assert!(whoami(&short.client().await.unwrap()).await.is_ok());
        eventually(LONG, "the certificate ends", async || {
            match whoami(&short.client().await?).await {
                Ok(who) => Err(format!("{who:?}").into()),
                Err(_) => Ok(()),
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn manifests_with_their_own_kinds_apply_in_one_go() {
    run(async {
        let hub = shared().await.hub();
        let text = r#"
apiVersion: bench.example.org/v1
kind: Bench
metadata: {name: one, namespace: benches}
spec: {length: 2}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: benches.bench.example.org}
spec:
  group: bench.example.org
  scope: Namespaced
  names: {plural: benches, singular: bench, kind: Bench}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {length: {type: integer}}}}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: benches}}
"#;
        let applied = hub.apply(text).await.unwrap();
        assert_eq!(applied.len(), 3);
        let refused = hub
            .apply(&text.replace("length: 2", "length: two"))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("document 1") && refused.contains("Bench one"),
            "{refused}"
        );
        hub.delete(text).await.unwrap();
        hub.delete("{apiVersion: v1, kind: ConfigMap, metadata: {name: never}}")
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
        let data = secrets
            .get("bissen-kubeconfig")
            .await
            .unwrap()
            .data
            .unwrap();
        let text = String::from_utf8(data["kubeconfig"].0.clone()).unwrap();
        assert!(
            text.contains(&format!("https://{}", site.proxy().address())),
            "{}",
            text.len()
        );
        let kubeconfig = site.site_kubeconfig().await.unwrap();
        let client = kubeconfig.client().await.unwrap();
        assert_eq!(
            whoami(&client).await.unwrap().0,
            "system:serviceaccount:aifactory-system:aifactory-site"
        );
        let hub = federation
            .hub()
            .hub_kubeconfig()
            .await
            .unwrap()
            .client()
            .await
            .unwrap();
        assert_eq!(
            whoami(&hub).await.unwrap().0,
            "system:serviceaccount:aifactory-system:aifactory-operator"
        );
    });
}

#[test]
fn an_operator_is_frozen_killed_and_started_again() {
    run(async {
        let federation = shared().await;
        let script = federation.directory().join("stand-in.sh");
        std::fs::write(&script, "#!/bin/sh\necho \"flags: $*\"\nexec sleep 1000\n").unwrap();
        let mut mode = std::fs::metadata(&script).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
        std::fs::set_permissions(&script, mode).unwrap();
        let options = OperatorOptions::new()
            .name("stand-in")
            .binary(&script)
            .lease("3s", "2s", "500ms")
            .flag("--x");
        let operator = Operator::start(federation, options).await.unwrap();
        let log = operator.log().unwrap();
        assert!(
            log.starts_with("flags: run --namespace=aifactory-system --kubeconfig="),
            "{log}"
        );
        assert!(
            log.contains("--allow-site-cidr=127.0.0.0/8 --lease-duration=3s"),
            "{log}"
        );
        let usage = operator.usage().unwrap();
        assert!(
            usage.resident_bytes > 0
                && usage.peak_resident_bytes >= usage.resident_bytes
                && usage.threads == 1
        );

        let state = async |wanted: &str| {
            eventually(LONG, format!("state {wanted}"), async || {
                let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id()))?;
                let state = status
                    .lines()
                    .find(|line| line.starts_with("State:"))
                    .unwrap_or_default()
                    .to_owned();
                if state.contains(wanted) {
                    Ok(())
                } else {
                    Err(state.into())
                }
            })
            .await
            .unwrap();
        };
        operator.freeze().unwrap();
        state("T (stopped)").await;
        operator.thaw().unwrap();
        state("S (sleeping)").await;
        assert_eq!(operator.exit_status(), None);
        operator.kill();
        assert!(
            operator
                .exit_status()
                .is_some_and(|status| !status.success())
        );
        assert!(
            operator
                .await_ready(LONG)
                .await
                .unwrap_err()
                .to_string()
                .contains("stand-in ended with signal: 9")
        );
        operator.restart().await.unwrap();
        assert_eq!(operator.exit_status(), None);
        operator.terminate(LONG).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_back_to_a_snapshot_and_starts_late() -> Result<()> {
    let federation = Federation::builder()
        .name("snapshot")
        .hub(
            ClusterOptions::hub("hub")
                .own_store(true)
                .controller_manager(false),
        )
        .site(
            ClusterOptions::site("late")
                .running(false)
                .scheduler(false)
                .kwok(false)
                .controller_manager(false),
        )
        .start()
        .await?;
    eprintln!("a light hub: ready after {:?}", federation.start_time());
    let late = federation.site("late")?;
    assert!(
        tokio::net::TcpStream::connect(late.address())
            .await
            .is_err(),
        "the late site does not run"
    );
    assert!(late.snapshot().is_err(), "it shares its store");

    let hub = federation.hub();
    let maps: Api<ConfigMap> = Api::namespaced(hub.admin(), "default");
    let before = maps
        .create(&PostParams::default(), &config_map("before"))
        .await
        .unwrap();
    let snapshot = hub.snapshot()?;
    maps.create(&PostParams::default(), &config_map("after"))
        .await
        .unwrap();
    maps.delete("before", &DeleteParams::default())
        .await
        .unwrap();
    late.start().await?;
    Api::<Namespace>::all(late.admin())
        .get("default")
        .await
        .unwrap();

    let started = Instant::now();
    hub.restore(&snapshot).await?;
    eprintln!("a restore took {:?}", started.elapsed());
    let maps: Api<ConfigMap> = Api::namespaced(hub.admin(), "default");
    assert_eq!(
        maps.get("before").await.unwrap().metadata.uid,
        before.metadata.uid
    );
    assert!(maps.get_opt("after").await.unwrap().is_none());

    late.stop();
    assert!(
        tokio::net::TcpStream::connect(late.address())
            .await
            .is_err()
    );
    let directory = federation.directory().to_owned();
    let processes = processes(&directory);
    assert!(processes.len() >= 3);
    drop(federation);
    assert!(
        processes.iter().all(|process| !is_alive(process)),
        "something runs on"
    );
    assert!(!directory.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_test_leaves_no_process() {
    let said = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("victim");
    let _ = std::fs::remove_file(&said);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "starts_a_federation_and_waits_to_be_killed",
            "--ignored",
        ])
        .env(VICTIM, &said)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let directory = eventually(
        Duration::from_secs(240),
        "the victim has a federation",
        async || {
            if let Some(status) = victim.try_wait()? {
                return Ok(Err(status));
            }
            Ok(Ok(PathBuf::from(std::fs::read_to_string(&said)?)))
        },
    )
    .await
    .unwrap()
    .expect("the victim runs");
    let processes = processes(&directory);
    assert!(
        processes.len() >= 4 && processes.iter().all(is_alive),
        "{processes:?}"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
    let started = Instant::now();
    eventually(LONG, "all processes are gone", async || {
        let alive: Vec<_> = processes
            .iter()
            .filter(|process| is_alive(process))
            .collect();
        if alive.is_empty() {
            Ok(())
        } else {
            Err(format!("{alive:?}").into())
        }
    })
    .await
    .unwrap();
    eprintln!(
        "all {} processes were gone after {:?}",
        processes.len(),
        started.elapsed()
    );

    // The next federation removes what the dead one left.
    assert!(directory.exists());
    let next = Federation::builder()
        .name("next")
        .controller_manager(false)
        .start()
        .await
        .unwrap();
    assert!(!directory.exists() && next.directory().exists());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_killed_test_leaves_no_process alone"]
async fn starts_a_federation_and_waits_to_be_killed() {
    let Some(said) = std::env::var_os(VICTIM).map(PathBuf::from) else {
        return;
    };
    let federation = Federation::builder()
        .name("victim")
        .site(ClusterOptions::site("bissen"))
        .start()
        .await
        .unwrap();
    let unfinished = said.with_extension("unfinished");
    std::fs::write(
        &unfinished,
        federation.directory().as_os_str().as_encoded_bytes(),
    )
    .unwrap();
    std::fs::rename(unfinished, said).unwrap();
    std::future::pending::<()>().await;
}

/// A process and when it started: an id alone may be given again.
#[derive(Debug)]
struct Recorded {
    id: String,
    start: String,
}

fn processes(directory: &Path) -> Vec<Recorded> {
    let pids = std::fs::read_to_string(directory.join("pids")).unwrap();
    let record = |line: &str| {
        let mut fields = line.split(' ').map(str::to_owned);
        Recorded {
            id: fields.next().unwrap(),
            start: fields.next().unwrap(),
        }
    };
    pids.lines().map(record).collect()
}

fn is_alive(process: &Recorded) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id)).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    // A zombie has ended; whoever inherited it will wait for it.
    fields.get(19).is_some_and(|start| *start == process.start) && fields[0] != "Z"
}
