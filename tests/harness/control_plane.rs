//! The processes of a control plane and their flags.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use crate::error::Result;
use crate::layout;
use crate::process::Program;

/// A process of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Component {
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// kwok, which plays the nodes and their kubelets.
    Kwok,
}

impl Component {
    /// Name of the binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kwok => "kwok",
        }
    }
}

/// Controllers that something here waits for. Every further one costs memory and start time in each cluster.
const CONTROLLERS: &[&str] = &[
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "job-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Controllers of a cluster that runs no work.
const HUB_CONTROLLERS: &[&str] = &[
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "validatingadmissionpolicy-status-controller",
];

/// What the flags of a cluster's processes are made of. All files are in `directory`.
#[derive(Debug)]
pub(crate) struct Flags<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) directory: &'a Path,
    pub(crate) etcd: String,
    pub(crate) address: SocketAddr,
    pub(crate) runs_work: bool,
    pub(crate) api_server: &'a [String],
}

impl Flags<'_> {
    pub(crate) fn program(&self, component: Component) -> Result<Program> {
        let arguments = match component {
            Component::ApiServer => self.api_server(),
            Component::ControllerManager => self.controller_manager(),
            Component::Scheduler => self.scheduler(),
            Component::Kwok => self.kwok()?,
        };
        let name = component.name();
        Ok(Program {
            name: format!("{name} of {}", self.cluster),
            binary: layout::control_plane(name)?,
            arguments: arguments.into_iter().map(OsString::from).collect(),
            environment: Vec::new(),
            log: self.directory.join(format!("{name}.log")),
        })
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn api_server(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--etcd-servers={}", self.etcd),
            format!("--etcd-prefix=/{}", self.cluster),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.address.port()),
            "--permit-port-sharing=true".to_owned(),
            format!("--tls-cert-file={}", self.file("server.crt")),
            format!("--tls-private-key-file={}", self.file("server.key")),
            format!("--client-ca-file={}", self.file("ca.crt")),
            format!("--cert-dir={}", self.file("generated")),
            format!("--service-account-issuer=https://{}/", self.address),
            format!("--service-account-key-file={}", self.file("service-accounts.pub")),
            format!("--service-account-signing-key-file={}", self.file("service-accounts.key")),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--profiling=false".to_owned(),
            format!("--audit-policy-file={}", self.file("audit-policy.yaml")),
            format!("--audit-log-path={}", self.file("audit.log")),
            // Written before the answer is sent, in one file for ever.
            "--audit-log-mode=blocking".to_owned(),
            "--audit-log-maxsize=0".to_owned(),
        ];
        flags.extend(self.api_server.iter().cloned());
        flags
    }

    fn controller_manager(&self) -> Vec<String> {
        let controllers = if self.runs_work { CONTROLLERS } else { HUB_CONTROLLERS };
        vec![
            format!("--kubeconfig={}", self.file("controller-manager.kubeconfig")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            format!("--root-ca-file={}", self.file("ca.crt")),
            format!("--service-account-private-key-file={}", self.file("service-accounts.key")),
            // Each controller under its own name, as installers set it up: admission policies see real users.
            "--use-service-account-credentials=true".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            "--concurrent-namespace-syncs=20".to_owned(),
            "--concurrent-gc-syncs=20".to_owned(),
            format!("--controllers={}", controllers.join(",")),
        ]
    }

    fn scheduler(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.file("scheduler.kubeconfig")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ]
    }

    fn kwok(&self) -> Result<Vec<String>> {
        let stages = layout::control_plane("kwok-stages.yaml")?;
        Ok(vec![
            format!("--kubeconfig={}", self.file("kwok.kubeconfig")),
            format!("--config={}", stages.display()),
            "--manage-all-nodes=true".to_owned(),
            "--node-ip=127.0.0.1".to_owned(),
            "--node-lease-duration-seconds=40".to_owned(),
        ])
    }
}
