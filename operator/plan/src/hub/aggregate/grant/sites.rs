//! One row of status for each site, though a site may have two parts.

use aifactory_api::grant::{AccessGrant, GrantAccess, GrantSiteStatus, KubernetesAccess, LocalBudget, MemberCount, SlurmAccess};

use super::Row;
use crate::hub::aggregate::usage;
use crate::hub::world::World;
use crate::model::budget;
use crate::model::site_key::Part;
use crate::model::text::shorten;

/// A site with its parts.
pub struct Merged<'r, 'a> {
    pub parts: Vec<&'r Row<'a>>,
    pub phase: &'r str,
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
            None => sites.push(Merged { parts: vec![row], phase: "" }),
        }
    }
    for site in &mut sites {
        let placed = site.placed();
        let order: &[&str] = if ended || !placed {
            &["Unknown", "Pending", "Bound", "Paused", "Refused", "Locked", "Gone"]
        } else {
            &["Refused", "Unknown", "Pending", "Gone", "Locked", "Paused", "Bound"]
        };
        let rank = |phase: &str| order.iter().position(|known| *known == phase).unwrap_or(0);
        let counted = site.parts.iter().filter(|part| part.placed || !placed);
        site.phase = counted.map(|part| part.phase.as_str()).min_by_key(|phase| rank(phase)).unwrap_or("Unknown");
    }
    sites
}

impl Merged<'_, '_> {
    pub fn placed(&self) -> bool {
        self.parts.iter().any(|part| part.placed)
    }

    pub fn status(&self, world: &World, grant: &AccessGrant) -> GrantSiteStatus {
        let name = self.parts.first().map(|part| part.name.clone()).unwrap_or_default();
        let site = self.parts.first().and_then(|part| world.site(part.standing.key));
        let live = || self.parts.iter().filter(|part| part.live());
        let details = || live().filter_map(|part| Some((part.standing.key.part, part.detail()?)));
        let kubernetes = details().find(|(part, detail)| *part == Part::Kubernetes && !detail.namespace.is_empty()).map(|(_, detail)| {
            KubernetesAccess { server: site.and_then(|site| site.access.api_server.clone()), namespace: detail.namespace.clone() }
        });
        let slurm = details().find_map(|(_, detail)| detail.slurm.as_ref()).map(|slurm| SlurmAccess {
            cluster: slurm.cluster.clone(),
            account: slurm.account.clone(),
            qos: slurm.entries.values().map(|entry| entry.qos.clone()).collect(),
            partitions: slurm.entries.values().map(|entry| entry.partition.clone()).collect(),
        });
        // Whoever waits at one part of a site can not do there all that was granted.
        let wanted = details().map(|(_, detail)| detail.members_wanted).max();
        let bound = details().map(|(_, detail)| detail.members_bound).min();
        GrantSiteStatus {
            phase: self.phase.to_owned(),
            members: wanted.zip(bound).map(|(wanted, bound)| MemberCount { wanted, bound, waiting: (wanted - bound).max(0) }),
            access: (kubernetes.is_some() || slurm.is_some()).then(|| GrantAccess {
                kubernetes,
                slurm,
                login_hosts: site.map(|site| site.access.login_hosts.clone()).unwrap_or_default(),
            }),
            budgets: self.budgets(grant, &name),
            expiry_enforced_by: live().next().map(|_| "Hub".to_owned()),
            message: self.message(grant).map(|text| shorten(&text, 1000)),
            name,
        }
    }

    fn budgets(&self, grant: &AccessGrant, name: &str) -> Vec<LocalBudget> {
        let parts = self.parts.iter().filter(|part| part.placed).chain(self.parts.iter().filter(|part| !part.placed));
        let mut budgets: Vec<LocalBudget> = Vec::new();
        for budget in parts.flat_map(|part| self.budgets_of(part, grant, name)) {
            // An entry whose pool has changed its engine may be known at both parts.
            if budgets.iter().all(|known| known.name != budget.name) {
                budgets.push(budget);
            }
        }
        budgets
    }

    fn budgets_of(&self, part: &Row<'_>, grant: &AccessGrant, name: &str) -> Vec<LocalBudget> {
        match (part.detail(), part.standing.key.part) {
            (Some(detail), Part::Slurm) => usage::at_slurm(detail, part.standing.current),
            (Some(detail), Part::Kubernetes) => usage::at_kubernetes(detail, part.intent, part.standing.current),
            // Not heard since the hub began: what was known then, and still limits what other sites may have.
            (None, engine) => {
                let Some(status) = &grant.status else { return Vec::new() };
                let same = status.observed_generation == grant.metadata.generation;
                let rows = status.sites.iter().filter(|row| row.name == name).flat_map(|row| &row.budgets);
                let known = rows.filter(|budget| budget::part_of(budget) == engine);
                known.map(|known| LocalBudget { limit: known.limit.filter(|_| same), ..known.clone() }).collect()
            }
        }
    }

    fn message(&self, grant: &AccessGrant) -> Option<String> {
        let namespace = grant.metadata.namespace.as_deref().unwrap_or_default();
        let of = |part: &Row<'_>| {
            if !part.standing.reachable {
                return Some(part.standing.unreachable_text(namespace));
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
