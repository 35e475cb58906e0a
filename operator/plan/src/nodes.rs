//! Nodes of pools.
