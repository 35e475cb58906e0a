//! A site: watched, planned for and written to by a worker of its own, so that a slow or dead one holds up nobody else.

pub mod apply;
pub mod connection;
pub mod credentials;
mod hours;
pub mod index;
mod lenient;
mod visit;
pub mod watch;
pub mod worker;
