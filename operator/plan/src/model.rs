//! The messages between the hub and sites, and what a plan is made of.

pub mod budget;
pub mod credential_source;
pub mod digest;
pub mod duration;
pub mod freshness;
pub mod id;
pub mod intent;
pub mod kind;
pub mod lifecycle;
pub mod object;
pub mod plan;
pub mod quantity;
pub mod quota;
pub mod report;
pub mod site_key;
pub mod text;
pub mod time;
pub mod view;
pub mod visits;
