//! A grant in a Slurm cluster: one account, one QOS a pool, associations that name user and partition.
//!
//! A plan names only calls whose conditions were read: no association before its QOS was seen with its budget, no QOS deleted before the account
//! was seen gone. So the order holds also where Slurm answers "done" and did nothing, and a pass over what is right plans nothing.

mod call;
mod claim;
mod decide;
mod delete;
mod end;
mod engine;
mod establish;
mod found;
mod hold;
mod members;
mod names;
mod others;
mod record;
mod removal;
mod removal_progress;
mod state;
mod target;
pub mod usage;
mod view;

pub use call::{Call, Stage};
pub use claim::{Claim, Standing, standing};
pub use decide::{plan_gone, plan_grant, scope};
pub use engine::SlurmAccounts;
pub use found::{HeldAccount, adopt_mark, adoptable, held, silent_accounts};
pub use names::{SLURM_CLAIM_PREFIX, SLURM_PREFIX, SlurmScope, claim_account};
pub use record::{Record, RowMark, State};
pub use removal_progress::RemovalProgress;
pub use state::{Account, Limit, Limits, Qos, Row, RowKey, Snapshot};
pub use view::{AccountPlan, AccountView, all_closed};
