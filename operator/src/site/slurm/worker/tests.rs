//! The worker against a hub without its Secret, with a paused clock.

use std::collections::BTreeMap;
use std::time::Duration;

use aifactory_api::Reason;
use aifactory_api::slurm::{SiteSlurm, SlurmRest, SlurmSecretRef};
use aifactory_plan::model::intent::Desired;
use aifactory_plan::model::site_key::SiteKey;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::SlurmDriver;
use crate::site::controller::{receive, run};
use crate::site::fake_hub::{FakeHub, core, factory, grant, polled_at_most, site_intent};
use crate::transport::{FromSite, Received, ToSite};

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
    let (core, mut from_site) = core(SiteKey::slurm(factory(), "site"), &hub);
    let (to_site, inbox) = mpsc::unbounded_channel();
    let driver = SlurmDriver::new(core);
    to_site.send(ToSite::Site(Box::new(site_intent(Some(slurm()))))).unwrap();
    let minute = timeout(Duration::from_secs(60), polled_at_most(500, run(driver, inbox))).await;
    assert!(minute.is_err(), "the worker ended");
    assert!((30..=33).contains(&hub.reads()), "{} reads in a minute", hub.reads());
    let Some(Received { message: FromSite::Site(report), .. }) = from_site.recv().await else { panic!("no report of the site") };
    assert_eq!(report.problem.map(|problem| problem.reason), Some(Reason::SecretNotFound));
}

#[tokio::test]
async fn an_end_is_kept_in_mind_when_its_grant_is_gone_from_the_hub() {
    let (core, _from_site) = core(SiteKey::slurm(factory(), "site"), &FakeHub::default());
    let mut driver = SlurmDriver::new(core);
    let owner = grant(Desired::Bound).owner.clone();
    receive(&mut driver, ToSite::Put(grant(Desired::Bound)));
    receive(&mut driver, ToSite::Gone(owner.clone()));
    assert!(driver.core.gone.contains(&owner) && driver.core.ending.is_empty());
    receive(&mut driver, ToSite::Put(grant(Desired::Ended { because: Reason::Deleting, message: "deleted".to_owned(), at: None })));
    receive(&mut driver, ToSite::Gone(owner.clone()));
    assert!(driver.core.ending.contains_key(&owner));
    receive(&mut driver, ToSite::Put(grant(Desired::Bound)));
    assert!(driver.core.ending.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_appears_is_used_and_one_that_is_no_token_is_said() {
    let hub = FakeHub::default();
    let (core, mut from_site) = core(SiteKey::slurm(factory(), "site"), &hub);
    let (to_site, inbox) = mpsc::unbounded_channel();
    let driver = SlurmDriver::new(core);
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
