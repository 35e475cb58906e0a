//! A site's Slurm in the event loop: contact, passes call by call, and who may act there.

use std::collections::VecDeque;

use aifactory_api::{OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::{Call, RowKey, SlurmScope};
use aifactory_plan::model::id::{AccountName, ClusterName, HubId};
use aifactory_plan::model::report::Finding;

use super::cast::{self, HUB, SITES, SLURM};
use super::clock::SECOND;
use super::controller::WorkerId;
use super::sim::{Event, Link, Sim, Who};
use super::slurm_worker::{Contact, Out};

/// Calls of one round on their way.
pub struct Round {
    pub worker: WorkerId,
    pub session: u64,
    pub number: usize,
    pub calls: VecDeque<(OwnerRef, Call)>,
    failed: Vec<OwnerRef>,
}

/// The names of the cluster.
pub fn scope() -> SlurmScope {
    let name = SITES[SLURM];
    SlurmScope { hub: HubId::new(HUB), factory: cast::factory(0), site: name.to_owned(), cluster: ClusterName::new(name) }
}

impl Sim {
    pub fn after_slurm_worker(&mut self, id: WorkerId, out: Out) {
        match out {
            Out::Send(message) => {
                let key = aifactory_plan::model::site_key::SiteKey::slurm(cast::factory(0), SITES[SLURM]);
                self.send(key, id, message);
            }
            Out::Contact => self.push(self.now + 2, Event::SlurmContact(id)),
            Out::Wake(at) => self.wake(Who::Slurm(id), at),
            Out::Pass => {
                let session = self.slurm_workers.get(&id).and_then(|worker| worker.session()).unwrap_or_default();
                self.push(self.now + self.write_lag[SLURM], Event::SlurmRound(id, session, 0));
            }
        }
    }

    pub fn slurm_contact(&mut self, id: WorkerId) {
        let snapshot = self.slurm.read();
        let fresh = format!("claim-{}", self.steps);
        let link = self.links[SLURM];
        let Some(worker) = self.slurm_workers.get_mut(&id).filter(|worker| worker.session().is_none()) else { return };
        let result =
            if link == Link::Up { worker.look(&snapshot, &fresh) } else { Err(Finding::note(Reason::SiteUnreachable, "Slurm does not answer")) };
        let again = result.is_err();
        match result {
            Ok((contact, claim)) => {
                worker.contacted(contact);
                if let Some(claim) = claim {
                    self.slurm.account(&claim.account(), &AccountName::new("eu-aif"), &claim.render());
                    self.last_write = self.now;
                }
            }
            Err(problem) => worker.contacted(Contact::Failed(problem)),
        }
        self.wake(Who::Slurm(id), self.now);
        if again {
            self.push(self.now + 5 * SECOND, Event::SlurmContact(id));
        }
    }

    pub fn slurm_round(&mut self, id: WorkerId, session: u64, number: usize) {
        let (snapshot, link, now) = (self.slurm.read(), self.links[SLURM], self.now);
        let Some(worker) = self.slurm_workers.get_mut(&id).filter(|worker| worker.session() == Some(session)) else { return };
        let result = if link == Link::Up { worker.round(&snapshot, number, now) } else { Err(Finding::note(Reason::SiteUnreachable, "no answer")) };
        match result {
            Ok(calls) if calls.is_empty() => {
                if let Some(account) = worker.pass_ended(now) {
                    let _ = self.slurm.apply(&Call::DeleteAccount(account));
                }
                self.wake(Who::Slurm(id), now);
            }
            Ok(calls) => {
                let round = Round { worker: id, session, number, calls: calls.into(), failed: Vec::new() };
                self.push(now + self.write_lag[SLURM], Event::SlurmCall(Box::new(round)));
            }
            Err(problem) => {
                worker.pass_failed(problem);
                self.wake(Who::Slurm(id), now);
            }
        }
    }

    /// One request of a pass arrives.
    pub fn slurm_call(&mut self, mut round: Round) {
        let Some((owner, call)) = round.calls.pop_front() else {
            self.slurm_round(round.worker, round.session, round.number + 1);
            return;
        };
        let alive = self.slurm_workers.get(&round.worker).is_some_and(|worker| worker.session() == Some(round.session));
        let link = self.links[SLURM];
        let skipped = round.failed.contains(&owner) && !call.stage().removes_access();
        let result = if link == Link::Down || skipped { None } else { Some(self.slurm.apply(&call)) };
        if result.is_some() {
            self.last_write = self.now;
            self.last_action = format!("Slurm: {call}");
            self.trace(|| format!("Slurm {owner}: {call} {result:?}"));
            if !alive {
                self.watchman.late_write(SLURM, &owner);
            }
        }
        let Some(worker) = self.slurm_workers.get_mut(&round.worker).filter(|_| alive) else { return };
        if link != Link::Up {
            worker.pass_failed(Finding::note(Reason::SiteUnreachable, "Slurm did not answer in time"));
            self.wake(Who::Slurm(round.worker), self.now + 15 * SECOND);
            return;
        }
        match result {
            Some(Ok(())) => worker.made(&call),
            Some(Err(number)) => {
                worker.refused(&owner, number);
                round.failed.push(owner);
            }
            None => {}
        }
        self.push(self.now + self.write_lag[SLURM], Event::SlurmCall(Box::new(round)));
    }

    /// Users who can submit jobs through a grant.
    pub fn acting_in_slurm(&self, owner: &OwnerRef) -> Vec<String> {
        let account = scope().account(owner);
        let (state, open) = (&self.slurm.state, |key: &RowKey| !key.user.is_empty());
        let rows = state.rows.iter().filter(|(key, _)| key.account == account && open(key));
        let usable = rows.filter(|(_, row)| !row.locked() && state.qos.get(&row.default_qos).is_none_or(|qos| !qos.locked()));
        usable.map(|(key, _)| format!("Slurm user {}", key.user)).collect()
    }
}
