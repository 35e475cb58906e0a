//! Mistakes in a GPUPool.

use aifactory_tests::run;
use serde_json::json;

use super::Outcome;
use super::mistake::{Base, Mistake, check};

fn row(name: &'static str) -> Mistake {
    Mistake::new(name, Base::Pool)
}

const LABELS: &str = "/spec/nodes/adopt/selector/matchLabels";
const BOTH: &[&str] = &["exactly one of `slurm` and `kubernetes` must be set", "example: `kubernetes: {}`"];
const DEFAULT: &[&str] = &["partition: DEFAULT and ALL are words of Slurm's own", "example: `h100`"];

fn rows() -> Vec<Mistake> {
    vec![
        row("sold twice").wrote("/spec/slurm", json!({"partition": "h100"})).error(BOTH),
        row("not sold at all").wrote("/spec/kubernetes", json!(null)).error(BOTH),
        row("Kubernetes with nothing after it").left_empty("/spec", "kubernetes").error(BOTH),
        Mistake::new("the partition that Slurm calls DEFAULT", Base::SlurmPool)
            .wrote("/spec/slurm/partition", json!("DEFAULT"))
            .error(&["spec.slurm.partition", "should match"])
            .error(DEFAULT),
        Mistake::new("the same in lower case at one site", Base::SlurmPool)
            .wrote("/spec/sites/0/slurm", json!({"partition": "default"}))
            .meant("/spec/sites/0/slurm", json!({"partition": "acc"}))
            .error(DEFAULT),
        Mistake::new("the word for every node", Base::SlurmPool).wrote("/spec/slurm/partition", json!("all")).error(DEFAULT),
        Mistake::new("a tier that Slurm does not have", Base::SlurmPool)
            .wrote("/spec/slurm/priorityTier", json!(65534))
            .error(&["spec.slurm.priorityTier", "65533"]),
        Mistake::new("a partition's name with a comma", Base::SlurmPool)
            .wrote("/spec/slurm/partition", json!("h100,debug"))
            .error(&["spec.slurm.partition", "should match"]),
        Mistake::new("a wall time as Slurm writes it", Base::SlurmPool)
            .wrote("/spec/slurm/maxWallTime", json!("24:00:00"))
            .meant("/spec/slurm/maxWallTime", json!("24h"))
            .error(&["maxWallTime", "Too long"]),
        row("a partition in a pool for Kubernetes")
            .wrote("/spec/sites/0/slurm", json!({"partition": "acc"}))
            .error(&["sites[].slurm: only a pool with `slurm` has partitions", "example:"]),
        row("no source of nodes").wrote("/spec/nodes", json!(null)).error(&["nodes: say where nodes come from", "example: `nodes: {adopt:"]),
        row("a source of nodes for one of two sites")
            .given("/spec/nodes", json!(null))
            .given("/spec/sites/0/nodes", json!({"adopt": {"selector": {"matchLabels": {"gpu": "h100"}}}}))
            .meant("/spec/sites/1/nodes", json!({"adopt": {"selector": {"matchLabels": {"gpu": "h100"}}}}))
            .error(&["nodes: say where nodes come from, for the pool or for each site"]),
        row("nodes without a way").wrote("/spec/nodes", json!({})).error(&["spec.nodes.adopt", "Required value"]),
        row("a selector that selects all").wrote(LABELS, json!({})).error(&["matchLabels", "at least 1 properties"]),
        row("a label's value that YAML reads as a boolean")
            .wrote(LABELS, json!({"gpu": true}))
            .meant(LABELS, json!({"gpu": "true"}))
            .error(&["matchLabels.gpu", "must be of type string: \"boolean\""]),
        row("a selector of the operator's own label")
            .wrote(LABELS, json!({"aifactory.dev/pool": "h100"}))
            .meant(LABELS, json!({"site.aifactory.dev/hall": "1"}))
            .error(&["matchLabels: labels of aifactory.dev are the operator's own", "`nvidia.com/gpu.product: NVIDIA-H200`"]),
        row("fewer than no nodes")
            .wrote("/spec/sites/0/count", json!(-1))
            .meant("/spec/sites/0/count", json!(0))
            .error(&["spec.sites[0].count", "greater than or equal to 0"]),
        row("a number as a text").wrote("/spec/sites/0/count", json!("16")).error(&["spec.sites[0].count", "must be of type integer: \"string\""]),
        row("no GPU in a node")
            .wrote("/spec/accelerator/perNode", json!(0))
            .meant("/spec/accelerator/perNode", json!(1))
            .error(&["spec.accelerator.perNode", "greater than or equal to 1"]),
        row("memory with a unit")
            .wrote("/spec/perGPU/memoryGiB", json!("120Gi"))
            .error(&["spec.perGPU.memoryGiB", "must be of type integer: \"string\""]),
        row("a resource that is no accelerator")
            .wrote("/spec/accelerator/resourceName", json!("cpu"))
            .meant("/spec/accelerator/resourceName", json!("nvidia.com/mig-1g.10gb"))
            .error(&["spec.accelerator.resourceName", "should match", "nvidia"]),
        row("no site").wrote("/spec/sites", json!([])).error(&["spec.sites", "at least 1 items"]),
        row("one site twice").wrote("/spec/sites/1/name", json!("bissen")).error(&["spec.sites[1]", "Duplicate value"]),
        row("a state of something else").wrote("/spec/sites/0/state", json!("Paused")).meant("/spec/sites/0/state", json!("Draining")).error(&[
            "spec.sites[0].state",
            "\"Paused\"",
            "\"Active\", \"Draining\"",
        ]),
        row("a consumer without namespaces")
            .wrote("/spec/consumers/0/namespaces/names", json!([]))
            .error(&["consumers[0].namespaces.names", "at least 1 items"]),
        row("a consumer by its title")
            .wrote("/spec/consumers/0/namespaces/names", json!(["Antenna Ireland"]))
            .error(&["consumers[0].namespaces.names[0]", "should match"]),
        row("a share of nothing").wrote("/spec/consumers/0/maxGPUs", json!(0)).error(&["consumers[0].maxGPUs", "greater than or equal to 1"]),
        row("the source of a later release").wrote("/spec/nodes/clusterAPI", json!({})).error(&["unknown field \"spec.nodes.clusterAPI\""]),
    ]
}

#[test]
fn pools() -> Outcome {
    run(check(rows(), 24))
}
