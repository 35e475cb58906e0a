//! The pure core: values in, values out. No client, clock, environment or global; time is an input.
//!
//! - [`model`]: what hub and sites send each other, and what a plan is made of.
//! - [`hub`]: from resources to intents (`project`), and from reports to status (`aggregate`).
//! - [`site`]: what a site knows (`index`, `usage`), and from an intent to a plan (`reconcile`).
//! - [`engine`]: the systems that do the work at a site, one folder each.
//!
//! `hub` and `site` know `model` and `engine`, and not each other.

pub mod engine;
pub mod hub;
pub mod model;
pub mod site;
