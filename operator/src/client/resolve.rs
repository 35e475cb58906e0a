//! Name resolution that keeps a site's name from leading back to the operator's own host.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::{net::lookup_host, time::timeout};
use tower::Service;

use super::CONNECT_TIMEOUT;
use crate::credential::AddressRules;

/// Why a name led nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The resolver failed.
    #[error("the host name {host} could not be resolved")]
    Lookup {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The resolver did not answer.
    #[error("the host name {host} was not resolved in time")]
    Timeout {
        /// The name.
        host: String,
    },
    /// Every address is one that no site may have.
    #[error("the host name {host} leads to addresses that are not allowed ({why}); --allow-site-cidr can permit a range")]
    Forbidden {
        /// The name.
        host: String,
        /// What is there.
        why: &'static str,
    },
}

/// Resolves names and drops forbidden addresses, at every connection: a name that was harmless yesterday may not be today.
///
/// Addresses inside a URL never come here; they are judged when the credential is read.
#[derive(Clone, Debug)]
pub(super) struct SiteResolver {
    rules: Option<AddressRules>,
}

impl SiteResolver {
    pub(super) fn new(rules: Option<AddressRules>) -> Self {
        Self { rules }
    }
}

impl Service<Name> for SiteResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ResolveError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(resolve(name.as_str().to_owned(), self.rules.clone()))
    }
}

async fn resolve(host: String, rules: Option<AddressRules>) -> Result<vec::IntoIter<SocketAddr>, ResolveError> {
    // The dot keeps the pod's search domains out: `api.team` must not become a Service `api` in a namespace `team` of the hub.
    let absolute = rules.is_some() && host.contains('.') && !host.ends_with('.');
    let query = if absolute { format!("{host}.") } else { host.clone() };
    let found = match timeout(CONNECT_TIMEOUT, lookup_host((query, 0))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(source)) => return Err(ResolveError::Lookup { host, source }),
        Err(_) => return Err(ResolveError::Timeout { host }),
    };
    let Some(rules) = rules else { return Ok(found.into_iter()) };
    let mut refused = None;
    let mut allowed = Vec::new();
    for address in found {
        match rules.refusal(address.ip()) {
            None => allowed.push(address),
            Some(why) => refused = Some(why),
        }
    }
    match refused {
        Some(why) if allowed.is_empty() => Err(ResolveError::Forbidden { host, why }),
        _ => Ok(allowed.into_iter()),
    }
}

#[cfg(test)]
mod tests {
    use super::{ResolveError, resolve};
    use crate::credential::AddressRules;

    #[tokio::test]
    async fn a_name_that_leads_to_this_host_is_refused() {
        let refused = resolve("localhost".to_owned(), Some(AddressRules::default())).await.unwrap_err();
        assert!(matches!(refused, ResolveError::Forbidden { .. }), "{refused}");
        assert!(resolve("localhost".to_owned(), None).await.unwrap().count() > 0);
        let loopback = AddressRules::allowing(["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        assert!(resolve("localhost".to_owned(), Some(loopback)).await.unwrap().count() > 0);
    }
}
