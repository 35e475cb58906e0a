//! Credentials that clusters give out themselves.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use crate::cluster::Cluster;
use crate::error::Result;
use crate::kubeconfig::{Credential, Kubeconfig};

const DAY_SECONDS: i64 = 86_400;

impl Cluster {
    /// A token of a ServiceAccount for a day, as `kubectl create token` gets it. Both must exist.
    pub async fn token(&self, namespace: &str, service_account: &str) -> Result<String> {
        self.token_for(namespace, service_account, DAY_SECONDS).await
    }

    /// A token of a ServiceAccount for some seconds; the server gives no less than 600.
    pub async fn token_for(&self, namespace: &str, service_account: &str, seconds: i64) -> Result<String> {
        let request =
            TokenRequest { spec: TokenRequestSpec { expiration_seconds: Some(seconds), ..TokenRequestSpec::default() }, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin(), namespace);
        let answer = accounts
            .create_token_request(service_account, &PostParams::default(), &request)
            .await
            .map_err(self.asking(format!("token of {namespace}/{service_account}")))?;
        Ok(answer.status.map(|status| status.token).unwrap_or_default())
    }

    /// A kubeconfig with a token of a ServiceAccount, past the proxy. Namespace and account are made when they lack.
    pub async fn kubeconfig_of(&self, namespace: &str, service_account: &str) -> Result<Kubeconfig> {
        self.ensure_namespace(namespace).await?;
        self.ensure_service_account(namespace, service_account).await?;
        let token = self.token(namespace, service_account).await?;
        Ok(self.kubeconfig(Credential::Token(token)))
    }

    /// Makes a namespace, if there is none of that name.
    pub async fn ensure_namespace(&self, name: &str) -> Result<()> {
        let namespace = Namespace { metadata: named(name), ..Namespace::default() };
        let api: Api<Namespace> = Api::all(self.admin());
        exists(api.create(&PostParams::default(), &namespace).await).map_err(self.asking(format!("create Namespace {name}")))
    }

    /// Makes a ServiceAccount, if there is none of that name.
    pub async fn ensure_service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        let api: Api<ServiceAccount> = Api::namespaced(self.admin(), namespace);
        exists(api.create(&PostParams::default(), &account).await).map_err(self.asking(format!("create ServiceAccount {namespace}/{name}")))
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn exists<T>(created: kube::Result<T>) -> kube::Result<()> {
    match created {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}
