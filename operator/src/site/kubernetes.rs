//! A site's Kubernetes: contact, watches, writes, and the driver that reconciles there.

pub mod apply;
pub mod contact;
#[cfg(test)]
mod role_tests;
pub mod watch;
pub mod worker;
