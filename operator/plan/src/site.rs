//! The site's side: the index of what is there, and planning from an intent.

pub mod altered;
pub mod factory;
pub mod grant;
pub mod held;
pub mod index;
pub mod orphan;
pub mod policy;
pub mod pool;
pub mod pools;
pub mod reconcile;
pub mod refusals;
pub mod usage;

#[cfg(test)]
mod tests;
