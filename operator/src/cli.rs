//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

/// Runs AI factories over federated sites from three custom resources.
#[derive(Debug, Parser)]
#[command(name = "aifactory-operator", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the operator.
    Run(Box<Run>),
    /// Writes the CustomResourceDefinitions.
    Crds(Crds),
}

/// Runs the operator.
#[derive(Args, Debug)]
pub struct Run {
    /// Namespace of the operator on the hub.
    #[arg(long, default_value = aifactory_api::labels::SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// Kubeconfig for the hub. Left out: the Pod's own identity.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Addresses inside loopback, link-local and other ranges that sites may have all the same, for tests and demos. Repeatable.
    #[arg(long = "allow-site-cidr", value_name = "CIDR")]
    pub allow_site_cidrs: Vec<IpNet>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub metrics_address: SocketAddr,
    /// How long others leave an unchanged Lease alone, for example 15s.
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,
    /// Time between two renewals of the Lease.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub renew_interval: Duration,
    /// How long after the last renewal the leader still leads.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub renew_deadline: Duration,
    /// Format of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Honours annotations that make the operator fail. For its own tests.
    #[arg(long, hide = true)]
    pub test_hooks: bool,
}

/// Writes the CustomResourceDefinitions.
#[derive(Args, Debug)]
pub struct Crds {
    /// Directory to write to.
    #[arg(long, default_value = "crds")]
    pub directory: PathBuf,
    /// Writes nothing; fails if the files differ.
    #[arg(long)]
    pub check: bool,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads `15s`, `500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a duration; examples: 15s, 500ms, 2m"))?;
    match text.get(digits.len()..) {
        Some("ms") => Ok(Duration::from_millis(number)),
        Some("s") => Ok(Duration::from_secs(number)),
        Some("m") => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("{text:?} is not a duration; examples: 15s, 500ms, 2m")),
    }
}
