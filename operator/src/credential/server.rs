//! The server of a kubeconfig: an https URL of host, port and plain path, and nothing that could mean something else to another parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    address::AddressRules,
    error::{CredentialError, UrlError as Error},
};

const MAX_URL: usize = 512;

/// Checks the URL and whether its host is allowed.
pub(super) fn parse(text: &str, rules: &AddressRules) -> Result<http::Uri, Error> {
    let broken = |rule| Err(Error::Invalid { rule });
    if text.len() > MAX_URL {
        return broken("is too long");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && !br#"\"<>^`{}|"#.contains(&b)) {
        return broken("holds characters that a URL must not");
    }
    let Some((scheme, rest)) = text.split_once("://") else { return broken("is not a URL") };
    if !scheme.eq_ignore_ascii_case("https") {
        return Err(Error::NotHttps);
    }
    if rest.contains('@') {
        return broken("must not hold user information");
    }
    if rest.contains(['?', '#']) {
        return broken("must not hold a query or fragment");
    }
    if rest.contains('%') {
        return broken("must not hold percent escapes");
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let segments = path.trim_end_matches('/').split('/').skip(1);
    if path.ends_with("//") || segments.into_iter().any(|segment| matches!(segment, "" | "." | "..") || !segment.bytes().all(is_path_byte)) {
        return broken("holds a path that is not plain");
    }
    check_host(authority, rules)?;
    let Ok(uri) = format!("https://{authority}{path}").parse::<http::Uri>() else { return broken("is not a URL") };
    Ok(uri)
}

/// Checks the URL of a service that may speak plain http, and whether its host is allowed. A literal address is judged here, since it never passes
/// the resolver.
pub fn parse_service(text: &str, rules: &AddressRules) -> Result<http::Uri, Error> {
    let Some(rest) = text.strip_prefix("http://") else { return parse(text, rules) };
    let checked = parse(&format!("https://{rest}"), rules)?;
    let mut parts = checked.into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    http::Uri::from_parts(parts).map_err(|_| Error::Invalid { rule: "is not a URL" })
}

/// Checks the name that the site's certificate must carry.
pub(super) fn parse_name(text: &str) -> Result<String, CredentialError> {
    if is_host_name(text) || text.parse::<IpAddr>().is_ok() { Ok(text.to_owned()) } else { Err(CredentialError::InvalidServerName) }
}

fn check_host(authority: &str, rules: &AddressRules) -> Result<(), Error> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(Error::Invalid { rule: "is not a URL" })?;
            let address: Ipv6Addr = address.parse().map_err(|_| Error::Invalid { rule: "holds an address that is none" })?;
            (Err(IpAddr::V6(address)), port)
        }
        None => {
            let (host, port) = authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon));
            (host.parse::<Ipv4Addr>().map_or(Ok(host), |address| Err(IpAddr::V4(address))), port)
        }
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return Err(Error::Invalid { rule: "holds a port that is none" });
    }
    match host {
        Err(address) => rules.refusal(address).map_or(Ok(()), |why| Err(Error::AddressForbidden { why })),
        Ok(name) if !is_host_name(name) => Err(Error::Invalid { rule: "holds a host that is neither a name nor an address" }),
        Ok(name) => rules.name_refusal(name).map_or(Ok(()), |why| Err(Error::HostForbidden { why })),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte)
}

/// A DNS name whose last label no resolver takes for part of a number: `0x7f.1` is an address to some.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let last_is_word = text.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_alphabetic()));
    text.len() <= 253 && last_is_word && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::{parse, parse_name, parse_service};
    use crate::credential::{AddressRules, CredentialError};

    #[test]
    fn plain_https_urls_pass() {
        for text in [
            "https://api.bissen.example",
            "https://api.bissen.example:6443/",
            "https://10.0.0.1:6443",
            "https://[2001:db8::1]:6443",
            "https://r.example/k8s/clusters/c-m-1x",
            "HTTPS://A.example",
        ] {
            assert!(parse(text, &AddressRules::default()).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_service_may_speak_http_and_its_address_is_judged_all_the_same() {
        let rules = AddressRules::default();
        assert_eq!(parse_service("http://slurm.bissen.example:6820", &rules).unwrap().to_string(), "http://slurm.bissen.example:6820/");
        assert!(parse_service("https://slurm.bissen.example:6820/", &rules).is_ok());
        for text in [
            "http://169.254.169.254",
            "http://127.0.0.1:6820",
            "https://[::1]:6820",
            "http://localhost:6820",
            "http://u@a.example",
            "ftp://a.example",
        ] {
            assert!(parse_service(text, &rules).is_err(), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, reason) in [
            ("http://a.example", "NotHttps"),
            ("ftp://a.example", "NotHttps"),
            ("a.example:6443", "InvalidServer"),
            ("https://", "InvalidServer"),
            ("https://u:p@a.example", "InvalidServer"),
            ("https://a.example?x=1", "InvalidServer"),
            ("https://a.example/#x", "InvalidServer"),
            ("https://a.example/..", "InvalidServer"),
            ("https://a.example/x/../y", "InvalidServer"),
            ("https://a.example//x", "InvalidServer"),
            ("https://a.example/x//", "InvalidServer"),
            ("https://a.example/%2e%2e", "InvalidServer"),
            ("https://a.example\\@b.example", "InvalidServer"),
            ("https://a.example:0", "InvalidServer"),
            ("https://a.example:99999", "InvalidServer"),
            ("https://a.example:+443", "InvalidServer"),
            ("https://a.example:", "InvalidServer"),
            ("https://a_b.example", "InvalidServer"),
            ("https://a.example.", "InvalidServer"),
            ("https://0x7f.1", "InvalidServer"),
            ("https://127.1", "InvalidServer"),
            ("https://2130706433", "InvalidServer"),
            ("https://0177.0.0.1", "InvalidServer"),
            ("https://127.0.0.1", "AddressForbidden"),
            ("https://[::1]:6443", "AddressForbidden"),
            ("https://[::ffff:127.0.0.1]", "AddressForbidden"),
            ("https://[fe80::1%25eth0]", "InvalidServer"),
            ("https://localhost:6443", "HostForbidden"),
            ("https://kubernetes.default.svc", "HostForbidden"),
            ("https://a.example /", "InvalidServer"),
            ("https://bücher.example", "InvalidServer"),
        ] {
            assert_eq!(parse(text, &AddressRules::default()).map_err(|error| CredentialError::from(error).reason()), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_permitted_range_permits_its_addresses() {
        let rules = AddressRules::allowing(["127.0.0.0/8".parse().unwrap()]);
        assert!(parse("https://127.0.0.1:6443", &rules).is_ok());
        assert!(parse("https://localhost:6443", &rules).is_ok());
        assert!(parse("https://[::1]:6443", &rules).is_err());
    }

    #[test]
    fn server_names_are_names_or_addresses() {
        assert!(parse_name("kubernetes.default").is_ok());
        assert!(parse_name("10.0.0.1").is_ok());
        assert_eq!(parse_name("a b"), Err(CredentialError::InvalidServerName));
    }
}
