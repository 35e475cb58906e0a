//! The files that Slurm reads.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::error::Result;
use crate::port;

use super::options::Options;

/// Password of Slurm's database user; the database listens on loopback only.
pub(super) const PASSWORD: &str = "loopback";

/// The ports of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    pub(super) database: SocketAddr,
    pub(super) slurmdbd: SocketAddr,
    pub(super) slurmctld: SocketAddr,
    pub(super) rest: SocketAddr,
    pub(super) nodes: Vec<SocketAddr>,
}

impl Ports {
    pub(super) fn choose(nodes: usize) -> Result<Self> {
        let nodes = (0..nodes).map(|_| port::unshared()).collect::<Result<_>>()?;
        Ok(Self { database: port::unshared()?, slurmdbd: port::unshared()?, slurmctld: port::unshared()?, rest: port::unshared()?, nodes })
    }
}

/// slurm.conf. `home` is the cluster's directory as seen in the root.
pub(super) fn slurm(options: &Options, ports: &Ports, home: &str) -> String {
    let mut text = format!(
        "ClusterName={name}
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=slurm
SlurmctldPort={slurmctld}
AuthType=auth/slurm
CredType=auth/slurm
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={home}/jwt.key
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/slurmd/%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PriorityType=priority/multifactor
PriorityCalcPeriod=1
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
AccountingStorageEnforce=associations,limits,qos,safe
JobAcctGatherType=jobacct_gather/none
",
        name = options.name,
        slurmctld = ports.slurmctld.port(),
        slurmdbd = ports.slurmdbd.port(),
    );
    let mut tracked = vec!["gres/gpu".to_owned()];
    let mut partitions: Vec<(&str, Vec<&str>)> = Vec::new();
    for (node, port) in options.nodes.iter().zip(&ports.nodes) {
        let _ = write!(text, "NodeName={} NodeHostname=localhost NodeAddr=127.0.0.1 Port={} CPUs=8 RealMemory=1000", node.name, port.port());
        if let Some((kind, count)) = &node.gpus {
            let _ = write!(text, " Gres=gpu:{kind}:{count}");
            tracked.push(format!("gres/gpu:{kind}"));
        }
        text.push('\n');
        match partitions.iter_mut().find(|(name, _)| *name == node.partition) {
            Some((_, nodes)) => nodes.push(&node.name),
            None => partitions.push((&node.partition, vec![&node.name])),
        }
    }
    for (place, (name, nodes)) in partitions.iter().enumerate() {
        let default = if place == 0 { "YES" } else { "NO" };
        let _ = writeln!(text, "PartitionName={name} Nodes={} Default={default} MaxTime=INFINITE DefaultTime=10 State=UP", nodes.join(","));
    }
    tracked.dedup();
    let _ = writeln!(text, "AccountingStorageTRES={}", tracked.join(","));
    for line in &options.extra {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// gres.conf, and the empty files that stand for GPUs, relative to the cluster's directory.
pub(super) fn gres(options: &Options, home: &str) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut files = Vec::new();
    for node in &options.nodes {
        let Some((kind, count)) = &node.gpus else { continue };
        let _ = writeln!(
            text,
            "NodeName={name} Name=gpu Type={kind} File={home}/gpu/{name}-[0-{last}]",
            name = node.name,
            last = count.saturating_sub(1)
        );
        files.extend((0..*count).map(|number| format!("gpu/{}-{number}", node.name)));
    }
    (text, files)
}

/// slurmdbd.conf.
pub(super) fn slurmdbd(options: &Options, ports: &Ports, home: &str) -> String {
    format!(
        "DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
SlurmUser=slurm
AuthType=auth/slurm
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={home}/jwt.key
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass={PASSWORD}
StorageLoc={name}
PidFile={home}/slurmdbd.pid
",
        slurmdbd = ports.slurmdbd.port(),
        database = ports.database.port(),
        name = database(options),
    )
}

/// The name of the cluster's database.
pub(super) fn database(options: &Options) -> String {
    format!("slurm_{}", options.name.replace('-', "_"))
}
