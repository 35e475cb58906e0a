//! Mistakes in an AIFactory.

use aifactory_tests::run;
use serde_json::{Value, json};

use super::Outcome;
use super::mistake::{Base, Mistake, check};

fn row(name: &'static str) -> Mistake {
    Mistake::new(name, Base::Factory)
}

const SITE: &str = "/spec/sites/0";
const METADATA: &[&str] = &["must not lie inside link-local, loopback, multicast or metadata ranges", "example: `10.42.0.0/16`"];
const NOT_A_RANGE: &[&str] = &["podCIDRs: each must be a CIDR without host bits; examples: `10.42.0.0/16`"];

fn institution() -> Vec<Mistake> {
    vec![
        row("a type in lower case").wrote("/spec/type", json!("factory")).error(&[
            "spec.type",
            "\"factory\"",
            "\"Factory\", \"Gigafactory\", \"Antenna\"",
        ]),
        row("an antenna with sites")
            .wrote("/spec/type", json!("Antenna"))
            .meant("/spec/type", json!("Gigafactory"))
            .error(&["sites: an Antenna has no sites of its own", "`type: Factory`"]),
        row("a country in lower case").wrote(&format!("{SITE}/country"), json!("lu")).error(&["spec.sites[0].country", "'^[A-Z]{2}$'"]),
        row("Norway without quotes, which YAML reads as a boolean")
            .wrote(&format!("{SITE}/country"), json!(false))
            .meant(&format!("{SITE}/country"), json!("NO"))
            .error(&["spec.sites[0].country", "must be of type string: \"boolean\""]),
        row("two sites of one name").wrote("/spec/sites/1/name", json!("bissen")).wrote("/spec/links", json!(null)).error(&[
            "spec.sites[1]",
            "Duplicate value",
            "bissen",
        ]),
        row("a site's name with an underscore")
            .wrote("/spec/links", json!(null))
            .wrote(&format!("{SITE}/name"), json!("bissen_1"))
            .error(&["spec.sites[0].name", "should match"]),
        row("a stage that does not exist").wrote(&format!("{SITE}/stage"), json!("Live")).error(&[
            "spec.sites[0].stage",
            "\"Live\"",
            "\"EarlyAccess\", \"Production\"",
        ]),
        row("a site without a country").wrote(&format!("{SITE}/country"), json!(null)).error(&["spec.sites[0].country", "Required value"]),
        row("a link to a site that is not there")
            .wrote("/spec/links/0/between/1", json!("belval"))
            .error(&["links: both ends must be names of sites of this factory", "`links: [{between: [bissen, bettembourg]}]`"]),
        row("a link from a site to itself")
            .wrote("/spec/links/0/between/1", json!("bissen"))
            .error(&["links: a link is between two different sites", "`between: [bissen, bettembourg]`"]),
        row("a link with one end").wrote("/spec/links/0/between", json!(["bissen"])).error(&["spec.links[0].between", "at least 2 items"]),
        row("a word written wrongly")
            .wrote("/spec/sites/0/netwrok", json!({}))
            .meant("/spec/sites/0/network", json!({}))
            .error(&["unknown field \"spec.sites[0].netwrok\""]),
    ]
}

