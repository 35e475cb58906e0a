//! The reference of P11: the same accounts, QOS and associations by hand, in as few requests, each stage read back.

use std::time::Instant;

use aifactory_tests::slurm::{Cluster as Slurm, Options};
use serde_json::{Value, json};

use crate::Failure;
use crate::slurm::{CLUSTER, MEMBERS, PARENT, user};

const PATH: &str = "/slurmdb/v0.0.44";
/// Accounts in a question, as a URL holds them.
const CHUNK: usize = 100;

/// Seconds that it takes for so many grants on a new cluster.
pub async fn measure(grants: usize) -> Result<f64, Failure> {
    let slurm = Slurm::start(Options::new(CLUSTER)).await?;
    let started = Instant::now();
    let names: Vec<String> = (0..grants).map(|index| format!("grant-p11-{index}-{:010x}", index * 7919)).collect();
    for path in ["accounts/", "qos/", "tres/"] {
        get(&slurm, path).await?;
    }
    slurm.rest("GET", "/slurm/v0.0.44/partitions/", None).await?;
    rows(&slurm, &[PARENT.to_owned()]).await?;

    post(&slurm, "qos/", json!({"qos": names.iter().map(|name| qos(name)).collect::<Vec<_>>()})).await?;
    get(&slurm, "qos/").await?;

    let accounts: Vec<Value> = names.iter().map(|name| json!({"name": name, "description": description(name), "organization": "grant"})).collect();
    post(&slurm, "accounts/", json!({"accounts": accounts})).await?;
    let condition = json!({"accounts": names, "clusters": [CLUSTER], "association": {"parent": PARENT, "fairshare": 1}});
    post(&slurm, "accounts_association/", json!({"association_condition": condition, "account": {"description": "grant", "organization": "grant"}}))
        .await?;
    get(&slurm, "accounts/").await?;
    rows(&slurm, &names).await?;

    let of_accounts = names.iter().map(|name| row(name, "")).collect();
    post(&slurm, "associations/", json!({"associations": Value::Array(of_accounts)})).await?;
    rows(&slurm, &names).await?;

    let members = || names.iter().enumerate().flat_map(|(index, name)| (0..MEMBERS).map(move |member| (name, user(index, member))));
    post(&slurm, "users/", json!({"users": members().map(|(_, user)| json!({"name": user})).collect::<Vec<_>>()})).await?;
    let of_users: Vec<Value> = members().map(|(name, user)| row(name, &user)).collect();
    post(&slurm, "associations/", json!({"associations": of_users})).await?;
    let found = rows(&slurm, &names).await?;
    let seconds = started.elapsed().as_secs_f64();
    // A bare client that wrote nothing would be quick, too.
    let wanted = grants * (MEMBERS + 1);
    if found == wanted { Ok(seconds) } else { Err(format!("the bare client finds {found} associations of {wanted}").into()) }
}

fn description(name: &str) -> String {
    format!("aifactory v1 hub=0123456789abcdef grant=bench/{name} uid=00000000-0000-0000-0000-000000000000 code=EHPC-AIF-2026PG99 state=Bound")
}

fn qos(name: &str) -> Value {
    let tres = |kind: &str, name: &str, count: u32| json!({"type": kind, "name": name, "count": count});
    json!({
        "name": name, "description": description(name), "flags": ["NO_DECAY", "DENY_LIMIT"],
        "limits": {
            "max": {"tres": {
                "minutes": {"total": [tres("gres", "gpu", 6000)]},
                "total": [tres("gres", "gpu", 2), {"type": "cpu", "count": 4}, {"type": "mem", "count": 2048}],
            }},
            "min": {"tres": {"per": {"job": [tres("gres", "gpu", 1)]}}},
        },
    })
}

/// Of an account, or of a user in it.
fn row(account: &str, user: &str) -> Value {
    let mut row = json!({"account": account, "cluster": CLUSTER, "user": user, "qos": [account], "default": {"qos": account}, "comment": "grant"});
    if let Some(fields) = row.as_object_mut().filter(|_| !user.is_empty()) {
        let unlimited = json!({"set": true, "infinite": true, "number": 0});
        fields.insert("partition".to_owned(), json!("h100"));
        fields.insert("max".to_owned(), json!({"jobs": {"total": unlimited, "active": unlimited}}));
    }
    row
}

async fn post(slurm: &Slurm, path: &str, body: Value) -> Result<(), Failure> {
    let answer = slurm.rest("POST", &format!("{PATH}/{path}"), Some(&body)).await?;
    match answer.pointer("/errors/0") {
        None => Ok(()),
        Some(error) => Err(format!("{path}: {error}").into()),
    }
}

async fn get(slurm: &Slurm, path: &str) -> Result<Value, Failure> {
    Ok(slurm.rest("GET", &format!("{PATH}/{path}"), None).await?)
}

/// How many associations the accounts have.
async fn rows(slurm: &Slurm, accounts: &[String]) -> Result<usize, Failure> {
    let mut found = 0;
    for chunk in accounts.chunks(CHUNK) {
        let answer = get(slurm, &format!("associations/?cluster={CLUSTER}&account={}", chunk.join("%2C"))).await?;
        found += answer.get("associations").and_then(Value::as_array).map_or(0, Vec::len);
    }
    Ok(found)
}
