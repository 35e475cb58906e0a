//! The worker against a hub without its Secret, with a paused clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::slurm::{SiteSlurm, SlurmRest, SlurmSecretRef};
use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::model::intent::{Body, Desired, Intent};
use aifactory_plan::model::site_key::SiteKey;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::SlurmDriver;
use crate::site::controller::{Core, receive, run};
use crate::site::fake_hub::{FakeHub, factory, polled_at_most, site_intent, source};
use crate::telemetry::metrics::Metrics;
use crate::transport::{FromSite, Incarnation, Received, ToSite, hub_channel};

fn slurm() -> SiteSlurm {
    let secret = SlurmSecretRef { name: "site".to_owned(), key: "credential".to_owned() };
    let rest = SlurmRest {
        url: "http://127.0.0.1:9".to_owned(),
        token_secret_ref: Some(secret),
        key_secret_ref: None,
        user: "slurm".to_owned(),
        ca_bundle: None,
        parent_account: "root".to_owned(),
    };
    SiteSlurm { cluster_name: "cluster".to_owned(), rest: Some(rest), slinky: None }
}

#[tokio::test(start_paused = true)]
async fn without_a_secret_the_worker_looks_every_two_seconds_and_neither_spins_nor_reads_more() {
    let hub = FakeHub::default();
    let (to_hub, mut from_site) = hub_channel();
    let key = SiteKey::slurm(factory(), "site");
    let to_hub = to_hub.of(key.clone(), Incarnation(1));
    let (to_site, inbox) = mpsc::unbounded_channel();
    let driver = SlurmDriver::new(Core::new(key, source(), hub.reader(), to_hub, Arc::new(Metrics::new())));
    to_site.send(ToSite::Site(Box::new(site_intent(Some(slurm()))))).unwrap();
    let minute = timeout(Duration::from_secs(60), polled_at_most(500, run(driver, inbox))).await;
    assert!(minute.is_err(), "the worker ended");
    assert!((30..=33).contains(&hub.reads()), "{} reads in a minute", hub.reads());
    let Some(Received { message: FromSite::Site(report), .. }) = from_site.recv().await else { panic!("no report of the site") };
    assert_eq!(report.problem.map(|problem| problem.reason), Some(Reason::SecretNotFound));
}

fn grant(desired: Desired) -> Arc<Intent> {
    let body = serde_json::from_value(serde_json::json!({
        "code": "EHPC-1", "organisation": "Example SARL", "desired": desired, "only_if_held": null, "members": [], "pools": [],
        "caps": {"max_gpus": null, "max_jobs": null, "max_wall_minutes": null},
        "end": {"running_work": "Finish", "grace_seconds": 0, "retention_seconds": 0, "after_retention": "Retain"},
        "not_after": "2027-01-01T00:00:00Z", "storage": "1Gi", "egress": [], "cross_site": null, "adopt_previous": false,
    }));
    let owner = OwnerRef::new(Kind::AccessGrant, "team", "alpha");
    let (uid, created, body) = ("1".to_owned(), Timestamp::UNIX_EPOCH, Body::Grant(Box::new(body.unwrap())));
    Arc::new(Intent { version: 1, owner, uid, generation: 1, created, serial: 0, body })
}

#[tokio::test]
async fn an_end_is_kept_in_mind_when_its_grant_is_gone_from_the_hub() {
    let (to_hub, _from_site) = hub_channel();
    let key = SiteKey::slurm(factory(), "site");
    let to_hub = to_hub.of(key.clone(), Incarnation(1));
    let mut driver = SlurmDriver::new(Core::new(key, source(), FakeHub::default().reader(), to_hub, Arc::new(Metrics::new())));
    let owner = grant(Desired::Bound).owner.clone();
    receive(&mut driver, ToSite::Put(grant(Desired::Bound)));
    receive(&mut driver, ToSite::Gone(owner.clone()));
    assert!(driver.core.gone.contains(&owner) && driver.ending.is_empty());
    receive(&mut driver, ToSite::Put(grant(Desired::Ended { because: Reason::Deleting, message: "deleted".to_owned(), at: None })));
    receive(&mut driver, ToSite::Gone(owner.clone()));
    assert!(driver.ending.contains_key(&owner));
    receive(&mut driver, ToSite::Put(grant(Desired::Bound)));
    assert!(driver.ending.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_appears_is_used_and_one_that_is_no_token_is_said() {
    let hub = FakeHub::default();
    let (to_hub, mut from_site) = hub_channel();
    let key = SiteKey::slurm(factory(), "site");
    let to_hub = to_hub.of(key.clone(), Incarnation(1));
    let (to_site, inbox) = mpsc::unbounded_channel();
    let driver = SlurmDriver::new(Core::new(key, source(), hub.reader(), to_hub, Arc::new(Metrics::new())));
    to_site.send(ToSite::Site(Box::new(site_intent(Some(slurm()))))).unwrap();
    let running = tokio::spawn(polled_at_most(500, run(driver, inbox)));
    sleep(Duration::from_secs(10)).await;
    hub.put(BTreeMap::from([("credential", "no token")]));
    sleep(Duration::from_secs(3)).await;
    let mut reasons = Vec::new();
    while let Ok(Received { message: FromSite::Site(report), .. }) = from_site.try_recv() {
        reasons.extend(report.problem.map(|problem| problem.reason));
    }
    assert_eq!(reasons, [Reason::SecretNotFound, Reason::CredentialInvalid]);
    drop(to_site);
    running.await.unwrap();
}
