//! The programs of a cluster.

/// A program of a cluster that tests stop, freeze and start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// mariadbd.
    Database,
    /// The accounting daemon.
    Slurmdbd,
    /// The controller.
    Slurmctld,
    /// The daemon of the node with this name.
    Slurmd(String),
    /// slurmrestd.
    Rest,
}

impl Daemon {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Database => "mariadbd".to_owned(),
            Self::Slurmdbd => "slurmdbd".to_owned(),
            Self::Slurmctld => "slurmctld".to_owned(),
            Self::Slurmd(node) => format!("slurmd-{node}"),
            Self::Rest => "slurmrestd".to_owned(),
        }
    }

    pub(super) fn user(&self) -> &'static str {
        match self {
            Self::Database | Self::Slurmdbd | Self::Slurmctld => "slurm:slurm",
            Self::Slurmd(_) => "root:root",
            Self::Rest => "rest:rest",
        }
    }
}
