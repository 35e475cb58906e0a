//! What Slurm's REST answers when it does not do what it was asked for.

use aifactory_api::Reason;
use aifactory_plan::engine::slurm_accounts::Call;
use aifactory_plan::model::id::{AccountName, ClusterName};
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::text::shorten;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlurmError {
    /// Nothing came back in time, or no connection could be made.
    #[error("Slurm's REST does not answer: {0}")]
    NoAnswer(String),
    /// The token is missing, expired, or signed with another key.
    #[error("Slurm refuses the token: it is expired or of another cluster. Replace it in the Secret that slurm.rest names")]
    TokenRefused,
    /// slurmdbd or its database.
    #[error("Slurm's database does not answer: look at slurmdbd and its MariaDB")]
    DatabaseDown,
    /// slurmctld.
    #[error("slurmctld does not answer: look at its log")]
    ControllerDown,
    /// The token's user is no administrator.
    #[error("Slurm refuses the token's user the right to do this: it needs AdminLevel Administrator, as `slurm` has")]
    Forbidden,
    /// Accounts with jobs can not go.
    #[error("jobs are still active")]
    JobsActive,
    /// A default account can not go.
    #[error("it is the default account of a user who has others")]
    DefaultAccount,
    /// An account that another cluster of the same database uses can not go.
    #[error("cluster {cluster} has associations of account {account}; they go first: sacctmgr delete account {account} where cluster={cluster}")]
    UsedElsewhere {
        /// The account.
        account: AccountName,
        /// The other cluster.
        cluster: ClusterName,
    },
    /// The API version is not served.
    #[error("slurmrestd serves no v0.0.44, which Slurm 25.11 and later have: {0}")]
    UnknownVersion(String),
    /// Anything else that Slurm says no to.
    #[error("Slurm says {number}: {text}")]
    Refused {
        /// Slurm's error number.
        number: i64,
        /// Its words.
        text: String,
    },
    /// An answer that is not what the version promises.
    #[error("the answer to {path} can not be read: {why}")]
    Undecodable {
        /// What was asked.
        path: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A name that Slurm's REST would read as something else.
    #[error("{0:?} is no name that can be sent to Slurm's REST")]
    Name(String),
}

/// Whether a number is the operating system's: a connection that breaks in the middle, to the database where slurmdbd is asked.
pub fn of_system(number: i64) -> bool {
    (1..200).contains(&number)
}

impl SlurmError {
    /// Whether it is about the way to Slurm, not about what was asked.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::TokenRefused | Self::DatabaseDown | Self::ControllerDown)
    }

    /// What people should know.
    pub fn finding(&self) -> Finding {
        let message = shorten(&self.to_string(), 500);
        match self {
            Self::NoAnswer(_) => Finding::note(Reason::SiteUnreachable, message),
            Self::TokenRefused | Self::Forbidden => Finding::stalled(Reason::SlurmTokenRefused, message),
            Self::DatabaseDown => Finding::note(Reason::SlurmDatabaseDown, message),
            Self::ControllerDown => Finding::note(Reason::SlurmControllerDown, message),
            Self::UnknownVersion(_) => Finding::stalled(Reason::SlurmVersionUnknown, message),
            Self::UsedElsewhere { .. } => Finding::stalled(Reason::ForeignObject, message),
            Self::JobsActive => Finding::note(Reason::InProgress, message),
            Self::DefaultAccount | Self::Refused { .. } | Self::Undecodable { .. } | Self::Name(_) => Finding::note(Reason::SiteError, message),
        }
    }

    /// The same about one call.
    pub fn about(&self, call: &Call) -> Finding {
        let finding = self.finding();
        Finding { message: format!("{call}: {}", finding.message), ..finding }
    }
}
