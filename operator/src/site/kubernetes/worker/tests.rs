//! The worker against a hub without its Secret, with a paused clock.

use tokio::time::timeout;

use super::*;
use crate::site::fake_hub::{FakeHub, factory, polled_at_most, site_intent, source};
use crate::transport::{Incarnation, Received, hub_channel};

#[tokio::test(start_paused = true)]
async fn without_a_secret_the_worker_looks_every_two_seconds_and_neither_spins_nor_reads_more() {
    let hub = FakeHub::default();
    let (to_hub, mut from_site) = hub_channel();
    let key = SiteKey::new(factory(), "site");
    let to_hub = to_hub.of(key.clone(), Incarnation(1));
    let (to_site, inbox) = mpsc::unbounded_channel();
    let worker = Worker::new(key, source(), hub.reader(), to_hub, Arc::new(Metrics::new()));
    to_site.send(ToSite::Site(Box::new(site_intent(None)))).unwrap();
    let minute = timeout(Duration::from_secs(60), polled_at_most(500, worker.run(inbox))).await;
    assert!(minute.is_err(), "the worker ended");
    assert!((30..=33).contains(&hub.reads()), "{} reads in a minute", hub.reads());
    let Some(Received { message: FromSite::Site(report), .. }) = from_site.recv().await else { panic!("no report of the site") };
    assert_eq!(report.problem.map(|problem| problem.reason), Some(Reason::SecretNotFound));
}
