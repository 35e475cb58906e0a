//! Whether the Slurm that answers is the one that is meant, and can keep a budget.

use std::collections::BTreeSet;
use std::time::Duration;

use aifactory_api::Reason;
use aifactory_api::slurm::SlurmRest;
use aifactory_plan::model::id::{AccountName, ClusterName};
use aifactory_plan::model::intent::SiteIntent;
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::text::shorten;
use serde_json::Value;

use super::claim::claim;
use super::client::{Api, SlurmClient};
use super::error::SlurmError;
use super::read;

/// Longest wait for an answer to a probe.
const PROBE: Duration = Duration::from_secs(4);

/// Longest wait for the claim, which takes a write and three reads.
const CLAIM: Duration = Duration::from_secs(15);

/// How long a slurmctld may take, in seconds, to register with a slurmdbd that was started after it. What is changed in the database before that never
/// reaches slurmctld: a user whose association was removed goes on submitting jobs.
const REGISTRATION: i64 = 20;

/// A Slurm that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Its release, for example `26.05.5`.
    pub version: String,
    /// The id of this site's claim there; `None`: it was given up, and nothing is written.
    pub claim: Option<String>,
    /// When its slurmdbd was started, in seconds since 1970 by its own clock; `None`: it does not say so.
    pub database_started: Option<i64>,
}

/// Makes contact: looks at the cluster, and claims it for this site.
pub async fn contact(client: &SlurmClient, site: &SiteIntent) -> Result<Contact, Finding> {
    let Some((rest, cluster)) = site.slurm.as_ref().and_then(|slurm| Some((slurm.rest.as_ref()?, ClusterName::new(&slurm.cluster_name)))) else {
        return Err(Finding::note(Reason::NotApplicable, "the site names no slurm.rest"));
    };
    let version = look(client, rest, &cluster).await?;
    let database_started = registered(client).await?;
    let claim = tokio::time::timeout(CLAIM, claim(client, site)).await.unwrap_or(Err(SlurmError::DatabaseDown.into()));
    Ok(Contact { version, claim: claim.map_err(|problem| problem.finding())?, database_started })
}

/// Whether it is the cluster that is meant, and can keep a budget; its release.
async fn look(client: &SlurmClient, rest: &SlurmRest, cluster: &ClusterName) -> Result<String, Finding> {
    let answer = match client.get(Api::Slurm, "ping/", &[]).await {
        Err(SlurmError::UnknownVersion(_)) => return Err(SlurmError::UnknownVersion(served(client).await).finding()),
        answer => answer.map_err(|error| error.finding())?,
    };
    if !responds(&answer) {
        return Err(controller_or_token(client).await);
    }
    let text = |path: &str| answer.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = text("/meta/slurm/cluster");
    if found != cluster.as_str() {
        return Err(Finding::stalled(
            Reason::SlurmClusterMismatch,
            format!(
                "the cluster that answers is {found:?}, and slurm.clusterName says {cluster:?}. Nothing is written there. Correct the one or the url"
            ),
        ));
    }
    // slurmctld's paths tell a bad token from a dead database.
    client.get(Api::Slurm, "partitions/", &[]).await.map_err(|error| error.finding())?;
    let clusters = database(client.get(Api::Slurmdb, "clusters/", &[])).await?;
    let registered = clusters.get("clusters").and_then(Value::as_array).into_iter().flatten();
    if !registered.clone().any(|known| known.get("name").and_then(Value::as_str) == Some(cluster.as_str())) {
        return Err(Finding::stalled(
            Reason::SlurmClusterMismatch,
            format!("cluster {cluster} is not registered in its accounting database; slurmctld does that when it reaches slurmdbd"),
        ));
    }
    let tres = database(read::tres(client)).await?;
    if !tres.contains("gres/gpu") {
        return Err(Finding::stalled(
            Reason::SlurmConfiguration,
            "Slurm does not count GPUs, so no budget holds; write into slurm.conf: AccountingStorageTRES=gres/gpu",
        ));
    }
    let parent = AccountName::new(&rest.parent_account);
    let parents = database(read::rows(client, cluster, &[parent.clone()].into(), &BTreeSet::new())).await?.0;
    if !parents.keys().any(|key| key.account == parent && key.user.is_empty()) {
        return Err(Finding::stalled(
            Reason::ParentAccountMissing,
            format!("there is no account {parent} in cluster {cluster}; make it: sacctmgr add account {parent} cluster={cluster}"),
        ));
    }
    // As long as status may say it.
    Ok(shorten(&text("/meta/slurm/release"), 63))
}

