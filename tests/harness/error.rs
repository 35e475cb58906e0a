//! What can go wrong while a federation is started, used or stopped.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A failure of the harness, never of the product under test. Its `Debug` is its `Display`, so that `unwrap` in a test
/// can be read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A binary is missing.
    #[error("{} is missing: {hint}", path.display())]
    MissingBinary {
        /// Where it was looked for.
        path: PathBuf,
        /// How to get it.
        hint: &'static str,
    },
    /// A process could not be started or signalled.
    #[error("process {name}: {source}")]
    Process {
        /// Name of the process.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A process ended that should run.
    #[error("process {name} ended with {status}; the end of {}:\n{tail}", log.display())]
    Ended {
        /// Name of the process.
        name: String,
        /// Its exit status.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A loopback port could not be had.
    #[error("no loopback port: {0}")]
    Port(#[source] io::Error),
    /// A command that failed.
    #[error("{command}: {status}: {output}")]
    Command {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote.
        output: String,
    },
    /// A certificate or key could not be made.
    #[error("certificate for {subject}: {source}")]
    Certificate {
        /// Whose certificate.
        subject: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// A certificate can carry two groups at most.
    #[error("certificate for {user}: {count} groups asked, two fit; use a ServiceAccount token for more")]
    TooManyGroups {
        /// The user.
        user: String,
        /// How many groups were asked.
        count: usize,
    },
    /// A kubeconfig that can not be used.
    #[error("kubeconfig for {server}: {message}")]
    Kubeconfig {
        /// The server it names.
        server: String,
        /// What is wrong.
        message: String,
    },
    /// A cluster refused a request or could not be asked.
    #[error("{cluster}: {action}: {source}")]
    Cluster {
        /// The cluster asked.
        cluster: String,
        /// What was asked.
        action: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// A manifest that can not be read or applied.
    #[error("manifest {origin}, document {document}: {message}")]
    Manifest {
        /// File or text that holds it.
        origin: String,
        /// Number of the document, from 1.
        document: usize,
        /// What is wrong.
        message: String,
    },
    /// A line of an audit log that is no audit event.
    #[error("audit log {}: {source}", path.display())]
    Audit {
        /// The log.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A condition that was not met in time.
    #[error("{what}: not within {timeout:?}; last seen: {last}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// For how long.
        timeout: Duration,
        /// The value seen last.
        last: String,
    },
    /// A condition that had to hold and did not.
    #[error("{what}: broken after {after:?}: {seen}")]
    Broken {
        /// What had to hold.
        what: String,
        /// When it broke.
        after: Duration,
        /// What was seen instead.
        seen: String,
    },
    /// No such site.
    #[error("the federation has no site {0:?}")]
    NoSuchSite(String),
    /// The directory belongs to a federation that runs.
    #[error("{} belongs to a federation that runs; stop it first", .0.display())]
    InUse(PathBuf),
    /// The wish contradicts how the federation was built.
    #[error("{cluster}: {message}")]
    Unsupported {
        /// The cluster.
        cluster: String,
        /// What does not fit.
        message: &'static str,
    },
    /// An HTTP answer of a process that can not be read.
    #[error("{url}: {message}")]
    Http {
        /// What was asked for.
        url: String,
        /// What came instead.
        message: String,
    },
}

/// Result of the harness.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the file that an I/O error is about.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), source }
}

/// Names the cluster and the request that an API error is about.
pub(crate) fn asking(cluster: &str, action: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let cluster = cluster.to_owned();
    let action = action.into();
    move |source| Error::Cluster { cluster, action, source: Box::new(source) }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Error {
    /// The answer of the API server, when this is one.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Cluster { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }
}
