//! Whether the word of a site about access is true, through index and reconciliation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod access;
mod altered;
mod end;
mod store;
