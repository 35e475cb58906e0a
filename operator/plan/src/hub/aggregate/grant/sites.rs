//! One row of status for each site, though a site may have two parts.

use std::collections::BTreeSet;

use aifactory_api::OwnerRef;
use aifactory_api::grant::{AccessGrant, GrantAccess, GrantSiteStatus, KubernetesAccess, LocalBudget, MemberCount, SiteRowPhase, SlurmAccess};

use super::row::Row;
use crate::hub::aggregate::usage;
use crate::hub::cache::Cache;
use crate::model::budget;
use crate::model::report::GrantDetail;
use crate::model::site_key::Part;
use crate::model::text::shorten;

/// As many budgets, QOS and partitions as the schema allows.
const ENTRIES: usize = 16;

/// Which part's phase a site shows: while access is being removed, that of the part which is furthest from having removed it.
const ENDING: [SiteRowPhase; 7] = [
    SiteRowPhase::Unknown,
    SiteRowPhase::Pending,
    SiteRowPhase::Bound,
    SiteRowPhase::Paused,
    SiteRowPhase::Refused,
    SiteRowPhase::Locked,
    SiteRowPhase::Gone,
];
/// While access is given, that of the part which gives least.
const GIVING: [SiteRowPhase; 7] = [
    SiteRowPhase::Refused,
    SiteRowPhase::Unknown,
    SiteRowPhase::Pending,
    SiteRowPhase::Gone,
    SiteRowPhase::Locked,
    SiteRowPhase::Paused,
    SiteRowPhase::Bound,
];

/// A site with its parts.
pub struct Merged<'r, 'a> {
    pub parts: Vec<&'r Row<'a>>,
    pub phase: SiteRowPhase,
}

/// Joins the parts of each site.
pub fn merge<'r, 'a>(rows: &'r [Row<'a>], ended: bool) -> Vec<Merged<'r, 'a>> {
    let mut sites: Vec<Merged<'r, 'a>> = Vec::new();
    for row in rows {
        match sites
            .iter_mut()
            .find(|site| site.parts.iter().any(|part| part.standing.key.factory == row.standing.key.factory && part.name == row.name))
        {
            Some(site) => site.parts.push(row),
            None => sites.push(Merged { parts: vec![row], phase: SiteRowPhase::Unknown }),
        }
    }
    for site in &mut sites {
        let meant = site.meant();
        let order = if ended || !meant { &ENDING } else { &GIVING };
        let rank = |phase: &SiteRowPhase| order.iter().position(|known| known == phase).unwrap_or(0);
        let counted = site.parts.iter().filter(|part| part.meant || !meant);
        site.phase = counted.map(|part| part.phase).min_by_key(rank).unwrap_or_default();
    }
    sites
}

impl Merged<'_, '_> {
    pub fn placed(&self) -> bool {
        self.parts.iter().any(|part| part.placed)
    }

    fn meant(&self) -> bool {
        self.parts.iter().any(|part| part.meant)
    }

    /// Whether status has a row for it: the grant names the site, or the site holds something of the grant.
    pub fn shown(&self) -> bool {
        self.placed() || self.phase != SiteRowPhase::Gone
    }

    /// Whether the site holds what is asked for.
    pub fn good(&self) -> bool {
        self.parts.iter().all(|row| !row.placed || (row.confirmed && !row.refused))
    }

    pub fn status(&self, cache: &Cache, grant: &AccessGrant, home: &OwnerRef) -> GrantSiteStatus {
        let name = self.parts.first().map(|part| part.name.clone()).unwrap_or_default();
        let live = self.parts.iter().any(|part| part.live());
        // A site that can not be asked still gives the access that it gave, also where it was not reached since the operator started.
        let silent = self.parts.iter().all(|part| !part.standing.reachable && part.standing.report.is_none());
        let before = grant.status.as_ref().filter(|_| silent || (!live && self.phase == SiteRowPhase::Unknown));
        let before = before.and_then(|status| status.sites.iter().find(|row| row.name == name));
        GrantSiteStatus {
            phase: self.phase,
            members: self.members().or(before.and_then(|row| row.members)),
            access: self.access(cache).or_else(|| before.and_then(|row| row.access.clone())),
            budgets: self.budgets(grant, &name),
            expiry_enforced_by: live.then(|| "Hub".to_owned()).or_else(|| before.and_then(|row| row.expiry_enforced_by.clone())),
            message: self.message(home).map(|text| shorten(&text, 1000)),
            name,
        }
    }

