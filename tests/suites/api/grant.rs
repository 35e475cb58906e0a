//! Mistakes in an AccessGrant.

use aifactory_tests::run;
use serde_json::json;

use super::Outcome;
use super::mistake::{Base, Mistake, check};

fn row(name: &'static str) -> Mistake {
    Mistake::new(name, Base::Grant)
}

const MEMBER: &str = "/spec/members/0";
const EGRESS: &str = "/spec/network/egress/0";
const ORDER: &[&str] = &["notBefore must be before notAfter", "example: `notBefore: 2026-12-01T00:00:00Z`"];

fn people() -> Vec<Mistake> {
    let at = |key: &str| format!("{MEMBER}/{key}");
    vec![
        row("an e-mail address as a pseudonym")
            .wrote(&at("id"), json!("jane@example.eu"))
            .error(&["members[0].id", "should match"])
            .error(&["members[].id: a pseudonym, never a name or an e-mail address", "`id: p-4711`"]),
        row("one member twice").wrote("/spec/members/-", json!({"id": "p-4711"})).error(&["spec.members[1]", "Duplicate value"]),
        row("a member of the system")
            .wrote(&at("kubernetes/name"), json!("system:admin"))
            .error(&["members[].kubernetes.name: users and groups of the system are nobody's members", "`name: oidc:4711`"]),
        row("all administrators as a member")
            .wrote(&at("kubernetes"), json!({"kind": "Group", "name": "system:masters"}))
            .meant(&at("kubernetes"), json!({"kind": "Group", "name": "oidc:trainers"}))
            .error(&["members[].kubernetes.name: users and groups of the system"]),
        row("a ServiceAccount by its user name")
            .wrote(&at("kubernetes/name"), json!("system:serviceaccount:team:robot"))
            .error(&["members[].kubernetes.name: users and groups of the system"]),
        row("a ServiceAccount by its kind").wrote(&at("kubernetes/kind"), json!("ServiceAccount")).error(&[
            "members[0].kubernetes.kind",
            "\"ServiceAccount\"",
            "\"User\", \"Group\"",
        ]),
        row("a role that does not exist").wrote(&at("role"), json!("Admin")).error(&[
            "members[0].role",
            "\"Admin\"",
            "\"Lead\", \"Member\", \"Reader\"",
        ]),
        row("a member without a pseudonym").wrote(&at("id"), json!(null)).error(&["members[0].id", "Required value"]),
        row("an organisation's country by name")
            .wrote("/spec/organisation/country", json!("France"))
            .error(&["spec.organisation.country", "Too long"]),
        row("a category in small letters").wrote("/spec/organisation/category", json!("sme")).error(&[
            "spec.organisation.category",
            "\"sme\"",
            "\"SME\"",
        ]),
        row("an access mode in two words").wrote("/spec/accessMode", json!("Fast Lane")).meant("/spec/accessMode", json!("FastLane")).error(&[
            "spec.accessMode",
            "\"Fast Lane\"",
            "\"FastLane\"",
        ]),
        row("a code with a slash").wrote("/spec/code", json!("AIF/2026/1")).error(&["spec.code", "should match"]),
        row("root for a member")
            .wrote("/spec/members/0/slurm", json!({"user": "root"}))
            .meant("/spec/members/0/slurm", json!({"user": "u4711"}))
            .error(&["members[].slurm.user: users of the system are nobody's members", "example: `user: u4711`"]),
        row("two users in Slurm for one member")
            .wrote("/spec/members/0/slurm", json!({"user": "u4711,u4712"}))
            .meant("/spec/members/0/slurm", json!({"user": "u4711"}))
            .error(&["spec.members[0].slurm.user", "should match"]),
    ]
}