fn connection() -> Vec<Mistake> {
    let at = |key: &str| format!("{SITE}/{key}");
    vec![
        row("a site with neither Kubernetes nor Slurm")
            .wrote(&at("kubernetes"), json!(null))
            .error(&["a site needs at least one of `kubernetes` and `slurm`", "example: `kubernetes: {push:"]),
        row("Kubernetes with nothing after it")
            .left_empty(SITE, "kubernetes")
            .meant(&at("kubernetes"), json!({"local": {}}))
            .error(&["spec.sites[0]: Invalid value: a site needs at least one of `kubernetes` and `slurm`"]),
        row("two ways to one site")
            .wrote("/spec/sites/0/kubernetes/local", json!({}))
            .error(&["kubernetes: exactly one of `push`, `pull` and `local`", "example: `kubernetes: {push:"]),
        row("no way to a site")
            .wrote(&at("kubernetes"), json!({}))
            .meant(&at("kubernetes"), json!({"pull": {}}))
            .error(&["kubernetes: exactly one of `push`, `pull` and `local`", "example: `kubernetes: {push:"]),
        row("the Secret's name as a text")
            .wrote("/spec/sites/0/kubernetes/push/kubeconfigSecretRef", json!("bissen-kubeconfig"))
            .meant("/spec/sites/0/kubernetes/push/kubeconfigSecretRef", json!({"name": "bissen-kubeconfig", "key": "config"}))
            .error(&["kubeconfigSecretRef", "must be of type object: \"string\""]),
        row("the kubeconfig itself in place of the Secret's name")
            .wrote("/spec/sites/0/kubernetes/push/kubeconfigSecretRef/name", json!("apiVersion: v1\nkind: Config"))
            .error(&["kubeconfigSecretRef.name", "should match"]),
        row("Slinky without Kubernetes")
            .given(
                &at("slurm"),
                json!({"clusterName": "bissen", "slinky": {"namespace": "slurm", "controllerRef": {"name": "slurm"}, "image": "ghcr.io/x/slurmd:1"}}),
            )
            .wrote(&at("kubernetes"), json!(null))
            .error(&["slurm.slinky: Slinky runs on the site's Kubernetes", "`kubernetes` must be set"]),
        row("a Controller of the site's and one of ours")
            .wrote(&at("slurm"), slinky(json!({"controllerRef": {"name": "slurm"}, "managed": managed("aifactory-slurm-db")})))
            .meant(&at("slurm"), slinky(json!({"managed": managed("aifactory-slurm-db")})))
            .error(&["slurm.slinky: exactly one of `controllerRef` and `managed` must be set", "example: `controllerRef: {name: slurm}`"]),
        row("no Controller")
            .wrote(&at("slurm"), slinky(json!({})))
            .meant(&at("slurm"), slinky(json!({"controllerRef": {"name": "slurm"}})))
            .error(&["slurm.slinky: exactly one of `controllerRef` and `managed` must be set"]),
        row("any Secret for the database")
            .wrote(&at("slurm"), slinky(json!({"managed": managed("mariadb-root")})))
            .meant(&at("slurm"), slinky(json!({"managed": managed("aifactory-slurm-db")})))
            .error(&[
                "managed.accounting.passwordSecretRef: the Secret's name must begin with `aifactory-`",
                "{name: aifactory-slurm-db, key: password}",
            ]),
        row("a REST without a credential")
            .wrote(&at("slurm"), rest("https://slurm.example:6820", json!({})))
            .meant(&at("slurm"), rest("https://slurm.example:6820", json!({"tokenSecretRef": {"name": "bissen-slurm", "key": "token"}})))
            .error(&["slurm.rest: exactly one of `tokenSecretRef` and `keySecretRef` must be set", "example: `tokenSecretRef: {name: bissen-slurm"]),
        row("a REST with a path")
            .wrote(&at("slurm"), rest("https://slurm.example:6820/slurm/v0.0.44", json!({"keySecretRef": {"name": "bissen-slurm", "key": "k"}})))
            .meant(&at("slurm"), rest("https://slurm.example:6820", json!({"keySecretRef": {"name": "bissen-slurm", "key": "k"}})))
            .error(&["spec.sites[0].slurm.rest.url", "should match"]),
        row("a Slurm cluster's name with a space")
            .wrote(&at("slurm"), json!({"clusterName": "my cluster"}))
            .meant(&at("slurm"), json!({"clusterName": "my_cluster"}))
            .error(&["spec.sites[0].slurm.clusterName", "should match"]),
    ]
}

fn slinky(more: Value) -> Value {
    let mut slinky = json!({"namespace": "slurm", "image": "ghcr.io/x/slurmd:1"});
    slinky.as_object_mut().into_iter().for_each(|slinky| slinky.extend(more.as_object().cloned().unwrap_or_default()));
    json!({"clusterName": "bissen", "slinky": slinky})
}

