//! One pass over a cluster: read, plan, ask, and read again, until what is wanted was read, or until a grant changes or ends: what is left then goes
//! on together with that, so that nobody waits for a long pass who is to lose access.

mod heard;

pub(super) use heard::Heard;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::{
    self, AccountPlan, AccountView, Call, HeldAccount, RemovalProgress, SlurmScope, Snapshot, Stage, Standing,
};
use aifactory_plan::model::id::{AccountName, PartitionName, UserName};
use aifactory_plan::model::intent::{Body, GrantIntent, Intent, Refusal, SiteConfig, SiteIntent};
use aifactory_plan::model::report::Finding;
use aifactory_plan::site::policy::SitePolicy;
use jiff::Timestamp;

use crate::site::slurm::claim::{self, NoClaim};
use crate::site::slurm::client::SlurmClient;
use crate::site::slurm::error::SlurmError;
use crate::site::slurm::{read, write};
use crate::transport::DesiredSet;

/// Rounds of asking and reading again; a new grant takes four.
const ROUNDS: usize = 8;

/// Whom a pass is about.
pub(super) enum Scope {
    Everything,
    Owners(BTreeSet<OwnerRef>),
}

/// A pass, and what came of it.
pub(super) struct Pass {
    pub about: Scope,
    site: SiteIntent,
    scope: SlurmScope,
    intents: BTreeMap<OwnerRef, Arc<Intent>>,
    gone: BTreeSet<OwnerRef>,
    config: Option<SiteConfig>,
    policy: SitePolicy,
    pub memory: Memory,
    /// The id of the claim under which it writes; `None`: it only reads.
    claim: Option<String>,
    pub result: Result<Found, NoClaim>,
}

/// What is remembered from one pass to the next, beside what the hub wants.
pub(super) struct Memory {
    /// The last intents of grants that were deleted from the hub while they were being ended here.
    pub ending: BTreeMap<OwnerRef, Arc<Intent>>,
    /// The users of each account who have jobs.
    pub busy: BTreeMap<AccountName, BTreeSet<UserName>>,
    pub removals: RemovalProgress,
    pub heard: Heard,
}

/// What a pass found.
#[derive(Default)]
pub(super) struct Found {
    pub plans: BTreeMap<OwnerRef, AccountPlan>,
    /// What Slurm refused, or did not do though it said so.
    pub failures: BTreeMap<OwnerRef, Vec<Finding>>,
    pub held: BTreeMap<OwnerRef, HeldAccount>,
    /// Whose plans wait for the next pass.
    pub unfinished: BTreeSet<OwnerRef>,
    /// Read with everything only.
    pub partitions: Option<BTreeMap<PartitionName, read::partition::PartitionView>>,
    /// A budget was changed: what is used is worth a look.
    pub budgets_changed: bool,
    /// The claim was given up, or was nobody's of ours.
    pub released: bool,
}

impl Pass {
    pub fn new(about: Scope, site: SiteIntent, desired: DesiredSet, config: Option<SiteConfig>, memory: Memory, claim: Option<String>) -> Self {
        let mut policy = config.as_ref().map(|config| SitePolicy::parse(&config.policy)).unwrap_or_default();
        // Until the site's config is read it may be that nothing is to be given.
        policy.paused |= config.is_none();
        let scope = slurm_accounts::scope(&site);
        let DesiredSet { intents, tombstones: gone } = desired;
        Self { about, site, scope, intents, gone, config, policy, memory, claim, result: Ok(Found::default()) }
    }

    /// Does it; `news` is set by somebody else meanwhile.
    pub async fn run(mut self, client: &SlurmClient, news: &AtomicBool) -> Self {
        self.result = self.work(client, news).await;
        self
    }

    async fn work(&mut self, client: &SlurmClient, news: &AtomicBool) -> Result<Found, NoClaim> {
        let Some(slurm) = &self.site.slurm else { return Ok(Found::default()) };
        let parent = slurm.rest.as_ref().map(|rest| AccountName::new(&rest.parent_account)).unwrap_or_default();
        let mut found = Found::default();
        let (accounts, qos, tres, partitions) =
            tokio::try_join!(read::accounts(client), read::qos(client), read::tres(client), read::partition_names(client))?;
        let mut snapshot = Snapshot { accounts, qos, tres, partitions, ..Snapshot::default() };
        if matches!(self.about, Scope::Everything) {
            found.partitions = Some(read::partitions(client).await?);
        }
        let mut names = self.accounts(&snapshot);
        names.insert(parent);
        self.read_rows(client, &names, &mut snapshot).await?;
        let refusals = self.policy.refusals(self.intents.values().map(AsRef::as_ref));
        for round in 0..=ROUNDS {
            self.check_claim(&snapshot)?;
            let calls = self.plan_round(round, &snapshot, &refusals, &mut found);
            if calls.is_empty() {
                break;
            }
            if round > 0 && news.load(Ordering::Relaxed) {
                found.unfinished = calls.into_iter().map(|(owner, _)| owner).collect();
                break;
            }
            let stages: BTreeSet<Stage> = calls.iter().map(|(_, call)| call.stage()).collect();
            found.budgets_changed |= stages.contains(&Stage::Qos) || stages.contains(&Stage::Lock);
            names.extend(calls.iter().filter_map(|(_, call)| account_of(call)));
            self.make(client, calls, &mut found).await?;
            self.read_changed(client, &stages, &names, &mut snapshot).await?;
        }
        if matches!(self.about, Scope::Everything) {
            self.memory.removals.retain(&snapshot);
        }
        self.confirm(client, &snapshot, &mut found).await?;
        found.released = self.release(client, &found, &snapshot).await?;
        Ok(found)
    }

