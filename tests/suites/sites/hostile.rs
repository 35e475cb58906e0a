//! The corpus of hostile kubeconfigs, each in a Secret of its own, as a team with the right to write Secrets could try it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aifactory_api::AIFactory;
use aifactory_tests::{Federation, Operator, eventually, layout};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::fixture::{self, NAMESPACE, PATIENCE};

/// An address that the operator may connect to, so that nothing but the refusal keeps it from doing so.
const OPEN: &str = "127.77.0.1";
const TOKEN: &str = "canary-7f3a9c";
/// Most sites in one factory.
const SITES: usize = 40;

struct Case {
    name: String,
    reason: String,
    bytes: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_kubeconfig_is_refused() {
    let connections = Arc::new(AtomicUsize::new(0));
    let port = listen(&connections).await;
    let federation = Federation::builder().name("hostile").start().await.unwrap();
    federation.install([NAMESPACE]).await.unwrap();
    let marker = federation.directory().join("marker");
    let file = federation.directory().join("file-that-nobody-reads");
    let pipe = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
    assert!(pipe.success());
    let cases = corpus(port, &marker.display().to_string(), &file.display().to_string());
    assert!(cases.len() >= 25, "{} cases", cases.len());
    for case in &cases {
        put(&federation, &case.name, &case.bytes).await;
    }
    let options = fixture::options()
        .site_cidrs([&*format!("{OPEN}/32")])
        .environment("RUST_LOG", "trace,h2=info,hyper=info,hyper_util=info,tower=info,rustls=info");
    let operator = Operator::start(&federation, options).await.unwrap();
    let factories: Vec<String> = (0..cases.len().div_ceil(SITES)).map(|index| format!("hostile-{index}")).collect();
    for (name, cases) in factories.iter().zip(cases.chunks(SITES)) {
        federation.hub().apply(&factory(name, cases).to_string()).await.unwrap();
    }

    let api: Api<AIFactory> = Api::namespaced(federation.hub().admin(), NAMESPACE);
    let found = eventually(PATIENCE, "every case has a reason", async || {
        no_process(&operator)?;
        let mut found = BTreeMap::new();
        for name in &factories {
            for site in api.get(name).await?.status.unwrap_or_default().sites {
                found.insert(site.name, (site.reason.unwrap_or_default(), site.message.unwrap_or_default(), site.reachable));
            }
        }
        let open: Vec<&str> = cases
            .iter()
            .filter(|case| found.get(&case.name).is_none_or(|found| matches!(found.0.as_str(), "" | "Pending")))
            .map(|case| &*case.name)
            .collect();
        if open.is_empty() { Ok(found) } else { Err(format!("{open:?}").into()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", operator.log().unwrap_or_default()));
    for case in &cases {
        let (reason, message, reachable) = &found[&case.name];
        assert_eq!((reason.as_str(), *reachable), ("CredentialInvalid", false), "{}: {message}", case.name);
        assert!(message.starts_with(&format!("Secret {}, key kubeconfig: {}: ", case.name, case.reason)), "{}: {message}", case.name);
    }
    eprintln!("{} hostile kubeconfigs refused, each with its reason", cases.len());

    // Refused again and again, at rest, without a write, a process, a file or a packet.
    // The operator looks at each of 96 Secrets every two seconds, so that reads are bounded by their number and are not judged here.
    let marks = fixture::marks(&federation);
    fixture::assert_no_writes(&federation, &operator, marks, Duration::from_secs(8)).await;
    no_process(&operator).unwrap();
    assert!(!marker.exists(), "a command ran");
    nobody_reads(&file);
    assert_eq!(connections.load(Ordering::SeqCst), 0, "somebody was connected to");

    // The listener does see whoever comes: an honest kubeconfig leads there.
    let (honest, before) = (honest(&federation, port), cases.len());
    put(&federation, "honest", honest.as_bytes()).await;
    federation
        .hub()
        .apply(&factory("honest", &[Case { name: "honest".to_owned(), reason: String::new(), bytes: Vec::new() }]).to_string())
        .await
        .unwrap();
    eventually(
        PATIENCE,
        "an honest one is tried",
        async || if connections.load(Ordering::SeqCst) > 0 { Ok(()) } else { Err("no connection".into()) },
    )
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", operator.log().unwrap_or_default()));
    assert!(before > 0);

    let events = Api::<Event>::all(federation.hub().admin()).list(&ListParams::default()).await.unwrap();
    let objects = api.list(&ListParams::default()).await.unwrap();
    let (log, metrics) = (operator.log().unwrap(), operator.get("/metrics").await.unwrap().1);
    for (place, text) in [
        ("events", serde_json::to_string(&events.items).unwrap()),
        ("status", serde_json::to_string(&objects.items).unwrap()),
        ("the log", log),
        ("metrics", metrics),
    ] {
        assert!(!text.is_empty());
        for secret in secrets(&cases) {
            assert!(!text.contains(&secret), "{place} holds {secret}");
        }
    }
}

/// Counts whoever connects, on every address of this machine.
async fn listen(connections: &Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("[::]:0".parse::<SocketAddr>().unwrap()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::clone(connections);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            connections.fetch_add(1, Ordering::SeqCst);
        }
    });
    port
}

/// The files of the corpus, led to the listener: whatever is not refused would be seen.
fn corpus(port: u16, marker: &str, file: &str) -> Vec<Case> {
    let directory = layout::root().join("tests/data/kubeconfigs");
    let mut cases: Vec<Case> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let first = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
            for (from, to) in [
                ("api.bissen.example:6443", format!("{OPEN}:{port}")),
                ("api.bissen.example", OPEN.to_owned()),
                (":6443", format!(":{port}")),
                ("kubeconfig-was-executed", marker.to_owned()),
                ("/var/run/secrets/kubernetes.io/serviceaccount/token", file.to_owned()),
                ("/etc/ssl/certs/ca-certificates.crt", file.to_owned()),
                ("/etc/ssl/certs/client.pem", file.to_owned()),
                ("not-a-real-token", TOKEN.to_owned()),
            ] {
                bytes = replace(&bytes, from.as_bytes(), to.as_bytes());
            }
            Case {
                name: path.file_stem().unwrap().to_string_lossy().into_owned(),
                reason: first.strip_prefix("# expect: ").unwrap().to_owned(),
                bytes,
            }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// What must be seen nowhere: tokens, passwords, and keys.
fn secrets(cases: &[Case]) -> Vec<String> {
    let mut secrets = vec![TOKEN.to_owned()];
    for case in cases {
        for line in String::from_utf8_lossy(&case.bytes).lines() {
            if let Some((_, value)) = line.split_once("client-key-data: ").or_else(|| line.split_once("password: ")) {
                let value = value.trim_matches(['"', '\'', ' ']);
                if value.len() >= 8 {
                    secrets.push(value.chars().take(60).collect());
                }
            }
        }
    }
    secrets.sort();
    secrets.dedup();
    secrets
}

async fn put(federation: &Federation, name: &str, bytes: &[u8]) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "type": "Opaque",
        "data": {"kubeconfig": STANDARD.encode(bytes)},
    });
    federation.hub().apply(&secret.to_string()).await.unwrap();
}

fn factory(name: &str, cases: &[Case]) -> Value {
    let site = |case: &Case| {
        json!({"name": case.name, "country": "LU", "stage": "Production",
            "kubernetes": {"push": {"kubeconfigSecretRef": {"name": case.name, "key": "kubeconfig"}}}})
    };
    json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"type": "Gigafactory", "sites": cases.iter().map(site).collect::<Vec<_>>()},
    })
}

fn honest(federation: &Federation, port: u16) -> String {
    let address = format!("{OPEN}:{port}").parse().unwrap();
    federation.hub().kubeconfig(aifactory_tests::Credential::Token(TOKEN.to_owned())).at(address).to_yaml().unwrap()
}

/// The operator has no child.
fn no_process(operator: &Operator) -> Result<(), aifactory_tests::Observed> {
    for task in std::fs::read_dir(format!("/proc/{}/task", operator.id()))? {
        // A thread may end meanwhile.
        let children = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        assert!(children.trim().is_empty(), "the operator has started a process");
    }
    Ok(())
}

/// Nobody has this pipe open for reading: writing to it finds no reader.
fn nobody_reads(pipe: &std::path::Path) {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new().write(true).custom_flags(NONBLOCK).open(pipe);
    assert_eq!(opened.unwrap_err().raw_os_error(), Some(NO_READER), "a file was opened");
}

/// `O_NONBLOCK` and `ENXIO` of Linux.
const NONBLOCK: i32 = 0o4000;
const NO_READER: i32 = 6;
