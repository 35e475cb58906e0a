//! The examples as they are tried: with dates around now, since a grant in the past gives nothing.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::error::Result;
use crate::manifests::Manifests;
use crate::nodes::GpuNode;

/// Reads the manifests of a directory. Every grant began a minute ago and ends in 90 days.
pub fn examples(directory: &Path) -> Result<Manifests> {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let mut manifests = Manifests::read(directory)?;
    for object in manifests.objects_mut() {
        let grant = object.types.as_ref().is_some_and(|types| types.kind == "AccessGrant");
        if let Some(spec) = object.data.get_mut("spec").filter(|_| grant).and_then(|spec| spec.as_object_mut()) {
            spec.insert("notBefore".to_owned(), json!((now - SignedDuration::from_secs(60)).to_string()));
            spec.insert("notAfter".to_owned(), json!((now + SignedDuration::from_hours(90 * 24)).to_string()));
        }
    }
    Ok(manifests)
}

/// The nodes that `examples/two-sites` expects at a site.
pub fn two_sites_nodes(site: &str) -> Vec<GpuNode> {
    let node = |suffix: &str, gpus: u32, product: &str| GpuNode::new(format!("{site}-{suffix}"), gpus).product(product);
    let (h200, h100, a100) = ("NVIDIA-H200", "NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB");
    let mut nodes = vec![node("h200-1", 8, h200), node("h200-2", 8, h200), node("h100-1", 4, h100)];
    if site == "bissen" {
        nodes.push(node("h100-2", 4, h100));
    } else {
        nodes.push(node("a100-1", 56, a100).resource("nvidia.com/mig-1g.10gb"));
    }
    nodes
}
