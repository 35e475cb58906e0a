//! The local federation.