    /// Plans everybody's next calls from what was read. After the last round whoever has calls left has failed.
    fn plan_round(&self, round: usize, snapshot: &Snapshot, refusals: &BTreeMap<OwnerRef, Refusal>, found: &mut Found) -> Vec<(OwnerRef, Call)> {
        found.held = slurm_accounts::held(snapshot, &self.scope);
        let now = Timestamp::now();
        let mut calls = Vec::new();
        for owner in self.owners(&found.held) {
            let Some(plan) = self.plan(&owner, snapshot, &found.held, refusals, now) else { continue };
            if self.claim.is_none() {
                found.plans.insert(owner, plan);
                continue;
            }
            if !found.failures.contains_key(&owner) && round < ROUNDS {
                calls.extend(plan.calls.iter().cloned().map(|call| (owner.clone(), call)));
            } else if !plan.calls.is_empty() {
                found.failures.entry(owner.clone()).or_insert_with(|| vec![not_written(&plan.calls)]);
            }
            found.plans.insert(owner, plan);
        }
        calls
    }

    /// Makes the calls, and takes note of what was made and of what Slurm refused.
    async fn make(&mut self, client: &SlurmClient, calls: Vec<(OwnerRef, Call)>, found: &mut Found) -> Result<(), SlurmError> {
        let failures = write::execute(client, &self.scope.cluster, calls.clone()).await;
        let made = |owner: &OwnerRef, call: &Call| !failures.iter().any(|(failed, at, _)| failed == owner && at.stage() <= call.stage());
        for (_, call) in calls.iter().filter(|(owner, call)| made(owner, call)) {
            self.memory.removals.record(call);
            if let Call::DeleteRow(key) = call {
                self.memory.heard.removed_from.insert(key.account.clone());
            }
        }
        for (owner, call, error) in failures {
            if error.is_transport() {
                return Err(error);
            }
            found.failures.entry(owner).or_default().push(error.about(&call));
        }
        Ok(())
    }

    /// Reads again what calls of these stages may have changed.
    async fn read_changed(
        &self,
        client: &SlurmClient,
        stages: &BTreeSet<Stage>,
        names: &BTreeSet<AccountName>,
        snapshot: &mut Snapshot,
    ) -> Result<(), SlurmError> {
        if stages.iter().any(|stage| matches!(stage, Stage::Lock | Stage::Qos | Stage::DeleteQos)) {
            snapshot.qos = read::qos(client).await?;
        }
        if stages.iter().any(|stage| matches!(stage, Stage::Accounts | Stage::Describe | Stage::DeleteAccounts)) {
            snapshot.accounts = read::accounts(client).await?;
        }
        if stages.iter().any(|stage| !matches!(stage, Stage::Lock | Stage::Qos | Stage::DeleteQos | Stage::Describe | Stage::EndJobs)) {
            self.read_rows(client, names, snapshot).await?;
        }
        Ok(())
    }

    /// Whether the cluster is still this site's. Somebody may have deleted the claim, and somebody else made one.
    fn check_claim(&self, snapshot: &Snapshot) -> Result<(), NoClaim> {
        match (claim::stands(&self.site, snapshot), &self.claim) {
            (Standing::Ours(id), Some(claim)) if id == *claim => Ok(()),
            (Standing::Refused(finding), Some(_)) => Err(NoClaim::Finding(finding)),
            (_, Some(_)) => Err(NoClaim::Finding(Finding::note(Reason::Pending, "this site's claim on the cluster is not there any more"))),
            (_, None) if claim::lives(&self.site, snapshot) => {
                Err(NoClaim::Finding(Finding::note(Reason::Pending, "something of this site is in the cluster again, after its claim was given up")))
            }
            (_, None) => Ok(()),
        }
    }

