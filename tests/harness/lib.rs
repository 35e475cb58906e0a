//! A local federation of real control planes: a hub and its sites on loopback, for the suites and the demo.
//!
//! ```no_run
//! # use aifactory_tests::{Federation, Operator, OperatorOptions, Result};
//! # async fn example() -> Result<()> {
//! let federation = Federation::builder().name("example").sites(["bissen", "bettembourg"]).start().await?;
//! federation.install(["example"]).await?;
//! let operator = Operator::start(&federation, OperatorOptions::new()).await?;
//! federation.hub().apply_path("examples/factory.yaml").await?;
//! # Ok(()) }
//! ```
//!
//! Nothing is printed here: callers get errors, and the demo listens to [`Progress`]. Whatever ends the process that
//! started a federation, the federation ends too.

mod audit;
mod await_condition;
mod cluster;
mod control_plane;
mod credentials;
mod error;
mod etcd;
mod example;
mod federation;
mod http;
mod install;
mod kubeconfig;
pub mod layout;
mod manifests;
mod metrics;
mod nodes;
mod operator;
mod options;
mod pki;
mod port;
mod process;
mod proxy;
mod request_log;
mod run;
mod shared;
pub mod slinky;
pub mod slurm;
mod usage;
mod watchdog;

pub use audit::{ADMIN_USER, AuditLog, KWOK_USER, Mark, Request, Requests};
pub use await_condition::{Observed, eventually, holds};
pub use cluster::{Cluster, Snapshot};
pub use control_plane::Component;
pub use error::{Error, Result};
pub use example::{examples, two_sites_nodes};
pub use federation::{Federation, FederationBuilder, Progress};
pub use install::{CREDENTIALS_ROLE, HUB_ACCOUNT, KUBECONFIG_KEY, SITE_ACCOUNT, SYSTEM_NAMESPACE, credential_name};
pub use kubeconfig::{Credential, Kubeconfig};
pub use manifests::{MANAGER, Manifests, await_established};
pub use metrics::{Metrics, Sample};
pub use nodes::{GpuNode, OFFERED, PRODUCT};
pub use operator::{Operator, OperatorOptions};
pub use options::ClusterOptions;
pub use pki::{Authority, Identity};
pub use proxy::{Cut, Proxy, Traffic};
pub use request_log::RequestLog;
pub use shared::{Lent, Shared, run, run_beside};
pub use slinky::SlinkyStandIn;
pub use usage::Usage;