fn amounts_and_times() -> Vec<Mistake> {
    let pool = |key: &str| format!("/spec/pools/0/{key}");
    vec![
        row("the end before the beginning").wrote("/spec/notAfter", json!("2026-11-01T00:00:00Z")).error(ORDER),
        row("the end at the beginning")
            .wrote("/spec/notAfter", json!("2026-12-01T00:00:00Z"))
            .meant("/spec/notAfter", json!("2026-12-01T00:00:01Z"))
            .error(ORDER),
        row("the end before the beginning in another zone")
            .wrote("/spec/notAfter", json!("2026-12-01T00:30:00+01:00"))
            .meant("/spec/notAfter", json!("2026-12-01T00:30:00-01:00"))
            .error(ORDER),
        row("a day in place of a time").wrote("/spec/notAfter", json!("2027-03-01")).error(&["spec.notAfter", "must be of type date-time"]),
        row("for ever")
            .wrote("/spec/notAfter", json!("9999-12-31T23:59:59Z"))
            .meant("/spec/notAfter", json!("9999-12-29T23:59:59Z"))
            .error(&["notAfter: must be before 9999-12-30T00:00:00Z", "example: `notAfter: 2027-03-01T00:00:00Z`"]),
        row("no end").wrote("/spec/notAfter", json!(null)).error(&["spec.notAfter", "Required value"]),
        row("more at the sites than in all")
            .wrote(&pool("sites"), json!([{"name": "bissen", "maxGPUs": 12}, {"name": "bettembourg", "maxGPUs": 5}]))
            .meant(&pool("sites"), json!([{"name": "bissen", "maxGPUs": 12}, {"name": "bettembourg", "maxGPUs": 4}]))
            .error(&["pools[].sites[].maxGPUs: their sum must not be more than the entry's maxGPUs", "example: `maxGPUs: 16`"]),
        row("more hours at the sites than in all")
            .wrote(&pool("sites"), json!([{"name": "bissen", "gpuHours": 3000}, {"name": "bettembourg", "gpuHours": 2001}]))
            .wrote(&pool("gpuHours"), json!(5000))
            .meant(&pool("sites"), json!([{"name": "bissen", "gpuHours": 3000}, {"name": "bettembourg", "gpuHours": 2000}]))
            .error(&["pools[].sites[].gpuHours: their sum must not be more than the entry's gpuHours", "example: `gpuHours: 5000`"]),
        row("no hours").wrote(&pool("gpuHours"), json!(0)).error(&["spec.pools[0].gpuHours", "greater than or equal to 1"]),
        row("fewer than no GPUs")
            .wrote(&pool("maxGPUs"), json!(-4))
            .wrote(&pool("sites"), json!(null))
            .error(&["spec.pools[0].maxGPUs", "greater than or equal to 1"]),
        row("one GPU and a half")
            .given(&pool("sites"), json!(null))
            .wrote(&pool("maxGPUs"), json!(1.5))
            .error(&["spec.pools[0].maxGPUs", "must be of type int64: \"float64\""])
            .error(&["Checked value must be of type integer with format int64 in spec.pools[0].maxGPUs"]),
        row("hours with a unit").wrote(&pool("gpuHours"), json!("5000h")).error(&["spec.pools[0].gpuHours", "must be of type integer: \"string\""]),
        row("no pool").wrote("/spec/pools", json!([])).error(&["spec.pools", "at least 1 items"]),
        row("a pool by its name alone")
            .wrote(&pool("poolRef"), json!("h100"))
            .meant(&pool("poolRef"), json!({"name": "h100", "namespace": "ardenne"}))
            .error(&["spec.pools[0].poolRef", "must be of type object: \"string\""]),
        row("a grace period in days")
            .wrote("/spec/expiry", json!({"gracePeriod": "3d"}))
            .meant("/spec/expiry", json!({"gracePeriod": "72h"}))
            .error(&["spec.expiry.gracePeriod", "(s|m|h)"]),
        row("a quota in bytes")
            .wrote("/spec/storage", json!({"quota": "5TB"}))
            .meant("/spec/storage", json!({"quota": "5Ti"}))
            .error(&["spec.storage.quota", "(Gi|Ti)"]),
        row("residency by name")
            .wrote("/spec/data", json!({"residency": ["Europe"]}))
            .meant("/spec/data", json!({"residency": ["EU"]}))
            .error(&["spec.data.residency[0]", "Too long"]),
        row("a decision without a revision")
            .wrote("/spec/decision", json!({"reference": "AIF-2026-11/17"}))
            .error(&["spec.decision.revision", "Required value"]),
    ]
}