    /// Gives the claim up where the site is to be let go and nothing of it is in use; whether it is not this site's any more.
    async fn release(&self, client: &SlurmClient, found: &Found, snapshot: &Snapshot) -> Result<bool, NoClaim> {
        let closed = slurm_accounts::all_closed(&found.held, &found.plans);
        let done = closed && found.unfinished.is_empty() && !claim::lives(&self.site, snapshot);
        if !self.site.release || !done {
            return Ok(false);
        }
        if self.claim.is_none() {
            return Ok(true);
        }
        tracing::info!(site = %self.site.site, "Nothing of this site is in use in the cluster: its claim is given up");
        let accounts = claim::give_up(client, &self.site).await?;
        Ok(!matches!(slurm_accounts::standing(&self.site, &accounts, false), Standing::Ours(_)))
    }

    async fn read_rows(&self, client: &SlurmClient, names: &BTreeSet<AccountName>, snapshot: &mut Snapshot) -> Result<(), SlurmError> {
        let existing: BTreeSet<AccountName> = names.iter().filter(|name| snapshot.accounts.contains_key(*name)).cloned().collect();
        let above = snapshot.rows.values().map(|row| row.parent.clone()).filter(|parent| !parent.is_empty()).collect();
        (snapshot.rows, snapshot.accounts_of) = read::rows(client, &self.scope.cluster, &existing, &above).await?;
        Ok(())
    }

    /// The accounts whose associations are read.
    fn accounts(&self, snapshot: &Snapshot) -> BTreeSet<AccountName> {
        let held = slurm_accounts::held(snapshot, &self.scope);
        let owners = self.owners(&held);
        let mut names: BTreeSet<AccountName> = owners
            .iter()
            .flat_map(|owner| {
                let known = held.get(owner).map(|held| held.account.clone());
                [self.scope.account(owner)].into_iter().chain(known)
            })
            .collect();
        for owner in &owners {
            if let Some((_, grant)) = self.grant(owner) {
                names.extend(slurm_accounts::adoptable(snapshot, &grant.code).cloned());
            }
        }
        names.extend(slurm_accounts::silent_accounts(snapshot).cloned());
        names
    }

    fn owners(&self, held: &BTreeMap<OwnerRef, HeldAccount>) -> BTreeSet<OwnerRef> {
        match &self.about {
            Scope::Everything => {
                self.intents.keys().chain(&self.gone).chain(held.keys()).filter(|owner| owner.kind == Kind::AccessGrant).cloned().collect()
            }
            Scope::Owners(owners) => owners.clone(),
        }
    }

    fn grant(&self, owner: &OwnerRef) -> Option<(&Intent, &GrantIntent)> {
        let intent = self.intents.get(owner)?;
        match &intent.body {
            Body::Grant(grant) => Some((intent, grant)),
            Body::Pool(_) => None,
        }
    }

    fn plan(
        &self,
        owner: &OwnerRef,
        snapshot: &Snapshot,
        held: &BTreeMap<OwnerRef, HeldAccount>,
        refusals: &BTreeMap<OwnerRef, Refusal>,
        now: Timestamp,
    ) -> Option<AccountPlan> {
        let nobody = BTreeSet::new();
        let account = held.get(owner).map_or_else(|| self.scope.account(owner), |held| held.account.clone());
        let view = AccountView {
            snapshot,
            policy: &self.policy,
            users: self.config.as_ref().map(|config| &config.users),
            refused: refusals.get(owner),
            busy: self.memory.busy.get(&account).unwrap_or(&nobody),
            removals: &self.memory.removals,
        };
        match self.grant(owner) {
            Some((intent, grant)) => Some(slurm_accounts::plan_grant(&self.site, intent, grant, &view, now)),
            None if self.gone.contains(owner) => {
                let ending = self.memory.ending.get(owner).map(AsRef::as_ref);
                held.get(owner).map(|held| slurm_accounts::plan_gone(&self.site, owner, held, ending, &view, now))
            }
            None => None,
        }
    }
}

fn account_of(call: &Call) -> Option<AccountName> {
    match call {
        Call::Account { name, .. } | Call::Describe { name, .. } => Some(name.clone()),
        Call::Row { key, .. } | Call::DeleteRow(key) => Some(key.account.clone()),
        Call::Qos { .. } | Call::EndJobs { .. } | Call::Default { .. } | Call::DeleteAccount(_) | Call::DeleteQos(_) => None,
    }
}

/// Slurm said that it was done, again and again, and it was not there.
fn not_written(calls: &[Call]) -> Finding {
    let what: Vec<String> = calls.iter().map(Call::to_string).collect();
    Finding::note(Reason::NotWritten, format!("Slurm did not keep what it was asked for: {}", aifactory_plan::model::text::bounded(&what)))
}