fn managed(secret: &str) -> Value {
    json!({
        "slurmctldImage": "ghcr.io/x/slurmctld:1", "slurmdbdImage": "ghcr.io/x/slurmdbd:1", "slurmrestdImage": "ghcr.io/x/slurmrestd:1",
        "accounting": {"host": "mariadb.slurm.svc", "passwordSecretRef": {"name": secret, "key": "password"}}, "storage": {"size": "10Gi"},
    })
}

fn rest(url: &str, more: Value) -> Value {
    let mut rest = json!({"url": url});
    rest.as_object_mut().into_iter().for_each(|rest| rest.extend(more.as_object().cloned().unwrap_or_default()));
    json!({"clusterName": "bissen", "rest": rest})
}

fn network() -> Vec<Mistake> {
    let pods = |value: &str| json!([value]);
    let field = "/spec/sites/0/network/podCIDRs";
    let service = "/spec/sites/0/network/services/0";
    vec![
        row("an address in place of a range").wrote(field, pods("10.42.0.0")).error(NOT_A_RANGE),
        row("a range with host bits").wrote(field, pods("10.42.1.7/16")).meant(field, pods("10.42.0.0/16")).error(NOT_A_RANGE),
        row("a mask that is too long").wrote(field, pods("10.42.0.0/33")).meant(field, pods("10.42.0.0/32")).error(NOT_A_RANGE),
        row("IPv4 dressed as IPv6").wrote(field, pods("::ffff:10.42.0.0/112")).meant(field, pods("2001:db8::/48")).error(NOT_A_RANGE),
        row("link-local").wrote(field, pods("169.254.169.254/32")).error(METADATA),
        row("link-local of IPv6").wrote(field, pods("fe80::/64")).meant(field, pods("fd00::/64")).error(METADATA),
        row("a metadata service of IPv6").wrote(field, pods("fd00:ec2::254/128")).meant(field, pods("fd00:ec2::/64")).error(METADATA),
        row("loopback as nodes").wrote("/spec/sites/0/network/nodeCIDRs", pods("127.0.0.0/16")).error(METADATA),
        row("a service at the metadata service")
            .wrote(&format!("{service}/cidrs"), pods("169.254.0.0/16"))
            .meant(&format!("{service}/cidrs"), pods("10.1.200.0/28"))
            .error(&["network.services[].cidrs: must not lie inside", "example: `10.42.0.0/16`"]),
        row("port 0").wrote(&format!("{service}/ports/0/port"), json!(0)).error(&["ports[0].port", "greater than or equal to 1"]),
        row("a port as a text")
            .wrote(&format!("{service}/ports/0/port"), json!("443"))
            .error(&["ports[0].port", "must be of type integer: \"string\""]),
        row("a range of ports upside down")
            .wrote(&format!("{service}/ports/0"), json!({"port": 30100, "endPort": 30000}))
            .meant(&format!("{service}/ports/0"), json!({"port": 30000, "endPort": 30100}))
            .error(&["endPort must not be lower than port", "`{port: 30000, endPort: 30100}`"]),
        row("a service without ports").wrote(&format!("{service}/ports"), json!([])).error(&["ports", "at least 1 items"]),
        row("a node-local resolver without a mask")
            .wrote("/spec/sites/0/network/dns", json!({"nodeLocalCIDRs": ["169.254.20.10"]}))
            .meant("/spec/sites/0/network/dns", json!({"nodeLocalCIDRs": ["169.254.20.10/32"]}))
            .error(&["network.dns.nodeLocalCIDRs: each must be a CIDR", "`169.254.20.10/32`"]),
        row("a fabric that is not known")
            .wrote("/spec/sites/0/network/implementation", json!("Flannel"))
            .meant("/spec/sites/0/network/implementation", json!("None"))
            .error(&["network.implementation", "\"Flannel\"", "\"Cilium\""]),
    ]
}

#[test]
fn institutions_and_links() -> Outcome {
    run(check(institution(), 12))
}

#[test]
fn ways_to_a_site() -> Outcome {
    run(check(connection(), 8))
}

#[test]
fn ranges_and_ports() -> Outcome {
    run(check(network(), 15))
}
