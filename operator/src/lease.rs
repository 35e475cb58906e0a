//! Leader election on a `coordination.k8s.io` Lease, and the gate that it holds open.
//!
//! Whether the lease of another process has run out is judged by how long its record has not changed on *our* monotonic clock; clocks of hosts are
//! never compared. A leader that could not renew until its deadline ends: the process must exit, since only a new one starts from a clean state.
//! Until then the [`WriteGate`] already keeps it from beginning a write.

mod elector;
mod gate;
mod record;

use std::time::Duration;

use tokio::sync::watch;

pub use elector::Elector;
pub use gate::{Gated, GatedBody, WriteGate, WriteRefused};

use crate::flags;

/// Default name of the Lease.
pub const LEASE_NAME: &str = "aifactory-operator";

/// The flags of the election. Values below a second are for tests.
#[derive(Clone, Debug, clap::Args)]
pub struct LeaseArgs {
    /// How long a standby leaves a Lease alone that its holder does not renew.
    #[arg(long, default_value = "15s", value_parser = flags::duration)]
    pub lease_duration: Duration,
    /// Time between two renewals of the Lease.
    #[arg(long, default_value = "5s", value_parser = flags::duration)]
    pub renew_interval: Duration,
    /// How long after its last renewal a leader stops to write and exits. Must lie between the other two.
    #[arg(long, default_value = "10s", value_parser = flags::duration)]
    pub renew_deadline: Duration,
}

impl LeaseArgs {
    /// The settings of a process: `instance` is its Pod's name.
    pub fn settings(&self, namespace: &str, instance: &str) -> LeaseSettings {
        LeaseSettings {
            namespace: namespace.to_owned(),
            name: LEASE_NAME.to_owned(),
            identity: identity(instance),
            lease_duration: self.lease_duration,
            renew_interval: self.renew_interval,
            renew_deadline: self.renew_deadline,
        }
    }
}

/// Which Lease, who asks for it, and how fast.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who asks; must be unique for every process, see [`identity`].
    pub identity: String,
    /// How long others leave an unchanged Lease alone.
    pub lease_duration: Duration,
    /// Time between two renewals.
    pub renew_interval: Duration,
    /// How long after the last renewal the leader still leads.
    pub renew_deadline: Duration,
}

impl LeaseSettings {
    /// Checks that a leader stops before others may start.
    pub fn validate(&self) -> Result<(), LeaseError> {
        let ordered = self.renew_interval > Duration::ZERO && self.renew_interval < self.renew_deadline && self.renew_deadline < self.lease_duration;
        if ordered { Ok(()) } else { Err(LeaseError::Settings) }
    }
}

/// A name for this process that no other has: what was given, and something random.
pub fn identity(prefix: &str) -> String {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    format!("{prefix}_{:016x}", RandomState::new().build_hasher().finish())
}

/// Why election ended. All but [`LeaseError::Settings`] mean: exit now, with a code that is not zero.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The durations do not fit together.
    #[error("--renew-interval must be shorter than --renew-deadline, and that shorter than --lease-duration")]
    Settings,
    /// The lease could not be renewed in time.
    #[error("Lease {namespace}/{name} was not renewed within {deadline:?}; this process does not lead any more")]
    Expired {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
        /// The renew deadline.
        deadline: Duration,
    },
    /// Somebody else holds it.
    #[error("Lease {namespace}/{name} was taken by {holder}; this process does not lead any more")]
    Taken {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
        /// Who holds it.
        holder: String,
    },
}

/// Whether this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Waits for its turn, with warm caches.
    Standby,
    /// Leads.
    Leader,
}

/// The state of the election, for the rest of the process.
#[derive(Clone, Debug)]
pub struct Leadership {
    role: watch::Receiver<Role>,
    gate: WriteGate,
}

impl Leadership {
    /// Leadership without an election, for commands that a person runs and for tests.
    pub fn unconditional() -> Self {
        Self { role: watch::channel(Role::Leader).1, gate: WriteGate::always_open() }
    }

    /// The gate for every client that writes.
    pub fn gate(&self) -> &WriteGate {
        &self.gate
    }

    /// Whether this process leads, and is sure of it.
    pub fn is_leader(&self) -> bool {
        *self.role.borrow() == Role::Leader && self.gate.is_open()
    }

    /// Waits until this process leads. Waits for ever if the election has ended without that.
    pub async fn acquired(&mut self) {
        if self.role.wait_for(|role| *role == Role::Leader).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the next change of the role and returns the new one, or `None` when the election has ended.
    pub async fn changed(&mut self) -> Option<Role> {
        self.role.changed().await.ok()?;
        Some(*self.role.borrow_and_update())
    }
}
