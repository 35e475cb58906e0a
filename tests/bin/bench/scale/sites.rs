//! Simulated sites: each does at once what it is sent, and reports that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use aifactory_api::OwnerRef;
use aifactory_operator::hub::StartWorker;
use aifactory_operator::transport::{FromSite, SiteSender, ToSite, WorkerSender};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::{Body, Desired, Intent};
use aifactory_plan::model::report::{Detail, EntryUsage, Finding, GrantDetail, Held, HeldChange, PoolDetail, Report, SitePhase, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

type HeldBySite = Arc<Mutex<BTreeMap<SiteKey, BTreeSet<OwnerRef>>>>;

/// The sites of the federation, and what each holds, which a restart of the hub does not change.
#[derive(Clone)]
pub struct Sites {
    held: HeldBySite,
    runtime: Handle,
}

impl Sites {
    /// Sites that hold nothing, which work on this runtime.
    pub fn new(runtime: Handle) -> Self {
        Self { held: HeldBySite::default(), runtime }
    }
}

impl StartWorker for Sites {
    fn start(&self, key: SiteKey, _: CredentialSource, hub: WorkerSender) -> SiteSender {
        let (sender, mut inbox) = mpsc::unbounded_channel();
        let site = Site { key, hub, held: self.held.clone() };
        self.runtime.spawn(async move {
            while let Some(message) = inbox.recv().await {
                site.receive(message);
            }
        });
        sender
    }
}

struct Site {
    key: SiteKey,
    hub: WorkerSender,
    held: HeldBySite,
}

impl Site {
    fn receive(&self, message: ToSite) {
        match message {
            ToSite::Site(site) => self.hub.send(FromSite::Site(Box::new(self.about_itself(site.recorded)))),
            ToSite::Put(intent) => self.put(&intent),
            ToSite::Everything(set) => set.intents.values().for_each(|intent| self.put(intent)),
            ToSite::Withdraw(_) | ToSite::Gone(_) => {}
        }
    }

    /// Nothing is written before the hub has stored that this site may hold something.
    fn about_itself(&self, recorded: bool) -> SiteReport {
        let waits = Finding::note(aifactory_api::Reason::Pending, "waits until the hub has stored that this site may hold something");
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.get(&self.key).into_iter().flatten().map(|owner| (owner.clone(), Held::Live)).collect();
        SiteReport {
            reachable: recorded,
            synced: recorded,
            problem: (!recorded).then_some(waits),
            cluster_uid: Some(self.key.site.clone()),
            held,
            ..SiteReport::default()
        }
    }

    fn put(&self, intent: &Intent) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.entry(self.key.clone()).or_default();
        let ended = matches!(&intent.body, Body::Grant(grant) if matches!(grant.desired, Desired::Ended { .. }));
        let changed = if ended { held.remove(&intent.owner) } else { held.insert(intent.owner.clone()) };
        if changed {
            let change = HeldChange { owner: intent.owner.clone(), held: (!ended).then_some(Held::Live), orphan: false };
            self.hub.send(FromSite::Held(vec![change]));
        }
        self.hub.send(FromSite::About(Box::new(report(intent, ended))));
    }
}

fn report(intent: &Intent, ended: bool) -> Report {
    let detail = match &intent.body {
        Body::Grant(_) if ended => Detail::Grant(GrantDetail { access_removed: true, ..GrantDetail::default() }),
        Body::Pool(_) => Detail::Pool(PoolDetail { wanted: 16, ready: 16, gpus: 64, allocated: Some(8), ..PoolDetail::default() }),
        Body::Grant(grant) => Detail::Grant(GrantDetail {
            members_wanted: 1,
            members_bound: 1,
            isolated: true,
            usage: grant.pools.iter().map(|pool| (pool.entry.clone(), EntryUsage { used: 3600, ..EntryUsage::default() })).collect(),
            ..GrantDetail::default()
        }),
    };
    Report::answering(intent, if ended { SitePhase::Gone } else { SitePhase::Bound }, detail)
}