fn network() -> Vec<Mistake> {
    let cidrs = |first: &str| json!({"addresses": [{"site": "bissen", "cidrs": [first]}, {"site": "bettembourg", "cidrs": ["192.0.2.32/28"]}]});
    let cross = "/spec/network/crossSite";
    vec![
        row("a service and a range")
            .wrote(&format!("{EGRESS}/service"), json!("s3"))
            .error(&["network.egress[]: exactly one of `service` and `cidr`", "`{service: s3}`"]),
        row("neither a service nor a range")
            .wrote(EGRESS, json!({}))
            .meant(EGRESS, json!({"service": "registry"}))
            .error(&["network.egress[]: exactly one of `service` and `cidr`", "`{service: s3}`"]),
        row("a range without ports")
            .wrote(&format!("{EGRESS}/ports"), json!(null))
            .error(&["network.egress[].ports: needed with `cidr`", "`{cidr: 203.0.113.0/24, ports: [{port: 443}]}`"]),
        row("a service with ports")
            .wrote("/spec/network/egress/1/ports", json!([{"port": 443}]))
            .error(&["network.egress[].ports:", "not allowed with `service`"]),
        row("a name in place of a range")
            .wrote(&format!("{EGRESS}/cidr"), json!("pypi.org"))
            .error(&["network.egress[].cidr must be a CIDR without host bits", "`203.0.113.0/24`"]),
        row("the metadata service")
            .wrote(&format!("{EGRESS}/cidr"), json!("169.254.169.254/32"))
            .meant(&format!("{EGRESS}/cidr"), json!("0.0.0.0/0"))
            .error(&["network.egress[].cidr must not lie inside link-local, loopback, multicast or metadata ranges", "`203.0.113.0/24`"]),
        row("the metadata service of another cloud")
            .wrote(&format!("{EGRESS}/cidr"), json!("168.63.129.16/32"))
            .error(&["network.egress[].cidr must not lie inside"]),
        row("a protocol of no transport").wrote(&format!("{EGRESS}/ports"), json!([{"port": 443, "protocol": "HTTPS"}])).error(&[
            "ports[0].protocol",
            "\"HTTPS\"",
            "\"TCP\", \"UDP\", \"SCTP\"",
        ]),
        row("addresses at one site only")
            .wrote(cross, json!({"addresses": [{"site": "bissen", "cidrs": ["192.0.2.16/28"]}]}))
            .meant(cross, cidrs("192.0.2.16/28"))
            .error(&["crossSite.addresses", "at least 2 items"]),
        row("addresses of the whole world")
            .wrote(cross, cidrs("10.0.0.0/8"))
            .meant(cross, cidrs("10.42.0.0/16"))
            .error(&["network.crossSite.addresses[].cidrs: addresses of one grant are not wider than /16", "`198.51.100.16/28`"]),
        row("addresses with host bits")
            .wrote(cross, cidrs("192.0.2.17/28"))
            .meant(cross, cidrs("2001:db8:1::/64"))
            .error(&["network.crossSite.addresses[].cidrs: each must be a CIDR without host bits", "`2001:db8::/48`"]),
        row("addresses of loopback")
            .wrote(cross, cidrs("127.1.0.0/16"))
            .meant(cross, cidrs("198.51.100.16/28"))
            .error(&["network.crossSite.addresses[].cidrs: must not lie inside"]),
    ]
}

#[test]
fn members_and_organisations() -> Outcome {
    run(check(people(), 13))
}

#[test]
fn pools_and_times_of_grants() -> Outcome {
    run(check(amounts_and_times(), 16))
}

#[test]
fn networks_of_grants() -> Outcome {
    run(check(network(), 12))
}
