//! What a cluster is started with.

/// A virtual node, alone in one partition.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The partition that it is in.
    pub partition: String,
    /// Type and count of its GPUs.
    pub gpus: Option<(String, u32)>,
}

impl Node {
    /// A node with GPUs.
    pub fn with_gpus(name: &str, partition: &str, kind: &str, count: u32) -> Self {
        Self { name: name.to_owned(), partition: partition.to_owned(), gpus: Some((kind.to_owned(), count)) }
    }

    /// A node without GPUs.
    pub fn without_gpus(name: &str, partition: &str) -> Self {
        Self { name: name.to_owned(), partition: partition.to_owned(), gpus: None }
    }
}

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Slurm's `ClusterName`.
    pub name: String,
    /// The nodes; those with the same partition make it up. The first one's is the default partition.
    pub nodes: Vec<Node>,
    /// The account below which the factory works, made at the start.
    pub parent_account: String,
    /// Further lines of slurm.conf.
    pub extra: Vec<String>,
}

impl Options {
    /// Partitions `h100` (node n1), `a100` (n2), four GPUs each, and `cpu` (n3), and the parent account `eu-aif`.
    pub fn new(name: &str) -> Self {
        let nodes = vec![Node::with_gpus("n1", "h100", "h100", 4), Node::with_gpus("n2", "a100", "a100", 4), Node::without_gpus("n3", "cpu")];
        Self { name: name.to_owned(), nodes, parent_account: "eu-aif".to_owned(), extra: Vec::new() }
    }

    /// Other nodes.
    pub fn nodes(mut self, nodes: impl IntoIterator<Item = Node>) -> Self {
        self.nodes = nodes.into_iter().collect();
        self
    }

    /// A further line of slurm.conf.
    pub fn line(mut self, line: &str) -> Self {
        self.extra.push(line.to_owned());
        self
    }
}
