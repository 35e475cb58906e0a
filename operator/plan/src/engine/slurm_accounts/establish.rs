//! What a living grant is in a Slurm cluster: first its QOS, then the account, then the account's association, then the members'.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::Reason;

use super::call::{Call, Stage};
use super::decide::Planner;
use super::found::{Place, adopt_mark, adoptable};
use super::members::{Members, member_hash};
use super::record::{Record, RowMark, State};
use super::state::{Row, RowKey};
use super::target::{self, Target};
use crate::model::id::{PartitionName, QosName};
use crate::model::intent::{GrantIntent, GrantPoolIntent, Intent, Refusal};
use crate::model::lifecycle::Work;
use crate::model::report::{Finding, SitePhase};
use crate::model::text::{bounded, shorten};

/// A granted pool at this site, as Slurm sees it.
struct Entry<'p> {
    pool: &'p GrantPoolIntent,
    partition: &'p PartitionName,
    target: Target,
}

/// An association that is wanted.
struct Wanted {
    qos: QosName,
    member: String,
}

impl Planner<'_> {
    /// Makes what members need, locked where no new work may start.
    pub fn establish(&mut self, intent: &Intent, grant: &GrantIntent, work: Work) {
        let nothing = grant.pools.iter().all(|pool| pool.partition.is_none());
        if nothing && self.found.record.is_none() {
            return;
        }
        if self.taken_back(intent, grant) {
            return;
        }
        if self.foreign(intent, grant) {
            // It holds up what would be new, and nobody's end.
            self.hold(grant, work);
            return;
        }
        let (open, state) = match work {
            Work::Open => (true, State::Bound),
            Work::Paused => (false, State::Paused),
        };
        let since = self.found.record.as_ref().map_or(self.now, |record| record.since);
        let record = Record::new(&self.scope, self.owner, &intent.uid, &grant.code, state, since);
        let entries = self.entries(grant, &record, open);
        let blocked = self.blocked(&entries);

        self.qos(&entries, &record);
        let ready = |entry: &&Entry<'_>| self.found.qos.get(&entry.target.name).is_some_and(|(qos, _)| entry.target.holds(qos));
        let all_ready = !entries.is_empty() && entries.iter().all(|entry| ready(&entry));
        let names: Vec<QosName> = entries.iter().filter(ready).map(|entry| entry.target.name.clone()).collect();
        let usable = match self.found.place {
            Place::Ours | Place::Absent => self.account(grant, &record, &names, all_ready),
            Place::Adopted => all_ready && self.view.snapshot.rows.contains_key(&RowKey::account(&self.found.account)),
            Place::Foreign => false,
        };
        self.rows(grant, &entries, usable && !blocked && !self.view.policy.paused);
        if blocked {
            self.only_removals();
            self.phase = SitePhase::Refused;
        }
    }

    fn entries<'p>(&mut self, grant: &'p GrantIntent, record: &Record, open: bool) -> Vec<Entry<'p>> {
        let ceiling = self.ceiling();
        let mut entries: Vec<Entry<'p>> = Vec::new();
        for pool in &grant.pools {
            let Some(partition) = pool.partition.as_ref() else { continue };
            if let Some(other) = entries.iter().find(|entry| entry.partition == partition) {
                let message =
                    format!("pools {:?} and {:?} are both partition {partition} here; the first one is given", other.pool.entry, pool.entry);
                self.findings.push(Finding::stalled(Reason::InvalidSpec, message));
                continue;
            }
            let name = self.scope.qos(self.owner, &pool.entry);
            let locked = !open || !pool.open;
            // What drains is not made for it.
            if !pool.open && !self.found.qos.contains_key(&name) {
                continue;
            }
            if ceiling.lowers(pool) {
                let message = format!(
                    "QOS {name} gets less than the grant says, since an account above has GrpTRES gres/gpu={} and GrpTRESMins gres/gpu={}",
                    shown(ceiling.gpus),
                    shown(ceiling.gpu_minutes)
                );
                self.findings.push(Finding::note(Reason::RefusedBySite, message));
            }
            let limits = target::limits(pool, &grant.caps, ceiling, locked);
            let description = record.for_qos(&self.found.account, &pool.entry).render();
            entries.push(Entry { pool, partition, target: Target { name, description, limits, locked } });
        }
        entries
    }

    /// Whether the site does not let the grant use its account any more; then access ends.
    fn taken_back(&mut self, intent: &Intent, grant: &GrantIntent) -> bool {
        let (account, adopt) = (&self.found.account, adopt_mark(&grant.code));
        if self.found.place != Place::Adopted || adoptable(self.view.snapshot, &grant.code).any(|name| name == account) {
            return false;
        }
        let message = format!("account {account} does not say {adopt} any more: the site has taken it back. Put it into its description again");
        self.refuse(intent, grant, &Refusal { reason: Reason::RefusedBySite, message });
        true
    }

    /// Whether an object of our name is somebody else's; then nothing is made.
    fn foreign(&mut self, intent: &Intent, grant: &GrantIntent) -> bool {
        let account = self.found.account.clone();
        let adopt = adopt_mark(&grant.code);
        let mut messages = Vec::new();
        if self.found.place == Place::Foreign {
            messages.push(format!(
                "account {account} is there and not ours. Delete it, or let this grant use it: sacctmgr modify account {account} set description=\"{adopt}\""
            ));
        }
        for pool in grant.pools.iter().filter(|pool| pool.partition.is_some()) {
            let name = self.scope.qos(self.owner, &pool.entry);
            if self.view.snapshot.qos.contains_key(&name) && !self.found.qos.contains_key(&name) {
                let record = Record::new(&self.scope, self.owner, &intent.uid, &grant.code, State::Paused, intent.created);
                let text = record.for_qos(&account, &pool.entry).render();
                messages.push(format!(
                    "QOS {name} is there and not ours. Delete it, or hand it over: sacctmgr modify qos {name} set description=\"{text}\""
                ));
            }
        }
        self.phase = if messages.is_empty() { self.phase } else { SitePhase::Refused };
        let found = !messages.is_empty();
        self.findings.extend(messages.into_iter().map(|message| Finding::stalled(Reason::ForeignObject, message)));
        found
    }

    /// Whether this cluster can not give what the grant asks for.
    fn blocked(&mut self, entries: &[Entry<'_>]) -> bool {
        let before = self.findings.len();
        let snapshot = self.view.snapshot;
        if !entries.is_empty() && !snapshot.tres.contains("gres/gpu") {
            let message = "this Slurm does not count gres/gpu, so no budget works. Add to slurm.conf: AccountingStorageTRES=gres/gpu";
            self.findings.push(Finding::stalled(Reason::SlurmConfiguration, message));
        }
        for entry in entries.iter().filter(|entry| entry.pool.open && !snapshot.partitions.contains(entry.partition)) {
            let message = format!("pool {:?}: this Slurm has no partition {}", entry.pool.pool, entry.partition);
            self.findings.push(Finding::stalled(Reason::PartitionNotReady, message));
        }
        let parent = self.parent();
        if self.found.place == Place::Absent && !entries.is_empty() && !snapshot.accounts.contains_key(&parent) {
            let message = format!("account {parent}, below which grants' accounts are made, is not there. Make it: sacctmgr add account {parent}");
            self.findings.push(Finding::stalled(Reason::ParentAccountMissing, message));
        }
        self.findings.len() > before
    }

    fn qos(&mut self, entries: &[Entry<'_>], record: &Record) {
        let mut calls = Vec::new();
        for entry in entries {
            let found = self.found.qos.get(&entry.target.name).map(|(qos, _)| *qos);
            // A paused site gives nothing, and is given less all the same.
            match found.filter(|_| self.view.policy.paused).and_then(|found| entry.target.lowered(found)) {
                Some(call) => self.note_down(call),
                None => calls.extend(entry.target.call(found)),
            }
        }
        // An entry that was dropped: its QOS stays, locked, for what was used of it.
        for (name, (qos, said)) in &self.found.qos {
            if entries.iter().any(|entry| entry.target.name == **name) {
                continue;
            }
            let description = record.for_qos(&self.found.account, said.entry.as_deref().unwrap_or_default()).render();
            let target = Target { name: (*name).clone(), description, limits: target::lock(&qos.limits), locked: true };
            calls.extend(target.call(Some(qos)));
        }
        calls.into_iter().for_each(|call| self.ask(call));
    }

    /// Makes the account and its own association; whether both were read as they shall be.
    fn account(&mut self, grant: &GrantIntent, record: &Record, names: &[QosName], all_ready: bool) -> bool {
        let (snapshot, account) = (self.view.snapshot, self.found.account.clone());
        let key = RowKey::account(&account);
        let parent = self.parent();
        let organization: String = shorten(&grant.organisation, 200).chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\'' | '\\')).collect();
        let Some(row) = snapshot.rows.get(&key).filter(|_| self.found.place == Place::Ours) else {
            if all_ready && snapshot.accounts.contains_key(&parent) {
                self.ask(Call::Account { name: account, parent, description: record.render(), organization });
            }
            return false;
        };
        if let Some(found) = snapshot.accounts.get(&account)
            && (found.description != record.render() || found.organization != organization)
        {
            self.ask(Call::Describe { name: account, description: record.render(), organization });
        }
        let qos: BTreeSet<QosName> = names.iter().cloned().collect();
        let Some(default_qos) = names.first().filter(|_| all_ready).cloned() else { return false };
        if row.qos == qos && row.default_qos == default_qos && row.parent == parent && row.submitted_jobs.is_none() && row.running_jobs.is_none() {
            return true;
        }
        let comment = RowMark::new(&self.scope, self.owner, None).render();
        self.ask(Call::Row { stage: Stage::Rows, key, qos, default_qos, parent: Some(parent), locked: false, comment });
        false
    }

    /// Makes members' associations once all that they refer to was read, and removes what is not wanted.
    fn rows(&mut self, grant: &GrantIntent, entries: &[Entry<'_>], usable: bool) {
        let members = Members::read(grant, self.view.users, self.view.policy);
        self.report_members(&members);
        let wanted = self.wanted_rows(&members, entries);
        let ours: BTreeMap<RowKey, Row> =
            self.found.rows(self.view.snapshot, &self.scope, self.owner).map(|(key, row)| (key.clone(), row.clone())).collect();
        let (mended, missing) = self.make_rows(&wanted, &ours, usable);
        let any_open = entries.iter().any(|entry| entry.pool.open);
        self.members_bound = members.users.keys().filter(|id| any_open && !missing.contains(member_hash(id).as_str())).count();
        self.lock_strays(&mended);
        self.remove_unwanted_rows(grant, entries, ours.iter().filter(|(key, _)| !wanted.contains_key(key)));
    }

    /// The associations that members need: one for each open pool.
    fn wanted_rows(&self, members: &Members, entries: &[Entry<'_>]) -> BTreeMap<RowKey, Wanted> {
        let mut wanted = BTreeMap::new();
        for (id, user) in &members.users {
            for entry in entries.iter().filter(|entry| entry.pool.open) {
                let key = RowKey { account: self.found.account.clone(), user: user.clone(), partition: entry.partition.clone() };
                wanted.insert(key, Wanted { qos: entry.target.name.clone(), member: member_hash(id) });
            }
        }
        wanted
    }

    /// Makes or corrects what is wanted; those associations, and the members who lack one so far.
    fn make_rows<'w>(
        &mut self,
        wanted: &'w BTreeMap<RowKey, Wanted>,
        ours: &BTreeMap<RowKey, Row>,
        usable: bool,
    ) -> (BTreeSet<RowKey>, BTreeSet<&'w str>) {
        let mut mended = BTreeSet::new();
        let mut missing = BTreeSet::new();
        for (key, wanted) in wanted {
            match ours.get(key) {
                Some(row) if wanted.is_met(key, row) && has_lineage(key, row) => continue,
                Some(row) if wanted.is_met(key, row) => {
                    let message = format!("{key} was made with the wrong lineage {:?}; delete it with sacctmgr, and it is made anew", row.lineage);
                    self.findings.push(Finding::stalled(Reason::NotWritten, message));
                }
                None if self.view.snapshot.rows.contains_key(key) => {
                    let message = format!("{key} is the site's own and stays as it is; delete it there, and the grant gets one of its own");
                    self.findings.push(Finding::stalled(Reason::ForeignObject, message));
                }
                // Until the site's map is read it may be that another user is meant.
                None if self.view.users.is_none() => {}
                _ if !usable => {}
                _ => {
                    mended.insert(key.clone());
                    let comment = RowMark::new(&self.scope, self.owner, Some(wanted.member.clone())).render();
                    self.ask(wanted.call(key, comment));
                }
            }
            missing.insert(wanted.member.as_str());
        }
        (mended, missing)
    }

    /// Removes associations of ours that nobody is to have any more.
    fn remove_unwanted_rows<'r>(&mut self, grant: &GrantIntent, entries: &[Entry<'_>], unwanted: impl Iterator<Item = (&'r RowKey, &'r Row)>) {
        let ids: BTreeSet<String> = grant.members.iter().map(|member| member_hash(&member.id)).collect();
        for (key, row) in unwanted {
            let open = entries.iter().any(|entry| entry.pool.open && *entry.partition == key.partition);
            let unsure = self.view.users.is_none() && RowMark::parse(&row.comment).and_then(|mark| mark.member).is_some_and(|id| ids.contains(&id));
            // One that strays and is open was locked above.
            let locked_first = self.found.strays(row) && !row.locked();
            if locked_first || (open && unsure) {
                continue;
            }
            self.remove_row(key, row);
        }
    }

    /// Says which members have no user here that can be theirs.
    fn report_members(&mut self, members: &Members) {
        for (ids, text) in [
            (&members.waiting, "have no user in this Slurm; the site names it in aifactory-slurm-users (member id: user)"),
            (&members.taken, "have the user of another member, who has it; the site names another in aifactory-slurm-users"),
            (&members.unfit, "have a user of the system or a name that can not be one; the site names another in aifactory-slurm-users"),
        ] {
            if !ids.is_empty() {
                self.findings.push(Finding::note(Reason::LocalAccountMissing, format!("members {} {text}", bounded(ids))));
            }
        }
    }
}

impl Wanted {
    /// Whether an association is what is wanted, and open.
    fn is_met(&self, key: &RowKey, row: &Row) -> bool {
        row.qos.len() == 1
            && row.qos.contains(&self.qos)
            && row.default_qos == self.qos
            && row.submitted_jobs.is_none()
            && row.running_jobs.is_none()
            && !key.partition.is_empty()
    }

    /// The call that makes it.
    fn call(&self, key: &RowKey, comment: String) -> Call {
        Call::Row {
            stage: Stage::Rows,
            key: key.clone(),
            qos: BTreeSet::from([self.qos.clone()]),
            default_qos: self.qos.clone(),
            parent: None,
            locked: false,
            comment,
        }
    }
}

/// Whether Slurm has put an association where its key says.
fn has_lineage(key: &RowKey, row: &Row) -> bool {
    row.lineage.ends_with(&format!("/{}/0-{}/{}/", key.account, key.user, key.partition))
}

fn shown(limit: Option<i64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
