//! The parts of a grant's intent that do not depend on its pools.

use aifactory_api::factory::FactoryPolicy;
use aifactory_api::grant::{AccessGrant, KubernetesSubject, Member, MemberState};

use crate::model::duration;
use crate::model::id::UserName;
use crate::model::intent::{Desired, EgressIntent, End, GrantIntent, MemberCaps, MemberIntent};

/// The grant without pools and without addresses. `policy` is that of the site's factory; `None`: the factory can not be read.
pub fn skeleton(grant: &AccessGrant, policy: Option<&FactoryPolicy>, desired: Desired) -> GrantIntent {
    let spec = &grant.spec;
    GrantIntent {
        code: spec.code.clone(),
        organisation: spec.organisation.name.clone(),
        desired,
        only_if_held: None,
        // Without the factory the members can not be checked, so that no member gets more than he has.
        keep: policy.is_none(),
        barred: spec.members.iter().filter(|member| is_barred(member, policy)).map(as_named).collect(),
        members: spec.members.iter().filter(|member| member.state == MemberState::Active).map(|active| member(active, policy)).collect(),
        pools: Vec::new(),
        caps: caps(grant),
        end: end(grant),
        not_after: spec.not_after.0,
        storage: spec.storage.quota.clone(),
        egress: Vec::new(),
        cross_site: None,
        adopt_previous: grant
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(aifactory_api::labels::ADOPT_PREVIOUS))
            .is_some_and(|value| value == "true"),
    }
}

/// A member, without a subject that the factory does not allow: every list of members passes through here.
fn member(member: &Member, policy: Option<&FactoryPolicy>) -> MemberIntent {
    MemberIntent { subject: member.kubernetes.clone().filter(|subject| allowed(subject, policy)), ..as_named(member) }
}

/// A member as the grant names him.
fn as_named(member: &Member) -> MemberIntent {
    MemberIntent {
        id: member.id.clone(),
        role: member.role,
        subject: member.kubernetes.clone(),
        slurm_user: member.slurm.as_ref().map(|slurm| UserName::new(&slurm.user)),
    }
}

/// Whether a member who has a subject gets no access by it. Where the factory can not be read nobody knows.
fn is_barred(member: &Member, policy: Option<&FactoryPolicy>) -> bool {
    let refused = || policy.is_some() && member.kubernetes.as_ref().is_some_and(|subject| !allowed(subject, policy));
    member.state != MemberState::Active || refused()
}

fn allowed(subject: &KubernetesSubject, policy: Option<&FactoryPolicy>) -> bool {
    let prefixes = policy.map_or(&[][..], |policy| policy.subject_prefixes.as_slice());
    !subject.name.starts_with("system:") && (prefixes.is_empty() || prefixes.iter().any(|prefix| subject.name.starts_with(prefix.as_str())))
}

fn caps(grant: &AccessGrant) -> MemberCaps {
    grant.spec.limits.as_ref().map_or_else(MemberCaps::default, |limits| MemberCaps {
        max_gpus: limits.max_gpus_per_member,
        max_jobs: limits.max_jobs_per_member,
        max_wall_minutes: limits.max_wall_time.as_deref().and_then(duration::seconds).map(|seconds| seconds / 60),
    })
}

fn end(grant: &AccessGrant) -> End {
    let expiry = &grant.spec.expiry;
    End {
        running_work: expiry.running_work,
        grace_seconds: duration::seconds(&expiry.grace_period).unwrap_or(3600),
        // A retention that can not be read counts as 180 days, the default.
        retention_seconds: duration::seconds(&expiry.retention).unwrap_or(180 * 24 * 3600),
        after_retention: expiry.after_retention,
    }
}

/// Where the grant's Pods may go.
pub fn egress(grant: &AccessGrant) -> Vec<EgressIntent> {
    let entries = grant.spec.network.egress.iter();
    entries
        .filter_map(|egress| match (&egress.service, &egress.cidr) {
            (Some(service), _) => Some(EgressIntent::Service(service.clone())),
            (None, Some(cidr)) => Some(EgressIntent::Range { cidr: cidr.clone(), ports: egress.ports.clone() }),
            (None, None) => None,
        })
        .collect()
}
