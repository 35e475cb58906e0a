//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::AdminArgs;
use crate::credential::AddressArgs;
use crate::lease::LeaseArgs;
use crate::telemetry::logging::LogArgs;

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
    /// Addresses that sites may have.
    #[command(flatten)]
    pub addresses: AddressArgs,
    /// Probes and metrics.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Leader election.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
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