/// Whether slurmctld hears of what is changed in the database; when slurmdbd was started.
async fn registered(client: &SlurmClient) -> Result<Option<i64>, Finding> {
    // Everybody may read everything but this, so that it shows that the token is an administrator's.
    let database = database(client.get(Api::Slurmdb, "diag/", &[])).await?;
    let controller = client.get(Api::Slurm, "diag/", &[]).await.map_err(|error| error.finding())?;
    if may_not_be_registered(&database, &controller) { Err(restarted()) } else { Ok(started(&database)) }
}

/// Whether slurmdbd was started after slurmctld, and so lately that slurmctld may not have registered with it again.
fn may_not_be_registered(database: &Value, controller: &Value) -> bool {
    let of_controller = |name: &str| number(controller.pointer(&format!("/statistics/{name}"))?);
    let Some(started) = started(database) else { return false };
    let (Some(since), Some(now)) = (of_controller("req_time_start"), of_controller("req_time")) else { return false };
    started > since && now.saturating_sub(started) < REGISTRATION
}

fn started(database: &Value) -> Option<i64> {
    number(database.pointer("/statistics/time_start")?)
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.get("number")?.as_i64())
}

fn restarted() -> Finding {
    let text = format!(
        "slurmdbd was started lately; slurmctld does not hear of changes until it has registered there, so nothing is changed for {REGISTRATION} s"
    );
    Finding::note(Reason::SlurmDatabaseDown, text)
}

/// Whether slurmctld and the database answer, and slurmdbd is still the process that it was at contact.
pub async fn probe(client: &SlurmClient, contact: &Contact) -> Result<(), Finding> {
    let controller = tokio::time::timeout(PROBE, client.get(Api::Slurm, "ping/", &[]));
    // A ping that slurmdbd answers by itself says nothing of a database that hangs.
    let database = tokio::time::timeout(PROBE, client.get(Api::Slurmdb, "clusters/", &[]));
    let (controller, database) = futures::join!(controller, database);
    let controller = controller.unwrap_or_else(|_| Err(SlurmError::NoAnswer("nothing in time".to_owned())));
    if !responds(&controller.map_err(|error| error.finding())?) {
        return Err(controller_or_token(client).await);
    }
    // slurmrestd waits for ever for a database that hangs.
    database.unwrap_or(Err(SlurmError::DatabaseDown)).map_err(|error| error.finding())?;
    // Only of a database that answers: each request to one that hangs takes a thread of slurmrestd for ever.
    let diagnostics = tokio::time::timeout(PROBE, client.get(Api::Slurmdb, "diag/", &[])).await;
    let now = diagnostics.ok().and_then(Result::ok).and_then(|diagnostics| started(&diagnostics));
    if now.is_some() && now != contact.database_started { Err(restarted()) } else { Ok(()) }
}

/// slurmrestd waits for ever for a database that hangs.
async fn database<T>(answer: impl Future<Output = Result<T, SlurmError>>) -> Result<T, Finding> {
    tokio::time::timeout(PROBE, answer).await.unwrap_or(Err(SlurmError::DatabaseDown)).map_err(|error| error.finding())
}

/// slurmrestd answers for a slurmctld that is down as well.
fn responds(answer: &Value) -> bool {
    let mut pings = answer.get("pings").and_then(Value::as_array).into_iter().flatten();
    pings.any(|ping| ping.get("responding").and_then(Value::as_bool) == Some(true))
}

/// slurmctld does not answer a ping with a token of another key either; other paths tell.
async fn controller_or_token(client: &SlurmClient) -> Finding {
    match tokio::time::timeout(PROBE, client.get(Api::Slurm, "partitions/", &[])).await {
        Ok(Err(SlurmError::TokenRefused)) => SlurmError::TokenRefused.finding(),
        Ok(_) | Err(_) => SlurmError::ControllerDown.finding(),
    }
}

async fn served(client: &SlurmClient) -> String {
    let Ok(document) = client.openapi().await else { return "what it serves can not be read".to_owned() };
    let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
    let versions: std::collections::BTreeSet<&str> =
        paths.filter_map(|(path, _)| path.split('/').nth(2)).filter(|part| part.starts_with("v0.0.")).collect();
    format!("it serves {}", versions.into_iter().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slurmdbd_that_was_started_after_slurmctld_is_given_time() {
        let waits = |database: i64, controller: i64, now: i64| {
            let number = |number: i64| json!({"set": true, "infinite": false, "number": number});
            let diagnostics = json!({"statistics": {"req_time_start": number(controller), "req_time": number(now)}});
            may_not_be_registered(&json!({"statistics": {"time_start": database}}), &diagnostics)
        };
        assert!(!waits(1_000, 1_001, 1_002), "both have just started, slurmctld last");
        assert!(waits(2_000, 1_001, 2_001));
        assert!(waits(2_000, 1_001, 2_019));
        assert!(!waits(2_000, 1_001, 2_020));
        assert!(!may_not_be_registered(&json!({}), &json!({})), "what it does not say holds up nothing");
    }
}
