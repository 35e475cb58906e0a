//! Whether a site reports access truthfully, through index and reconciliation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod access;
mod altered;
mod end;
mod store;
