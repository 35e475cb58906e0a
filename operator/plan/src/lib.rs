//! The pure core: values in, values out. No client, clock, environment or global; time is an input.
//!
//! `project` turns resources into intents, one a resource and site. On the site, `grant` and `pool` turn an intent and what was observed
//! into a plan of ordered steps, and a report tells what is there. Back on the hub, `aggregate` turns reports into status.

pub mod aggregate;
pub mod budget;
pub mod conditions;
pub mod digest;
pub mod duration;
pub mod grant;
pub mod guard_rails;
pub mod intent;
pub mod network;
pub mod nodes;
pub mod object;
pub mod orphan;
pub mod plan;
pub mod pod_time;
pub mod pool;
pub mod project;
pub mod quantity;
pub mod report;
pub mod site_policy;
pub mod slinky;
pub mod slurm_accounts;
pub mod tenancy;
pub mod text;
pub mod world;
