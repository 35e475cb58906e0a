//! Putting the product's roles, policies and CRDs on the clusters, and the credentials that its operator uses.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::cluster::Cluster;
use crate::error::Result;
use crate::federation::Federation;
use crate::kubeconfig::Kubeconfig;
use crate::layout;
use crate::manifests::{MANAGER, Manifests};

/// Namespace of the operator on the hub, and of its account on sites.
pub const SYSTEM_NAMESPACE: &str = "aifactory-system";
/// The operator's ServiceAccount on the hub.
pub const HUB_ACCOUNT: &str = "aifactory-operator";
/// The ServiceAccount on sites that the operator uses.
pub const SITE_ACCOUNT: &str = "aifactory-site";
/// Role of the hub, and RoleBinding in each factory's namespace, that lets the operator read credentials there.
pub const CREDENTIALS_ROLE: &str = "aifactory-credentials";
/// Key of the kubeconfig in a credential Secret.
pub const KUBECONFIG_KEY: &str = "kubeconfig";

impl Cluster {
    /// Applies a text with manifests as the harness's administrator.
    pub async fn apply(&self, text: &str) -> Result<Vec<kube::api::DynamicObject>> {
        Manifests::parse("text", text)?.apply(&self.admin(), MANAGER).await
    }

    /// Applies a file, or all `*.yaml` of a directory.
    pub async fn apply_path(&self, path: impl AsRef<Path>) -> Result<Vec<kube::api::DynamicObject>> {
        Manifests::read(path.as_ref())?.apply(&self.admin(), MANAGER).await
    }

    /// Deletes what a text with manifests names, as the harness's administrator.
    pub async fn delete(&self, text: &str) -> Result<()> {
        Manifests::parse("text", text)?.delete(&self.admin()).await
    }

    /// Applies what the site's administrator installs: the role of the operator and the policies that confine it.
    pub async fn install_site(&self) -> Result<()> {
        self.ensure_namespace(SYSTEM_NAMESPACE).await?;
        self.ensure_service_account(SYSTEM_NAMESPACE, SITE_ACCOUNT).await?;
        self.apply_directory("charts/aifactory-site").await
    }

    /// Makes a hub a site of its own (`local`): what a site installs, and the site's role for the operator's account.
    pub async fn install_local_site(&self) -> Result<()> {
        self.install_site().await?;
        self.apply_directory("charts/aifactory-site/local").await
    }

    /// Applies CRDs, the operator's role and the policies of a hub.
    pub async fn install_hub(&self) -> Result<()> {
        self.ensure_namespace(SYSTEM_NAMESPACE).await?;
        self.ensure_service_account(SYSTEM_NAMESPACE, HUB_ACCOUNT).await?;
        self.apply_directory("crds").await?;
        self.apply_directory("charts/aifactory-hub").await
    }

    /// A kubeconfig with which the operator reaches this site: token of [`SITE_ACCOUNT`], through the proxy.
    pub async fn site_kubeconfig(&self) -> Result<Kubeconfig> {
        let kubeconfig = self.kubeconfig_of(SYSTEM_NAMESPACE, SITE_ACCOUNT).await?;
        Ok(kubeconfig.at(self.proxy().address()))
    }

    /// A kubeconfig with which the operator reaches this hub: token of [`HUB_ACCOUNT`], past the proxy.
    pub async fn hub_kubeconfig(&self) -> Result<Kubeconfig> {
        self.kubeconfig_of(SYSTEM_NAMESPACE, HUB_ACCOUNT).await
    }

    async fn apply_directory(&self, directory: &str) -> Result<()> {
        let path = layout::root().join(directory);
        if path.is_dir() {
            self.apply_path(path).await?;
        }
        Ok(())
    }
}

impl Federation {
    /// Installs the product: the hub's part on the hub, the site's part on all sites that run, and for each of the
    /// namespaces what [`Federation::admit_factory`] does.
    pub async fn install<'a>(&self, factory_namespaces: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let sites = self.sites().iter().filter(|site| site.is_running());
        futures::future::try_join(self.hub().install_hub(), futures::future::try_join_all(sites.map(Cluster::install_site))).await?;
        for namespace in factory_namespaces {
            self.admit_factory(namespace).await?;
        }
        Ok(())
    }

    /// Prepares a factory team's namespace on the hub: the namespace, the RoleBinding [`CREDENTIALS_ROLE`], and for
    /// each site that runs the Secret `<site>-kubeconfig`.
    pub async fn admit_factory(&self, namespace: &str) -> Result<()> {
        self.hub().ensure_namespace(namespace).await?;
        self.bind_credentials(namespace).await?;
        for site in self.sites().iter().filter(|site| site.is_running()) {
            let kubeconfig = site.site_kubeconfig().await?.to_yaml()?;
            self.put_credential(namespace, &credential_name(site.name()), &kubeconfig).await?;
        }
        Ok(())
    }

    /// Lets the operator read the credentials in a namespace of the hub.
    pub async fn bind_credentials(&self, namespace: &str) -> Result<()> {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": CREDENTIALS_ROLE, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": CREDENTIALS_ROLE},
            "subjects": [{"kind": "ServiceAccount", "name": HUB_ACCOUNT, "namespace": SYSTEM_NAMESPACE}],
        });
        self.hub().apply(&binding.to_string()).await.map(drop)
    }

    /// Writes a credential Secret on the hub; any text, so that bad ones can be tried.
    pub async fn put_credential(&self, namespace: &str, name: &str, kubeconfig: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "Opaque",
            "data": {KUBECONFIG_KEY: STANDARD.encode(kubeconfig)},
        });
        self.hub().apply(&secret.to_string()).await.map(drop)
    }
}

/// Name of the Secret that holds the credential of a site.
pub fn credential_name(site: &str) -> String {
    format!("{site}-kubeconfig")
}
