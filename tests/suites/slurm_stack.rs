//! The Slurm clusters of the harness: what the suites on real Slurm rely on holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use aifactory_tests::slurm::{Cluster, Daemon, JobSpec, Options};
use aifactory_tests::{Cut, eventually, run_beside};
use tokio::sync::OnceCell;

const LONG: Duration = Duration::from_secs(60);

static SHARED: OnceCell<Cluster> = OnceCell::const_new();

async fn shared() -> &'static Cluster {
    SHARED
        .get_or_try_init(async || {
            let cluster = Cluster::start(Options::new("stack")).await?;
            eprintln!("Slurm cluster: idle after {:?}", cluster.start_time());
            cluster.create_account("vision", "eu-aif").await?;
            cluster.create_association("alice", "vision", None).await?;
            Ok::<_, aifactory_tests::Error>(cluster)
        })
        .await
        .expect("a Slurm cluster")
}

#[test]
fn two_clusters_start_side_by_side_and_leave_nothing() {
    run_beside(async {
        let (one, other) = tokio::join!(Cluster::start(Options::new("bissen")), Cluster::start(Options::new("bettembourg")));
        let (one, other) = (one.unwrap(), other.unwrap());
        eprintln!("two Slurm clusters at once: idle after {:?} and {:?}", one.start_time(), other.start_time());
        one.create_account("only-here", "eu-aif").await.unwrap();
        assert!(one.sacctmgr(&["-nP", "show", "account", "format=account"]).await.unwrap().contains("only-here"));
        assert!(!other.sacctmgr(&["-nP", "show", "account", "format=account"]).await.unwrap().contains("only-here"));
        assert_ne!(one.jwt_key(), other.jwt_key());

        one.add_user("newcomer").unwrap();
        one.create_association("newcomer", "only-here", Some("h100")).await.unwrap();
        let job = one.submit("newcomer", JobSpec { seconds: 600, minutes: 20, ..JobSpec::new("only-here", "h100") }).await.unwrap();
        one.wait_job(job, "RUNNING", LONG).await.unwrap();

        let (files, logs) = (one.files(), one.logs().to_owned());
        let mark = files.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!processes_of(&mark).is_empty());
        drop(one);
        assert!(!files.exists() && !logs.exists());
        eventually(LONG, "no process is left", async || {
            let left = processes_of(&mark);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}").into()) }
        })
        .await
        .unwrap();
        other.rest("GET", "/slurmdb/v0.0.44/accounts/", None).await.unwrap();
    });
}

#[test]
fn a_member_computes_and_a_stranger_is_refused() {
    run_beside(async {
        let cluster = shared().await;
        let job = cluster.submit("alice", JobSpec { gpus: 2, ..JobSpec::new("vision", "h100") }).await.unwrap();
        let done = cluster.wait_job(job, "COMPLETED", LONG).await.unwrap();
        assert!(done.raw["tres_alloc_str"].as_str().unwrap().contains("gres/gpu:h100=2"), "{}", done.raw["tres_alloc_str"]);
        let typed = JobSpec { gres: Some("a100".to_owned()), ..JobSpec::new("vision", "a100") };
        let job = cluster.submit("alice", typed).await.unwrap();
        cluster.wait_job(job, "COMPLETED", LONG).await.unwrap();
        let refused = cluster.submit("bob", JobSpec::new("vision", "h100")).await.unwrap_err();
        assert_eq!(refused.code, 2045, "{refused:?}");
        assert!(cluster.assoc_mgr_qos("normal").await.unwrap().contains("QOS=normal"));
    });
}

#[test]
fn a_frozen_database_goes_on_where_it_was() {
    run_beside(async {
        let cluster = shared().await;
        cluster.freeze(Daemon::Database).await.unwrap();
        let asked = cluster.rest("GET", "/slurmdb/v0.0.44/accounts/", None);
        assert!(tokio::time::timeout(Duration::from_secs(2), asked).await.is_err(), "a frozen database answered");
        cluster.thaw(Daemon::Database).await.unwrap();
        accounts(cluster).await;
    });
}

#[test]
fn a_restart_keeps_accounts_and_jobs() {
    run_beside(async {
        let cluster = shared().await;
        let job = cluster.submit("alice", JobSpec { seconds: 600, minutes: 20, ..JobSpec::new("vision", "a100") }).await.unwrap();
        cluster.wait_job(job, "RUNNING", LONG).await.unwrap();
        let all = [Daemon::Rest, Daemon::Slurmctld, Daemon::Slurmdbd, Daemon::Database];
        for daemon in &all {
            cluster.stop(daemon.clone()).await.unwrap();
        }
        for daemon in all.into_iter().rev() {
            cluster.start_daemon(daemon).await.unwrap();
        }
        accounts(cluster).await;
        cluster.wait_job(job, "RUNNING", LONG).await.unwrap();
        cluster.rest("DELETE", &format!("/slurm/v0.0.44/job/{job}"), None).await.unwrap();
        cluster.wait_job(job, "CANCELLED", LONG).await.unwrap();
    });
}

#[test]
fn the_line_counts_requests_and_can_be_cut() {
    run_beside(async {
        let cluster = shared().await;
        let before = cluster.requests().requests().len();
        accounts(cluster).await;
        assert_eq!(cluster.requests().requests().len(), before, "what tests ask is not counted");
        let ask = async |method: &str| {
            let address = cluster.rest_url().replace("http://", "");
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            let request = format!("{method} /slurm/v0.0.44/ping/ HTTP/1.0\r\n\r\n");
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await?;
            let mut answer = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.map(|_| answer)
        };
        assert!(ask("GET").await.unwrap().contains("401"));
        assert!(cluster.requests().writes().is_empty());
        ask("POST").await.unwrap();
        assert_eq!(cluster.requests().writes(), [("POST".to_owned(), "/slurm/v0.0.44/ping/".to_owned())]);
        cluster.proxy().cut(Cut::Refuse).await;
        assert!(ask("GET").await.is_err());
        cluster.proxy().restore().await;
        ask("GET").await.unwrap();
        cluster.requests().clear();
        assert!(cluster.requests().requests().is_empty());
    });
}

/// The accounts are there again, as soon as the database is.
async fn accounts(cluster: &Cluster) {
    eventually(LONG, "the account vision", async || {
        let accounts = cluster.rest("GET", "/slurmdb/v0.0.44/accounts/", None).await?;
        if accounts.to_string().contains("vision") { Ok(()) } else { Err(accounts.to_string().into()) }
    })
    .await
    .unwrap();
}

/// The processes whose command or environment names a directory.
fn processes_of(mark: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let named = |path: &std::path::Path, file: &str| String::from_utf8_lossy(&std::fs::read(path.join(file)).unwrap_or_default()).into_owned();
    processes
        .filter(|path| path.join("status").exists())
        .map(|path| (named(&path, "cmdline"), named(&path, "environ")))
        .filter(|(command, environment)| command.contains(mark) || environment.contains(mark))
        .map(|(command, _)| command)
        .collect()
}
