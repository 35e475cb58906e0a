//! The CustomResourceDefinitions, as generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{AIFactory, AccessGrant, GPUPool};

/// The three definitions, in the order in which they should be applied.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![AIFactory::crd(), GPUPool::crd(), AccessGrant::crd()]
}
