//! Network policies of a grant.
