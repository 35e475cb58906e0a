//! A site's Slurm: its own REST, and Slinky on Kubernetes.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::factory::LocalRef;
use crate::managed_slurm::{self, ManagedSlurm};

/// A Slurm cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteSlurm {
    /// Slurm's ClusterName, for example `bissen`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    pub cluster_name: String,
    /// Slurm's own REST, through which accounts, QOS and budgets are made and usage is read. Without it no grant is bound to a Slurm pool here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<SlurmRest>,
    /// Slurm on Kubernetes through Slinky's slurm-operator: partitions are NodeSets. Left out: the partitions exist already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slinky: Option<Slinky>,
}

/// How slurmrestd is reached: v0.0.44, which Slurm 25.11 and later serve.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.tokenSecretRef) != has(self.keySecretRef)").message("slurm.rest: exactly one of `tokenSecretRef` and `keySecretRef` must be set; example: `tokenSecretRef: {name: bissen-slurm, key: token}`"))]
pub struct SlurmRest {
    /// URL of slurmrestd, for example `https://slurm.bissen.example:6820`. Plain http carries the token in the open: only for loopback and private networks.
    #[schemars(regex(pattern = r"^https?://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[1-9][0-9]{0,4})?/?$"), length(min = 8, max = 256))]
    pub url: String,
    /// Secret in the AIFactory's namespace with a token of a Slurm administrator, as `scontrol token` prints it. Exactly one of this and keySecretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SlurmSecretRef>,
    /// Secret in the AIFactory's namespace with the cluster's `jwt_hs256.key`, with which the operator signs tokens that live for five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret_ref: Option<SlurmSecretRef>,
    /// The Slurm user that signed tokens are for, with AdminLevel Administrator, for example `slurm`.
    #[serde(default = "default_user")]
    #[schemars(regex(pattern = r"^[a-z_][-a-z0-9_]*$"), length(min = 1, max = 32))]
    pub user: String,
    /// Certificates (PEM) that the server's certificate must be signed by, for example `-----BEGIN CERTIFICATE-----…`. Left out: those of the operator's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub ca_bundle: Option<String>,
    /// The account below which grants' accounts are made, which must exist, for example `eu-aif`. Its limits bound every grant.
    #[serde(default = "default_parent")]
    #[schemars(regex(pattern = r"^[a-z][-_a-z0-9]*$"), length(min = 1, max = 40))]
    pub parent_account: String,
}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct SlurmSecretRef {
    /// Name of the Secret, for example `bissen-slurm`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret, for example `token`.
    #[schemars(regex(pattern = r"^[-._a-zA-Z0-9]+$"), length(min = 1, max = 253))]
    pub key: String,
}

fn default_user() -> String {
    "slurm".to_owned()
}

fn default_parent() -> String {
    "root".to_owned()
}

/// Slurm on Kubernetes, with a Controller that the site runs or one that the operator sets up.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.controllerRef) != has(self.managed)").message("slurm.slinky: exactly one of `controllerRef` and `managed` must be set; example: `controllerRef: {name: slurm}`"))]
pub struct Slinky {
    /// Namespace of the Controller, which the site labels `site.aifactory.dev/engine: slinky`. Example: `slurm`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub namespace: String,
    /// The Controller, which the site admin runs. Exactly one of this and managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_ref: Option<LocalRef>,
    /// Controller, accounting, REST and keys made by the operator. Exactly one of this and controllerRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedSlurm>,
    /// slurmd image, with a prefix that the site's policy allows, for example `ghcr.io/slinkyproject/slurmd:26.05-ubuntu26.04`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9./:_@]*[a-z0-9])?$"), length(min = 1, max = 255))]
    pub image: String,
    /// MinJobAge of this Slurm, for example `300s`: how long an emptied partition stays before its NodeSet is deleted.
    #[serde(default = "default_min_job_age")]
    #[schemars(regex(pattern = r"^(0|[1-9][0-9]{0,6})(s|m|h)$"), length(max = 8))]
    pub min_job_age: String,
    /// Who reaches this Slurm over the network. Left out: the NetworkPolicies of its namespace are the site admin's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<SlinkyAccess>,
}

impl Slinky {
    /// Name of the Controller.
    pub fn controller(&self) -> &str {
        match (&self.controller_ref, &self.managed) {
            (Some(named), None) => &named.name,
            (_, Some(_)) => managed_slurm::NAME,
            (None, None) => "",
        }
    }
}

/// Who reaches Slurm's daemons, in NetworkPolicies `aif-slurm-...` of its namespace: its own daemons reach each other as Slurm needs, slurm-operator
/// and ours reach REST (6820), and beyond that only what is said here. Everything else that comes in is denied, also to other Pods of the
/// namespace; what the site needs besides (metrics) it opens by policies of its own.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlinkyAccess {
    /// Ranges from which people log in (22), for example `198.51.100.0/24`. Left out: nobody does.
    #[serde(default, rename = "loginCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("slinky.access.loginCIDRs: each must be a CIDR without host bits; examples: `198.51.100.0/24`, `2001:db8::/48`"))]
    pub login_cidrs: Vec<String>,
    /// Ranges that reach REST (6820), for example `203.0.113.7/32`; that of a hub elsewhere is one of them.
    #[serde(default, rename = "restCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("slinky.access.restCIDRs: each must be a CIDR without host bits; examples: `203.0.113.7/32`, `2001:db8::/48`"))]
    pub rest_cidrs: Vec<String>,
    /// What Pods of grants reach here, for example `Login`. Left out: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub tenants: Vec<SlurmService>,
    /// Namespace in which slurm-operator runs, for example `slinky`.
    #[serde(default = "default_operator_namespace")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub operator_namespace: String,
}

/// A service of Slurm's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SlurmService {
    /// The login nodes, port 22.
    Login,
    /// slurmrestd, port 6820.
    Rest,
    /// A value that this release does not know: opens nothing.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

fn default_operator_namespace() -> String {
    "slinky".to_owned()
}

fn default_min_job_age() -> String {
    "300s".to_owned()
}
