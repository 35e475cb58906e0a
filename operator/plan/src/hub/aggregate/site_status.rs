//! The state of one resource at one part of a site, as far as the hub knows it.

use aifactory_api::grant::{AccessGrantStatus, SiteRowPhase};
use aifactory_api::{OwnerRef, Reason};
use jiff::Timestamp;

use super::Reports;
use crate::hub::conditions::Status;
use crate::model::digest::digest_of;
use crate::model::intent::Intent;
use crate::model::report::{Detail, Finding, Report, SitePhase};
use crate::model::site_key::{Part, SiteKey};
use crate::model::text::shorten;

/// The state of one resource at one part of a site.
#[derive(Debug)]
pub struct Standing<'a> {
    pub key: &'a SiteKey,
    pub report: Option<&'a Report>,
    /// The site answers.
    pub reachable: bool,
    /// Why it does not, or what else is wrong with it.
    pub problem: Option<Finding>,
    pub last_contact: Option<Timestamp>,
    /// The report answers the present intent.
    pub current: bool,
    /// The site holds just what the present intent asks for.
    pub settled: bool,
    /// The site was given up.
    pub abandoned: bool,
}

impl<'a> Standing<'a> {
    pub fn of(key: &'a SiteKey, intent: &Intent, reports: &Reports<'a>) -> Self {
        let report = reports.about.get(key).copied().filter(|report| report.uid == intent.uid);
        let site = reports.sites.get(key);
        let current = report.is_some_and(|report| report.answers == digest_of(intent));
        Self {
            key,
            report,
            reachable: site.is_some_and(|site| site.reachable),
            problem: match site {
                Some(site) => site.problem.clone(),
                None => Some(Finding::note(Reason::Pending, "not contacted yet")),
            },
            last_contact: site.and_then(|site| site.last_contact),
            current,
            settled: current && report.is_some_and(|report| report.settled),
            abandoned: reports.abandoned.contains(key),
        }
    }

    pub fn phase(&self) -> Option<SitePhase> {
        self.report.filter(|_| self.current).map(|report| report.phase)
    }

    pub fn findings(&self) -> &'a [Finding] {
        self.report.filter(|_| self.current).map_or(&[], |report| report.findings.as_slice())
    }

    pub fn access_removed(&self) -> bool {
        self.current
            && self.report.is_some_and(|report| match &report.detail {
                Detail::Grant(detail) => detail.access_removed,
                Detail::Pool(_) | Detail::None => report.phase == SitePhase::Gone,
            })
    }

    /// `bissen: no answer since 2026-12-01T00:00:00Z (connection refused)`.
    pub fn unreachable_text(&self, home: &OwnerRef) -> String {
        if let Some(problem) = self.problem.as_ref().filter(|problem| self.last_contact.is_none() && answered(problem.reason)) {
            return format!("{}: {}: {}", self.label(home), problem.reason, problem.message);
        }
        let since = self.last_contact.map_or_else(
            || "never reached since the operator started".to_owned(),
            |at| format!("last contact {}", crate::model::time::whole_seconds(at)),
        );
        let why = self.problem.as_ref().map(|problem| format!(" ({}: {})", problem.reason, problem.message)).unwrap_or_default();
        format!("{}: {since}{why}", self.label(home))
    }

    /// The first finding there, or that it is in progress.
    pub fn progress_text(&self, home: &OwnerRef) -> String {
        let name = self.label(home);
        match self.findings().first() {
            _ if !self.reachable => self.unreachable_text(home),
            Some(finding) => format!("{name}: {}", shorten(&finding.message, 300)),
            None => format!("{name}: in progress"),
        }
    }

    /// The site's name, and which part of it where that is its Slurm.
    pub fn label(&self, home: &OwnerRef) -> String {
        let name = self.key.display(home);
        match self.key.part {
            Part::Kubernetes => name,
            Part::Slurm => format!("{name} (Slurm)"),
        }
    }
}

/// Whether a site with this problem has answered, so that the time of the last contact explains nothing.
fn answered(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SiteClaimed
            | Reason::SiteIdentityChanged
            | Reason::SitePoliciesMissing
            | Reason::Unauthorized
            | Reason::SlurmTokenRefused
            | Reason::SlurmClusterMismatch
    )
}

/// Whether sites answer, for the condition `SitesReachable`.
#[derive(Debug)]
pub struct Reach {
    pub status: Status,
    pub reason: Reason,
    /// Those that do not, each with why.
    pub lost: Vec<String>,
}

impl Reach {
    /// A site that was not contacted yet does not count as lost.
    pub fn of<'s, 'a: 's>(standings: impl Iterator<Item = &'s Standing<'a>>, home: &OwnerRef) -> Self {
        let lost: Vec<&Standing<'_>> = standings.filter(|standing| !standing.reachable).collect();
        let called = lost.iter().any(|standing| standing.problem.as_ref().is_none_or(|problem| problem.reason != Reason::Pending));
        let (status, reason) = match (lost.is_empty(), called) {
            (true, _) => (Status::True, Reason::AsSpecified),
            (false, true) => (Status::False, Reason::SiteUnreachable),
            (false, false) => (Status::Unknown, Reason::Pending),
        };
        Self { status, reason, lost: lost.iter().map(|standing| standing.unreachable_text(home)).collect() }
    }
}

/// Whether the last status had the site, for this generation, in this phase.
pub fn was_confirmed(status: Option<&AccessGrantStatus>, generation: i64, name: &str, phase: SiteRowPhase) -> bool {
    status.is_some_and(|status| {
        status.observed_generation == Some(generation)
            && crate::hub::conditions::is_true(&status.conditions, aifactory_api::ConditionType::Ready)
            && status.sites.iter().any(|site| site.name == name && site.phase == phase)
    })
}
