//! What must hold by the documentation: always, and once everything is at rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aifactory_api::grant::{GrantPhase, GrantState, MemberRole, MemberState, SiteRowPhase};
use aifactory_api::{AIFactory, AccessGrant};
use aifactory_plan::engine::tenancy::has_our_name;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::cast::{self, SITES};
use crate::fixture;
use crate::ops::Op;
use crate::stage::Soak;

/// How long it may take until nothing is written any more.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long nothing is written at rest: longer than figures wait to be written.
const REST: Duration = Duration::from_secs(8);

/// Who is bound to what by our bindings: `lead`, `member`, `reader` or `keeper`.
type Bound = BTreeMap<String, String>;

impl Soak {
    /// Bindings of ours, and subjects of those that others have made.
    async fn bound(&self, site: usize, grant: usize) -> (Bound, BTreeSet<String>) {
        let api: Api<RoleBinding> = Api::namespaced(self.site(site).admin(), &self.tenant(grant));
        let (mut ours, mut others) = (Bound::new(), BTreeSet::new());
        for binding in api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
            let subjects = binding.subjects.iter().flatten().map(|subject| subject.name.clone());
            match binding.role_ref.name.strip_prefix("aifactory-").filter(|_| has_our_name(&binding.name_any())) {
                Some(role) => ours.extend(subjects.map(|subject| (subject, role.to_owned()))),
                None => others.extend(subjects),
            }
        }
        (ours, others)
    }

    async fn grant(&self, index: usize) -> Option<AccessGrant> {
        let owner = cast::grant(index);
        let api: Api<AccessGrant> = Api::namespaced(self.world.hub().admin(), &owner.namespace);
        api.get_opt(&owner.name).await.unwrap()
    }

    /// What must hold at any moment: where status denies that anybody has access, nobody has. Read before and after, since one may be given anew.
    pub async fn never(&self) -> Vec<String> {
        let mut found = Vec::new();
        for index in 0..cast::GRANTS.len() {
            let Some(before) = self.grant(index).await.filter(denies) else { continue };
            for (site, name) in SITES.iter().enumerate() {
                let (ours, _) = self.bound(site, index).await;
                let acting = acting(&ours);
                let still = self.grant(index).await.is_some_and(|now| denies(&now) && now.metadata.generation == before.metadata.generation);
                if still && !acting.is_empty() && !self.set_back_or_given_up(site).await {
                    found.push(format!("{}: status denies access, and at {name} these act: {acting:?}", cast::grant(index)));
                }
            }
        }
        found
    }

    /// Whether status of this site may be behind what is there: its store was set back, or a person has given it up.
    async fn set_back_or_given_up(&self, site: usize) -> bool {
        let factory = self.factory().await;
        factory.is_none_or(|factory| aifactory_plan::hub::project::abandoned(&factory).contains(SITES[site]))
    }

    async fn factory(&self) -> Option<AIFactory> {
        let owner = cast::factory(0);
        let api: Api<AIFactory> = Api::namespaced(self.world.hub().admin(), &owner.namespace);
        api.get_opt(&owner.name).await.unwrap()
    }

    /// Ends all disturbances, waits for rest, and judges.
    pub async fn settle(&self) -> Vec<String> {
        for site in 0..SITES.len() {
            self.apply(Op::Heal(site)).await;
        }
        if let Err(noise) = fixture::until_quiet(&self.world.federation, REST, PATIENCE).await {
            return vec![noise];
        }
        let mut found = self.never().await;
        let factory = self.factory().await;
        for index in 0..cast::GRANTS.len() {
            if let Some(grant) = self.grant(index).await {
                found.extend(self.judge(index, &grant, factory.as_ref()).await);
            }
        }
        found
    }

    async fn judge(&self, index: usize, grant: &AccessGrant, factory: Option<&AIFactory>) -> Vec<String> {
        let (now, owner) = (Timestamp::now(), cast::grant(index));
        let mut found = Vec::new();
        let near = |edge: Timestamp| now.duration_since(edge).abs() < SignedDuration::from_secs(20);
        if near(grant.spec.not_after.0) || near(grant.spec.not_before.0) {
            return found;
        }
        let over = grant.metadata.deletion_timestamp.is_some() || grant.spec.state == GrantState::Revoked || grant.spec.not_after.0 <= now;
        let waits = grant.spec.not_before.0 > now || grant.spec.state != GrantState::Active;
        let status = grant.status.clone().unwrap_or_default();
        let ready = is_true(grant, "Ready");
        for (site, name) in SITES.iter().enumerate() {
            let (ours, others) = self.bound(site, index).await;
            let given_up = factory.is_none_or(|factory| aifactory_plan::hub::project::abandoned(factory).contains(*name));
            let acting = acting(&ours);
            if given_up {
                continue;
            }
            if (over || waits) && !acting.is_empty() {
                found.push(format!("{owner} is over or waits, and at {name} these act: {acting:?}; {}", summary(grant)));
            }
            let members: BTreeSet<&str> = grant.spec.members.iter().filter_map(|member| Some(member.kubernetes.as_ref()?.name.as_str())).collect();
            if is_true(grant, "AccessRemoved") && (!acting.is_empty() || others.iter().any(|other| members.contains(other.as_str()))) {
                found.push(format!("{owner} says that access is gone, and at {name} there are {ours:?} and {others:?}"));
            }
            let row = status.sites.iter().find(|row| row.name == *name);
            let bound_there = row.is_some_and(|row| row.phase == SiteRowPhase::Bound);
            if ready && status.phase == Some(GrantPhase::Active) && bound_there && !waits {
                let wanted = self.wanted(site, grant, factory).await;
                if ours != wanted {
                    found.push(format!("{owner} is Ready and Bound at {name} with {ours:?} instead of {wanted:?}; {}", summary(grant)));
                }
            }
            if let Some(count) = row.filter(|_| bound_there).and_then(|row| row.members)
                && usize::try_from(count.bound).ok() != Some(ours.len())
            {
                found.push(format!("{owner} counts {} bound at {name}, and there are {ours:?}", count.bound));
            }
        }
        for entry in &grant.spec.pools {
            let budgets = status.sites.iter().flat_map(|row| &row.budgets).filter(|budget| budget.name == entry.name);
            let limits: i64 = budgets.filter_map(|budget| budget.limit).sum();
            if limits > entry.gpu_hours * 60 && ready {
                found.push(format!("{owner}: sites may use {limits} device-minutes of {}, and {} hours are granted", entry.name, entry.gpu_hours));
            }
        }
        found
    }

    /// Whom a site that takes all of it binds, by the docs.
    async fn wanted(&self, site: usize, grant: &AccessGrant, factory: Option<&AIFactory>) -> Bound {
        let prefixes = factory.map(|factory| factory.spec.policy.subject_prefixes.clone()).unwrap_or_default();
        let refused = self.refused_member(site).await;
        let members = grant.spec.members.iter().filter(|member| member.state == MemberState::Active && Some(&member.id) != refused.as_ref());
        let subjects = members.filter_map(|member| Some((member.kubernetes.as_ref()?.name.clone(), member.role)));
        let allowed = |subject: &str| prefixes.is_empty() || prefixes.iter().any(|prefix| subject.starts_with(prefix.as_str()));
        let role = |role: MemberRole| match role {
            MemberRole::Lead => "lead",
            MemberRole::Member => "member",
            MemberRole::Reader => "reader",
        };
        subjects.filter(|(subject, _)| allowed(subject)).map(|(subject, of)| (subject, role(of).to_owned())).collect()
    }

    async fn refused_member(&self, site: usize) -> Option<String> {
        let api: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(self.site(site).admin(), aifactory_tests::SYSTEM_NAMESPACE);
        api.get_opt(aifactory_api::labels::SITE_POLICY).await.unwrap()?.data?.remove("refuseMembers")
    }
}

fn acting(bound: &Bound) -> BTreeSet<&str> {
    bound.iter().filter(|(_, role)| matches!(role.as_str(), "lead" | "member")).map(|(subject, _)| subject.as_str()).collect()
}

fn is_true(grant: &AccessGrant, type_: &str) -> bool {
    let conditions = grant.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|found| found.type_ == type_ && found.status == "True" && found.observed_generation == grant.metadata.generation)
}

/// Whether status says of the grant as it is now that nobody has access.
fn denies(grant: &AccessGrant) -> bool {
    is_true(grant, "AccessRemoved")
}

fn summary(grant: &AccessGrant) -> String {
    let status = grant.status.clone().unwrap_or_default();
    let rows: Vec<String> = status.sites.iter().map(|row| format!("{}: {:?}", row.name, row.phase)).collect();
    format!("{:?}, {rows:?}, {}", status.phase, fixture::summary(&status.conditions))
}
