//! The pure core: values in, values out. No client, clock, environment or global; time is an input.
//!
//! `project` turns resources into intents, one a resource and site. On the site, `plan` turns an intent and what was observed into
//! steps, and `report` tells what is there. Back on the hub, `aggregate` turns reports into status.

pub mod digest;
pub mod intent;
pub mod network;
pub mod nodes;
pub mod object;
pub mod slinky;
