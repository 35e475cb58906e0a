//! Reads the few fields that we use from an untrusted kubeconfig.
//!
//! Works by allow-lists. Every entry of the file is checked, also those that no context uses: a file with a command in it was not made for us.

use serde_json::{Map, Value};

use super::error::{CredentialError as Error, UrlError};

type Fields = Map<String, Value>;
/// Builds the refusal of a forbidden field from its path.
type Refusal = fn(String) -> Error;

const TOP: &[&str] = &["apiVersion", "kind", "preferences", "clusters", "contexts", "users", "current-context", "extensions"];
const CLUSTER: &[&str] = &["server", "certificate-authority-data", "tls-server-name", "disable-compression", "extensions"];
const CONTEXT: &[&str] = &["cluster", "user", "namespace", "extensions"];
const USER: &[&str] = &["token", "client-certificate-data", "client-key-data", "extensions"];

const CLUSTER_REFUSED: &[(&str, Refusal)] = &[
    ("insecure-skip-tls-verify", |path| Error::InsecureTlsRefused { path }),
    ("certificate-authority", |path| Error::FilePathRefused { path }),
    ("proxy-url", |path| Error::ProxyRefused { path }),
];
const USER_REFUSED: &[(&str, Refusal)] = &[
    ("exec", |path| Error::ExecRefused { path }),
    ("auth-provider", |path| Error::AuthProviderRefused { path }),
    ("tokenFile", |path| Error::FilePathRefused { path }),
    ("client-certificate", |path| Error::FilePathRefused { path }),
    ("client-key", |path| Error::FilePathRefused { path }),
    ("username", |path| Error::BasicAuthRefused { path }),
    ("password", |path| Error::BasicAuthRefused { path }),
    ("as", |path| Error::ImpersonationRefused { path }),
    ("as-uid", |path| Error::ImpersonationRefused { path }),
    ("as-groups", |path| Error::ImpersonationRefused { path }),
    ("as-user-extra", |path| Error::ImpersonationRefused { path }),
];

/// The fields of a kubeconfig that we use, with only their types checked.
pub(super) struct Selected<'k> {
    pub(super) server: &'k str,
    pub(super) certificate_authority: Option<&'k str>,
    pub(super) server_name: Option<&'k str>,
    pub(super) token: Option<&'k str>,
    pub(super) client_certificate: Option<&'k str>,
    pub(super) client_key: Option<&'k str>,
}

/// Checks the whole document and picks the cluster and user of its context.
pub(super) fn select(document: &Value) -> Result<Selected<'_>, Error> {
    let top = mapping(Some(document), "kubeconfig")?;
    only(top, "kubeconfig", TOP, &[])?;
    for (field, wanted) in [("apiVersion", "v1"), ("kind", "Config")] {
        if text(top, "kubeconfig", field)?.is_some_and(|found| found != wanted) {
            return Err(Error::InvalidField { path: format!("kubeconfig.{field}"), expected: wanted });
        }
    }
    let clusters = entries(top, "clusters", "cluster", CLUSTER, CLUSTER_REFUSED)?;
    let users = entries(top, "users", "user", USER, USER_REFUSED)?;
    let contexts = entries(top, "contexts", "context", CONTEXT, &[])?;

    let context = match (text(top, "kubeconfig", "current-context")?, contexts.as_slice()) {
        (Some(name), _) => named(&contexts, name).ok_or(Error::MissingEntry { path: "current-context" })?,
        (None, [(_, context)]) => context,
        (None, []) => return Err(Error::MissingEntry { path: "contexts" }),
        (None, _) => return Err(Error::Ambiguous { path: "contexts", rule: "name one of them in current-context" }),
    };
    let cluster = text(context, "context", "cluster")?;
    let cluster = cluster.and_then(|name| named(&clusters, name)).ok_or(Error::MissingEntry { path: "context.cluster" })?;
    let user = text(context, "context", "user")?;
    let user = user.and_then(|name| named(&users, name)).ok_or(Error::MissingEntry { path: "context.user" })?;

    Ok(Selected {
        server: text(cluster, "cluster", "server")?.ok_or(UrlError::Invalid { rule: "is missing" })?,
        certificate_authority: text(cluster, "cluster", "certificate-authority-data")?,
        server_name: text(cluster, "cluster", "tls-server-name")?,
        token: text(user, "user", "token")?,
        client_certificate: text(user, "user", "client-certificate-data")?,
        client_key: text(user, "user", "client-key-data")?,
    })
}

fn entries<'k>(
    top: &'k Fields,
    list: &'static str,
    inner: &str,
    allowed: &[&str],
    refused: &[(&str, Refusal)],
) -> Result<Vec<(&'k str, &'k Fields)>, Error> {
    let items = match top.get(list) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(Error::InvalidField { path: list.to_owned(), expected: "list" }),
    };
    let mut found: Vec<(&str, &Fields)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{list}[{index}]");
        let entry = mapping(Some(item), &path)?;
        only(entry, &path, &["name", inner], &[])?;
        let name = text(entry, &path, "name")?.ok_or_else(|| Error::InvalidField { path: format!("{path}.name"), expected: "string" })?;
        let path = format!("{path}.{inner}");
        let fields = mapping(entry.get(inner), &path)?;
        only(fields, &path, allowed, refused)?;
        if named(&found, name).is_some() {
            return Err(Error::Ambiguous { path: list, rule: "every entry needs a name of its own" });
        }
        found.push((name, fields));
    }
    Ok(found)
}

fn named<'k>(entries: &[(&str, &'k Fields)], name: &str) -> Option<&'k Fields> {
    entries.iter().find(|(found, _)| *found == name).map(|(_, fields)| *fields)
}

/// Refuses every field outside of the list. Fields that tools write with a value that means "not used" pass.
fn only(fields: &Fields, path: &str, allowed: &[&str], refused: &[(&str, Refusal)]) -> Result<(), Error> {
    for (field, value) in fields {
        if allowed.contains(&field.as_str()) {
            continue;
        }
        // The name of an unknown field is not repeated: with the indentation wrong it may be a secret.
        let Some((known, refusal)) = refused.iter().find(|(known, _)| known == field) else {
            return Err(Error::UnknownField { path: path.to_owned(), allowed: allowed.join(", ") });
        };
        let unused = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::Object(_) => false,
        };
        if !unused {
            return Err(refusal(format!("{path}.{known}")));
        }
    }
    Ok(())
}

fn mapping<'k>(value: Option<&'k Value>, path: &str) -> Result<&'k Fields, Error> {
    value.and_then(Value::as_object).ok_or_else(|| Error::InvalidField { path: path.to_owned(), expected: "mapping" })
}

/// A string field. An empty one counts as absent, as it does for kubectl.
fn text<'k>(fields: &'k Fields, path: &str, field: &str) -> Result<Option<&'k str>, Error> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok((!text.is_empty()).then_some(text)),
        Some(_) => Err(Error::InvalidField { path: format!("{path}.{field}"), expected: "string" }),
    }
}
