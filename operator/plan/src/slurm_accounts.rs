//! A grant in a Slurm cluster: one account, one QOS a pool, associations that name user and partition.
//!
//! A plan names only calls whose conditions were read: no association before its QOS was seen with its budget, no QOS deleted before the account
//! was seen gone. So the order holds also where Slurm answers "done" and did nothing, and a pass over what is right plans nothing.

mod call;
mod state;

pub use call::{Call, Stage};
pub use state::{Account, Limit, Limits, Qos, Row, RowKey, Snapshot};
