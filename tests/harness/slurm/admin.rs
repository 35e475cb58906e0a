//! What a Slurm administrator does by hand.

use std::path::Path;
use std::time::Duration;

use crate::error::Result;
use crate::kubeconfig::write_private;

use super::cluster::Cluster;

const LIFETIME: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Cluster {
    /// Runs `sacctmgr` as administrator, never asking, and returns what it wrote.
    pub async fn sacctmgr(&self, arguments: &[&str]) -> Result<String> {
        self.command_line(&[&["sacctmgr", "-i"], arguments].concat()).await
    }

    /// Runs `scontrol` as administrator and returns what it wrote.
    pub async fn scontrol(&self, arguments: &[&str]) -> Result<String> {
        self.command_line(&[&["scontrol"], arguments].concat()).await
    }

    /// The line of a QOS in slurmctld's memory: limits, and in brackets what is used of them.
    pub async fn assoc_mgr_qos(&self, name: &str) -> Result<String> {
        self.scontrol(&["-o", "show", "assoc_mgr", "flags=qos", &format!("qos={name}")]).await
    }

    /// Writes a script for `sh` that runs a command with its arguments as the cluster's administrator: `sh FILE squeue`. Its token lasts a day.
    pub fn write_shell(&self, path: &Path) -> Result<()> {
        write_private(path, &self.namespace.script("root:root", &self.environment(DAY)))
    }

    /// Makes a user known to the machines, not to the accounting.
    pub fn add_user(&self, name: &str) -> Result<()> {
        self.home.add_user(name)
    }

    /// Makes an account.
    pub async fn create_account(&self, name: &str, parent: &str) -> Result<()> {
        self.sacctmgr(&["add", "account", name, &format!("parent={parent}")]).await.map(drop)
    }

    /// Lets a user work under an account, everywhere or on one partition.
    pub async fn create_association(&self, user: &str, account: &str, partition: Option<&str>) -> Result<()> {
        let account = format!("account={account}");
        let partition = partition.map(|partition| format!("partition={partition}"));
        let mut arguments = vec!["add", "user", user, account.as_str()];
        arguments.extend(partition.as_deref());
        self.sacctmgr(&arguments).await.map(drop)
    }

    async fn command_line(&self, words: &[&str]) -> Result<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        self.namespace.output("root:root", &self.environment(LIFETIME), &words).await
    }

    fn environment(&self, lifetime: Duration) -> [(&'static str, String); 2] {
        [("SLURM_CONF", format!("{}/slurm.conf", self.home.inside())), ("SLURM_JWT", self.token("root", lifetime))]
    }
}
