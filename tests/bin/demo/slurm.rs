//! A third site that is a Slurm alone: a real cluster, where this machine can run one.

use std::time::Duration;

use aifactory_api::AccessGrant;
pub use aifactory_tests::slurm::Cluster;
use aifactory_tests::slurm::{JobSpec, Options, unavailable};
use aifactory_tests::{Federation, eventually, examples, layout};
use base64::Engine as _;
use kube::Api;
use serde_json::{Value, json};

use crate::Failure;

pub const SITE: &str = "remich";
/// The script that runs a command in the cluster.
pub const SHELL: &str = "remich.sh";
const NAMESPACE: &str = "moselle";
const GRANT: &str = "brennergy-fast-lane";
const SECRET: &str = "remich-slurm";
/// Who the members are there; the site's administrator says so.
const USERS: &str = "p-7300: alice\np-7301: bob\np-7302: carol\n";

/// Starts the cluster; where that can not be, says why.
pub async fn start(say: impl Fn(&str)) -> Result<Option<Cluster>, Failure> {
    if let Some(why) = unavailable() {
        say(&format!("site {SITE}, a real Slurm, is left out: {why}. All else is the same"));
        return Ok(None);
    }
    // One broken Slurm does not take the rest of the demo with it.
    match Cluster::start(Options::new(SITE)).await {
        Ok(cluster) => {
            say(&format!("real Slurm runs as site {SITE}: MariaDB, slurmdbd, slurmctld, three slurmd with GPUs that are files, slurmrestd"));
            Ok(Some(cluster))
        }
        Err(error) => {
            say(&format!("site {SITE}, a real Slurm, is left out, since it did not start: {error}"));
            Ok(None)
        }
    }
}

/// Applies examples/slurm with the address and size of this cluster.
pub async fn apply(federation: &Federation, cluster: &Cluster) -> Result<(), Failure> {
    let hub = federation.hub();
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "data": {"jwt.key": base64(cluster.jwt_key()), "aifactory-slurm-users": base64(USERS.as_bytes())},
    });
    hub.ensure_namespace(NAMESPACE).await?;
    hub.apply(&secret.to_string()).await?;
    let mut manifests = examples(&layout::root().join("examples/slurm"))?;
    for object in manifests.objects_mut() {
        if let Some(url) = object.data.pointer_mut("/spec/sites/0/slurm/rest/url") {
            *url = Value::String(cluster.rest_url());
        }
        // One node of four GPUs stands for the sixteen.
        for (path, value) in [("/spec/sites/0/count", 1), ("/spec/pools/0/maxGPUs", 4), ("/spec/limits/maxGPUsPerMember", 4)] {
            if let Some(number) = object.data.pointer_mut(path) {
                *number = json!(value);
            }
        }
    }
    manifests.apply(&hub.admin(), "demo").await?;
    Ok(())
}

/// A member works, a stranger does not, and what was used is in status.
pub async fn show(federation: &Federation, cluster: &Cluster, say: impl Fn(&str)) -> Result<(), Failure> {
    let grants: Api<AccessGrant> = Api::namespaced(federation.hub().admin(), NAMESPACE);
    let status = grants.get(GRANT).await?.status.unwrap_or_default();
    let access = status.sites.into_iter().find_map(|site| site.access?.slurm).ok_or("the grant does not say how to get into Slurm")?;
    let partition = access.partitions.first().cloned().unwrap_or_default();
    let job = JobSpec { gpus: 2, minutes: 5, seconds: 10, ..JobSpec::new(&access.account, &partition) };
    let script = format!("sbatch --account={} --partition={partition} --gres=gpu:2", access.account);
    match cluster.submit("erin", job.clone()).await {
        Ok(id) => return Err(format!("a stranger's job {id} was taken").into()),
        Err(refused) => say(&format!("[{SITE}] erin (a stranger) $ {script}: refused, {} ({})", refused.text, refused.code)),
    }
    let id = cluster.submit("alice", job).await.map_err(|refused| format!("alice's job was refused: {}", refused.text))?;
    say(&format!("[{SITE}] alice (a member)   $ {script}: job {id}"));
    cluster.wait_job(id, "COMPLETED", Duration::from_secs(60)).await?;
    let (used, granted) = eventually(Duration::from_secs(90), "the hours used are in status", async || {
        let pools = grants.get(GRANT).await?.status.unwrap_or_default().pools;
        let hours = pools.into_iter().next().ok_or("no pool")?.gpu_hours;
        match hours.used {
            Some(used) if used.parse::<f64>().is_ok_and(|used| used > 0.0) => Ok((used, hours.granted)),
            other => Err(format!("{other:?}").into()),
        }
    })
    .await?;
    say(&format!("[{SITE}] job {id} has ended; status of the grant: {used} of {granted} GPU-hours used, in the factory's unit"));
    let account = format!("account={}", access.account);
    let rows = ["show", "association", &account, "format=account%36,user,partition,qos%40"];
    let qos: Vec<String> = access.qos.iter().map(|name| format!("name={name}")).collect();
    let budget = [vec!["show", "qos"], qos.iter().map(String::as_str).collect(), vec!["format=name%40,flags%24,grptresmins%18,grptres%36"]].concat();
    for arguments in [rows.as_slice(), &budget] {
        println!("\n[{SITE}] $ sacctmgr {}", arguments.join(" "));
        println!("{}", cluster.sacctmgr(arguments).await?.trim_end());
    }
    Ok(())
}

/// Which engine is real, and which is not.
pub fn explain(cluster: bool) {
    println!("\nSlurm at bissen and bettembourg: objects for Slinky's slurm-operator are real, the operator that would run them is a stand-in.");
    if cluster {
        println!(
            "Slurm at {SITE}: real, with MariaDB, slurmdbd, slurmctld, slurmd and slurmrestd. Nodes and GPUs are this machine's processes and files.
  sh target/demo/{SHELL} sinfo          (or squeue, sacct -a, sacctmgr show assoc, scontrol show assoc_mgr)"
        );
    } else {
        println!("Slurm at {SITE}: left out; the lines above say why.");
    }
}