    fn details(&self) -> impl Iterator<Item = (Part, &GrantDetail)> {
        self.parts.iter().filter(|part| part.live()).filter_map(|part| Some((part.standing.key.part, part.detail()?)))
    }

    /// A member who waits at one part of a site counts as waiting, since part of the grant can not be used.
    fn members(&self) -> Option<MemberCount> {
        let wanted = self.details().map(|(_, detail)| detail.members_wanted).max()?;
        let bound = self.details().map(|(_, detail)| detail.members_bound).min()?;
        Some(MemberCount { wanted, bound, waiting: (wanted - bound).max(0) })
    }

    fn access(&self, cache: &Cache) -> Option<GrantAccess> {
        let site = self.parts.first().and_then(|part| cache.site(part.standing.key));
        let kubernetes = self.details().find(|(part, detail)| *part == Part::Kubernetes && !detail.namespace.is_empty()).map(|(_, detail)| {
            KubernetesAccess { server: site.and_then(|site| site.access.api_server.clone()), namespace: detail.namespace.to_string() }
        });
        let slurm = self.details().find_map(|(_, detail)| detail.slurm.as_ref()).map(|slurm| SlurmAccess {
            cluster: slurm.cluster.to_string(),
            account: slurm.account.to_string(),
            qos: slurm.entries.values().take(ENTRIES).map(|entry| entry.qos.to_string()).collect(),
            partitions: slurm.entries.values().take(ENTRIES).map(|entry| shorten(entry.partition.as_str(), 40)).collect(),
        });
        let login_hosts = site.map(|site| site.access.login_hosts.clone()).unwrap_or_default();
        (kubernetes.is_some() || slurm.is_some()).then_some(GrantAccess { kubernetes, slurm, login_hosts })
    }

    /// The budgets, at most as many as the schema allows: those of entries that the grant names first.
    fn budgets(&self, grant: &AccessGrant, name: &str) -> Vec<LocalBudget> {
        let parts = self.parts.iter().filter(|part| part.placed).chain(self.parts.iter().filter(|part| !part.placed));
        let mut budgets: Vec<LocalBudget> = Vec::new();
        for budget in parts.flat_map(|part| self.budgets_of(part, grant, name)) {
            // An entry whose pool has changed its engine may be known at both parts.
            if budgets.iter().all(|known| known.name != budget.name) {
                budgets.push(budget);
            }
        }
        let named: BTreeSet<&str> = grant.spec.pools.iter().map(|entry| entry.name.as_str()).collect();
        budgets.sort_by_key(|budget| !named.contains(budget.name.as_str()));
        budgets.truncate(ENTRIES);
        budgets
    }

    fn budgets_of(&self, part: &Row<'_>, grant: &AccessGrant, name: &str) -> Vec<LocalBudget> {
        let confirmed = part.standing.current && !part.keeps();
        match (part.detail(), part.standing.key.part) {
            (Some(detail), Part::Slurm) => usage::at_slurm(detail, part.standing.current),
            (Some(detail), Part::Kubernetes) => usage::at_kubernetes(detail, part.intent, confirmed),
            // The site has not reported since the hub began: its last figure is kept, which still limits what other sites may get.
            (None, engine) => {
                let Some(status) = &grant.status else { return Vec::new() };
                let same = status.observed_generation == grant.metadata.generation;
                let rows = status.sites.iter().filter(|row| row.name == name).flat_map(|row| &row.budgets);
                let known = rows.filter(|budget| budget::part_of(budget) == engine);
                known.map(|known| LocalBudget { limit: known.limit.filter(|_| same), ..known.clone() }).collect()
            }
        }
    }

    fn message(&self, home: &OwnerRef) -> Option<String> {
        let of = |part: &Row<'_>| {
            if !part.standing.reachable {
                return Some(part.standing.unreachable_text(home));
            }
            let found: Vec<String> = part.standing.findings().iter().map(|finding| format!("{}: {}", finding.reason, finding.message)).collect();
            if found.is_empty() { part.denied.clone() } else { Some(found.join("; ")) }
        };
        let mut texts: Vec<String> = Vec::new();
        for part in &self.parts {
            if let Some(text) = of(part).filter(|text| !texts.contains(text)) {
                let several = self.parts.len() > 1 && part.standing.reachable && part.standing.key.part == Part::Slurm;
                texts.push(if several { format!("Slurm: {text}") } else { text });
            }
        }
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}
