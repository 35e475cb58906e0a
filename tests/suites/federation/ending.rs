//! Processes end when they should: by order, by kill, and when the one who started them is gone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aifactory_tests::{ClusterOptions, Federation, Operator, OperatorOptions, Result, eventually, run};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::{LONG, config_map, shared};

/// Makes a copy of this executable start a federation, write its directory to this file, and wait to be killed.
const VICTIM: &str = "AIFACTORY_TEST_VICTIM";

#[test]
fn an_operator_is_frozen_killed_and_started_again() {
    run(async {
        let federation = shared().await;
        let script = federation.directory().join("stand-in.sh");
        std::fs::write(&script, "#!/bin/sh\necho \"flags: $*\"\nexec sleep 1000\n").unwrap();
        let mut mode = std::fs::metadata(&script).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
        std::fs::set_permissions(&script, mode).unwrap();
        let options = OperatorOptions::new().name("stand-in").binary(&script).lease("3s", "2s", "500ms").flag("--x");
        let operator = Operator::start(federation, options).await.unwrap();
        let log = operator.log().unwrap();
        assert!(log.starts_with("flags: run --namespace=aifactory-system --kubeconfig="), "{log}");
        assert!(log.contains("--allow-site-cidr=127.0.0.0/8 --lease-duration=3s"), "{log}");
        let usage = operator.usage().unwrap();
        assert!(usage.resident_bytes > 0 && usage.peak_resident_bytes >= usage.resident_bytes && usage.threads == 1);

        let state = async |wanted: &str| {
            eventually(LONG, format!("state {wanted}"), async || {
                let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id()))?;
                let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned();
                if state.contains(wanted) { Ok(()) } else { Err(state.into()) }
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
        assert!(operator.exit_status().is_some_and(|status| !status.success()));
        assert!(operator.await_ready(LONG).await.unwrap_err().to_string().contains("stand-in ended with signal: 9"));
        operator.restart().await.unwrap();
        assert_eq!(operator.exit_status(), None);
        operator.terminate(LONG).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_back_to_a_snapshot_and_starts_late() -> Result<()> {
    let federation = Federation::builder()
        .name("snapshot")
        .hub(ClusterOptions::hub("hub").own_store(true).controller_manager(false))
        .site(ClusterOptions::site("late").running(false).scheduler(false).kwok(false).controller_manager(false))
        .start()
        .await?;
    eprintln!("a light hub: ready after {:?}", federation.start_time());
    let late = federation.site("late")?;
    assert!(tokio::net::TcpStream::connect(late.address()).await.is_err(), "the late site does not run");
    assert!(late.snapshot().is_err(), "it shares its store");

    let hub = federation.hub();
    let maps: Api<ConfigMap> = Api::namespaced(hub.admin(), "default");
    let before = maps.create(&PostParams::default(), &config_map("before")).await.unwrap();
    let snapshot = hub.snapshot()?;
    maps.create(&PostParams::default(), &config_map("after")).await.unwrap();
    maps.delete("before", &DeleteParams::default()).await.unwrap();
    late.start().await?;
    Api::<Namespace>::all(late.admin()).get("default").await.unwrap();

    let started = Instant::now();
    hub.restore(&snapshot).await?;
    eprintln!("a restore took {:?}", started.elapsed());
    let maps: Api<ConfigMap> = Api::namespaced(hub.admin(), "default");
    assert_eq!(maps.get("before").await.unwrap().metadata.uid, before.metadata.uid);
    assert!(maps.get_opt("after").await.unwrap().is_none());

    late.stop();
    assert!(tokio::net::TcpStream::connect(late.address()).await.is_err());
    let directory = federation.directory().to_owned();
    let processes = processes(&directory);
    assert!(processes.len() >= 3);
    drop(federation);
    assert!(processes.iter().all(|process| !is_alive(process)), "something runs on");
    assert!(!directory.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_test_leaves_no_process() {
    // With this variable the same test is the victim.
    if let Some(marker) = std::env::var_os(VICTIM).map(PathBuf::from) {
        return hold(&marker).await;
    }
    let marker = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("victim");
    let _ = std::fs::remove_file(&marker);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ending::a_killed_test_leaves_no_process"])
        .env(VICTIM, &marker)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let directory = eventually(Duration::from_secs(240), "the victim has a federation", async || {
        if let Some(status) = victim.try_wait()? {
            return Ok(Err(status));
        }
        Ok(Ok(PathBuf::from(std::fs::read_to_string(&marker)?)))
    })
    .await
    .unwrap()
    .expect("the victim runs");
    let processes = processes(&directory);
    assert!(processes.len() >= 4 && processes.iter().all(is_alive), "{processes:?}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let started = Instant::now();
    eventually(LONG, "all processes are gone", async || {
        let alive: Vec<_> = processes.iter().filter(|process| is_alive(process)).collect();
        if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?}").into()) }
    })
    .await
    .unwrap();
    eprintln!("all {} processes were gone after {:?}", processes.len(), started.elapsed());

    // The next federation removes what the dead one left.
    assert!(directory.exists());
    let next = Federation::builder().name("next").controller_manager(false).start().await.unwrap();
    assert!(!directory.exists() && next.directory().exists());
}

/// What the victim does: writes where its federation is, and waits.
async fn hold(marker: &Path) {
    let federation = Federation::builder().name("victim").site(ClusterOptions::site("bissen")).start().await.unwrap();
    let unfinished = marker.with_extension("unfinished");
    std::fs::write(&unfinished, federation.directory().as_os_str().as_encoded_bytes()).unwrap();
    std::fs::rename(unfinished, marker).unwrap();
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
        Recorded { id: fields.next().unwrap(), start: fields.next().unwrap() }
    };
    pids.lines().map(record).collect()
}

fn is_alive(process: &Recorded) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id)).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // A zombie has ended; whoever inherited it will wait for it.
    fields.get(19).is_some_and(|start| *start == process.start) && fields[0] != "Z"
}
