//! A Slurm that the operator itself sets up through Slinky.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::slurm::SlurmSecretRef;

/// Name of the Controller, Accounting, RestApi and Token of a managed Slurm. One cluster is one site, so it is the only one there.
pub const NAME: &str = "aif-slurm";
/// Secret with the key by which Slurm's daemons know each other.
pub const SLURM_KEY: (&str, &str) = ("aif-slurm-key", "slurm.key");
/// Secret with the key that tokens for REST are signed with.
pub const JWT_KEY: (&str, &str) = ("aif-slurm-jwt", "jwt_hs256.key");

/// A Slurm that the operator sets up in the namespace: slurmctld, slurmdbd and slurmrestd, a token for the user `slurm`, and the keys, which are made
/// once and never changed or read again. The site binds the ClusterRole `aifactory-slurm` in the namespace and allows the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedSlurm {
    /// slurmctld image, with a prefix that the site's policy allows, for example `ghcr.io/slinkyproject/slurmctld:26.05-ubuntu26.04`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9./:_@]*[a-z0-9])?$"), length(min = 1, max = 255))]
    pub slurmctld_image: String,
    /// slurmdbd image, likewise, for example `ghcr.io/slinkyproject/slurmdbd:26.05-ubuntu26.04`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9./:_@]*[a-z0-9])?$"), length(min = 1, max = 255))]
    pub slurmdbd_image: String,
    /// slurmrestd image, likewise, for example `ghcr.io/slinkyproject/slurmrestd:26.05-ubuntu26.04`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9./:_@]*[a-z0-9])?$"), length(min = 1, max = 255))]
    pub slurmrestd_image: String,
    /// The database that Slurm's accounting is kept in.
    pub accounting: SlurmDatabase,
    /// The volume on which slurmctld keeps its jobs. What is said first stays: a StatefulSet's volume is not changed later.
    pub storage: SlurmStorage,
    /// MaxNodeCount, 1 to 65533, where the site may have more than Slinky's 1024 nodes, for example `4096`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65533))]
    pub max_nodes: Option<i32>,
}

/// A MariaDB or MySQL that the site runs.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlurmDatabase {
    /// Its address, for example `mariadb.slurm.svc`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(min = 1, max = 253))]
    pub host: String,
    /// Its port, 1 to 65535, for example `3306`.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Its name, for example `slurm_acct_db`.
    #[serde(default = "default_database")]
    #[schemars(regex(pattern = r"^[a-z_][a-z0-9_]*$"), length(min = 1, max = 64))]
    pub database: String,
    /// The user that slurmdbd logs in as, for example `slurm`.
    #[serde(default = "default_user")]
    #[schemars(regex(pattern = r"^[a-z_][-a-z0-9_]*$"), length(min = 1, max = 32))]
    pub user: String,
    /// Secret with that user's password, in Slurm's namespace and made by the site. Its name begins with `aifactory-`, by which the site says that it is
    /// for this. Example: `{name: aifactory-slurm-db, key: password}`.
    #[x_kube(validation = Rule::new("self.name.startsWith('aifactory-')").message("managed.accounting.passwordSecretRef: the Secret's name must begin with `aifactory-`; example: `passwordSecretRef: {name: aifactory-slurm-db, key: password}`"))]
    pub password_secret_ref: SlurmSecretRef,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlurmStorage {
    /// Its size, for example `10Gi`.
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,5}(Mi|Gi|Ti)$"), length(max = 8))]
    pub size: String,
    /// Its class, for example `fast-ssd`. Left out: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

fn default_port() -> i32 {
    3306
}

fn default_database() -> String {
    "slurm_acct_db".to_owned()
}

fn default_user() -> String {
    "slurm".to_owned()
}
