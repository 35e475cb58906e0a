//! Attacks by a Slurm that the operator sets up: its daemons are Pods of the Slurm namespace, and its keys open all of Slurm.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::namespaced;
use crate::admission::{By, Request, Row};
use crate::scene::{PLATFORM, SLURM};

const PLACE: By = By::Policy("aifactory-site-namespaced");
const SHAPE: By = By::Policy("aifactory-site-slurm");
const IMAGES: By = By::Policy("aifactory-site-nodeset-images");
const NAME: &str = "aif-slurm";
const IMAGE: &str = "example.org/slurmd:26.05";

pub fn path(kind: &str, name: &str) -> String {
    namespaced(SLINKY, SLURM, kind, name)
}

/// The kinds of a Slurm as the operator writes them, with their plurals.
pub fn objects() -> [(&'static str, Value); 4] {
    let keys = json!({"slurmKeyRef": {"name": "aif-slurm-key", "key": "slurm.key"}, "jwtKeyRef": {"name": "aif-slurm-jwt", "key": "jwt_hs256.key"}});
    let image = json!({"image": IMAGE});
    [
        ("controllers", "Controller", {
            let spec = json!({
                "clusterName": "bissen", "external": false, "accountingRef": {"name": NAME}, "inplaceReconfigure": true,
                "persistence": {"enabled": true, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
                "extraConf": "GresTypes=gpu\nTaskPlugin=task/affinity,task/cgroup\nAccountingStorageTRES=gres/gpu,gres/gpu:h100\nMaxNodeCount=4096",
                "slurmctld": image, "reconfigure": image, "logfile": image,
            });
            with(spec, keys.clone())
        }),
        ("accountings", "Accounting", {
            let spec = json!({
                "external": false, "slurmdbd": image,
                "storageConfig": {
                    "host": "mariadb.slurm.svc", "port": 3306, "database": "slurm_acct_db", "username": "slurm",
                    "passwordKeyRef": {"name": "aifactory-slurm-db", "key": "password"},
                },
            });
            with(spec, keys.clone())
        }),
        ("restapis", "RestApi", json!({"controllerRef": {"name": NAME}, "replicas": 1, "slurmrestd": image})),
        ("tokens", "Token", json!({"username": "slurm", "jwtKeyRef": keys["jwtKeyRef"], "refresh": true})),
    ]
    .map(|(plural, kind, spec)| (plural, ours(SLINKY, kind, SLURM, NAME, json!({"spec": spec}))))
}

/// What a site's administrator may add to a Controller of ours.
pub fn additions() -> Value {
    json!({"spec": {"slurmctld": {"env": [{"name": "SITE", "value": "x"}]}, "template": {"spec": {"nodeSelector": {"example.org/role": "services"}}}}})
}

/// A key as the operator makes it.
pub fn key(name: &str, field: &str) -> Value {
    ours("v1", "Secret", SLURM, name, json!({"type": "Opaque", "immutable": true, "data": {field: "AAAA"}}))
}

fn written(plural: &'static str, change: Value) -> Request {
    let object = objects().into_iter().find(|(kind, _)| *kind == plural).map(|(_, object)| object).unwrap_or_default();
    Request::apply(path(plural, NAME), with(object, json!({"spec": change})))
}

fn created(secret: Value) -> Request {
    Request::post(namespaced("v1", SLURM, "secrets", ""), secret)
}

pub fn rows() -> Vec<Row> {
    [place(), controllers(), others(), keys()].concat()
}

fn row(what: &'static str, request: Request, by: &[By]) -> Row {
    Row::new("managed Slurm", what, request, by)
}

fn place() -> Vec<Row> {
    let [(_, controller), ..] = objects();
    let elsewhere = with(controller.clone(), json!({"metadata": {"namespace": PLATFORM}}));
    let unlabelled = json!({"metadata": {"labels": {"aifactory.dev/managed": null}}});
    vec![
        row("where Slurm is not", Request::apply(namespaced(SLINKY, PLATFORM, "controllers", NAME), elsewhere), &[By::Rbac]).widened(PLACE),
        row(
            "a Controller of any name",
            Request::apply(path("controllers", "other"), with(controller, json!({"metadata": {"name": "other"}}))),
            &[PLACE],
        ),
        row("the site's Controller changed", Request::merge(path("controllers", "theirs"), json!({"spec": {"clusterName": "x"}})), &[PLACE, IMAGES]),
        row("the site's Controller deleted", Request::delete(path("controllers", "theirs")), &[PLACE]),
        row("without our label", Request::merge(path("controllers", NAME), unlabelled), &[PLACE]),
        row("what Slurm has counted, deleted", Request::delete(path("accountings", NAME)), &[By::Rbac]),
    ]
}

fn controllers() -> Vec<Row> {
    let controller = |change: Value| written("controllers", change);
    let changed = |change: Value| Request::merge(path("controllers", NAME), json!({"spec": change}));
    vec![
        row(
            "privileges",
            controller(json!({"template": {"spec": {"containers": [{"name": "slurmctld", "securityContext": {"privileged": true}}]}}})),
            &[SHAPE],
        ),
        row("the host's files", controller(json!({"template": {"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}})), &[SHAPE]),
        row("a command", controller(json!({"slurmctld": {"command": ["sh"]}})), &[SHAPE]),
        row("a command beside it", controller(json!({"reconfigure": {"args": ["-c", "x"]}})), &[SHAPE]),
        row("an environment from Secrets", controller(json!({"logfile": {"envFrom": [{"secretRef": {"name": "x"}}]}})), &[SHAPE]),
        row("an environment of the site's changed", changed(json!({"slurmctld": {"env": [{"name": "SITE", "value": "y"}]}})), &[SHAPE]),
        row("a selector of the site's changed", changed(json!({"template": {"spec": {"nodeSelector": {"example.org/role": "x"}}}})), &[SHAPE]),
        row("another's key", controller(json!({"slurmKeyRef": {"name": "theirs"}})), &[SHAPE]),
        row("another's accounting", controller(json!({"accountingRef": {"name": "theirs"}})), &[SHAPE]),
        row("another's volume", controller(json!({"persistence": {"existingClaim": "theirs"}})), &[SHAPE]),
        row(
            "a copy of another's volume",
            controller(json!({"persistence": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}})),
            &[SHAPE],
        ),
        row("jobs that are forgotten", controller(json!({"persistence": {"enabled": false}})), &[SHAPE]),
        row("a slurmctld elsewhere", controller(json!({"external": true, "externalConfig": {"host": "example.net", "port": 6817}})), &[SHAPE]),
        row("a program before each job", controller(json!({"extraConf": "GresTypes=gpu\nProlog=/tmp/x"})), &[SHAPE]),
        row("a program in the cluster's name", controller(json!({"clusterName": "x\nProlog=/tmp/x"})), &[SHAPE]),
        row("a program on the same line", controller(json!({"extraConf": "GresTypes=gpu Prolog=/tmp/x"})), &[SHAPE]),
        row("another file", controller(json!({"extraConf": "GresTypes=gpu\nInclude /tmp/x"})), &[SHAPE]),
        row("an empty line, which hides nothing but is not ours", controller(json!({"extraConf": "GresTypes=gpu\n\n"})), &[SHAPE]),
        row("scripts from ConfigMaps", controller(json!({"prologScriptRefs": [{"name": "x"}]})), &[SHAPE]),
        row("files from ConfigMaps", controller(json!({"configFileRefs": [{"name": "x"}]})), &[SHAPE]),
        row("a port on every node", controller(json!({"service": {"spec": {"type": "NodePort"}}})), &[SHAPE]),
        row("an image from elsewhere", controller(json!({"slurmctld": {"image": "example.net/slurmctld:1"}})), &[IMAGES]).words("imagePrefixes"),
        row("an image for logs from elsewhere", controller(json!({"logfile": {"image": "example.net/x:1"}})), &[IMAGES]),
        row("no image to reconfigure", changed(json!({"reconfigure": null})), &[IMAGES]),
    ]
}

fn others() -> Vec<Row> {
    let accounting = |change: Value| written("accountings", change);
    let database = |change: Value| accounting(json!({"storageConfig": change}));
    vec![
        row("any Secret told to a database", database(json!({"host": "example.net", "passwordKeyRef": {"name": "theirs"}})), &[SHAPE]),
        row("our own key told to a database", database(json!({"passwordKeyRef": {"name": "aif-slurm-key", "key": "slurm.key"}})), &[SHAPE]),
        row("a line in slurmdbd.conf", database(json!({"host": "x\nPluginDir=/tmp"})), &[SHAPE]),
        row("slurmdbd.conf", accounting(json!({"extraConf": "PluginDir=/tmp"})), &[SHAPE]),
        row("a slurmdbd elsewhere", accounting(json!({"external": true, "externalConfig": {"host": "example.net", "port": 6819}})), &[SHAPE]),
        row("an image of slurmdbd from elsewhere", accounting(json!({"slurmdbd": {"image": "example.net/x:1"}})), &[IMAGES]),
        row("REST of another Slurm", written("restapis", json!({"controllerRef": {"name": "theirs"}})), &[SHAPE]),
        row("REST for the world", written("restapis", json!({"service": {"spec": {"type": "LoadBalancer"}}})), &[SHAPE]),
        row("arguments of slurmrestd", written("restapis", json!({"slurmrestd": {"args": ["-a", "rest_auth/local"]}})), &[SHAPE]),
        row("an image of slurmrestd from elsewhere", written("restapis", json!({"slurmrestd": {"image": "example.net/x:1"}})), &[IMAGES]),
        row("a token for root", written("tokens", json!({"username": "root"})), &[SHAPE]),
        row("a token in another's Secret", written("tokens", json!({"secretRef": {"name": "theirs", "key": "x"}})), &[SHAPE]),
        row("a token by another's key", written("tokens", json!({"jwtKeyRef": {"name": "theirs"}})), &[SHAPE]),
        row("a token for ever", written("tokens", json!({"lifetime": "100000h"})), &[SHAPE]),
    ]
}

fn keys() -> Vec<Row> {
    let spoilt = |change: Value| created(with(key("aif-slurm-key", "slurm.key"), change));
    let account = json!({"type": "kubernetes.io/service-account-token",
        "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}}});
    let any = key("aif-slurm-other", "slurm.key");
    let elsewhere = with(key("aif-slurm-key", "slurm.key"), json!({"metadata": {"namespace": PLATFORM}}));
    let there = namespaced("v1", SLURM, "secrets", "aif-slurm-jwt");
    vec![
        row("a Secret of any name", created(any), &[PLACE]),
        row("a Secret elsewhere", Request::post(namespaced("v1", PLATFORM, "secrets", ""), elsewhere), &[By::Rbac]).widened(PLACE),
        row("a ServiceAccount's token", spoilt(account), &[SHAPE, PLACE]),
        row("another type", spoilt(json!({"type": "example.org/x"})), &[SHAPE]),
        row("another field", created(key("aif-slurm-key", "jwt_hs256.key")), &[SHAPE]),
        row("one more field", spoilt(json!({"data": {"more": "AAAA"}})), &[SHAPE]),
        row("a key that may change", spoilt(json!({"immutable": null})), &[SHAPE]),
        row("a key read", Request::get(there.clone()), &[By::Rbac]),
        row("all keys read", Request::get(namespaced("v1", SLURM, "secrets", "")), &[By::Rbac]),
        row("a key changed", Request::merge(there.clone(), json!({"metadata": {"labels": {"aifactory.dev/owner": "x"}}})), &[By::Rbac])
            .widened(PLACE),
        row("a key applied", Request::apply(there.clone(), key("aif-slurm-jwt", "jwt_hs256.key")), &[By::Rbac]).widened(PLACE),
        row("a key deleted", Request::delete(there), &[By::Rbac]).widened(PLACE),
    ]
}

/// From the keys to the end, in order.
pub fn legitimate() -> Vec<(&'static str, Request)> {
    let mut requests = vec![("slurm.key", created(key("aif-slurm-key", "slurm.key")))];
    for (plural, object) in objects() {
        requests.push(("a Slurm of ours", Request::apply(path(plural, NAME), object.clone())));
        requests.push(("the same again", Request::apply(path(plural, NAME), object)));
        requests.push(("read", Request::get(path(plural, NAME))));
    }
    requests
        .push(("another type of GPU", written("controllers", json!({"extraConf": "GresTypes=gpu\nAccountingStorageTRES=gres/gpu,gres/gpu:a100"}))));
    requests.extend(["tokens", "restapis", "controllers"].map(|plural| ("a Slurm let go", Request::delete(path(plural, NAME)))));
    requests
}
