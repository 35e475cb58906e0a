//! Looks at a cluster again and again for a moment at which somebody could run outside a budget.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use aifactory_tests::slurm::Cluster as Slurm;

const PAUSE: Duration = Duration::from_millis(100);

/// What a cluster showed while it was watched.
#[derive(Debug, Default)]
pub struct Seen {
    pub looks: usize,
    /// Associations of members, summed over all looks.
    pub rows: usize,
    pub faults: Vec<String>,
}

/// Watches a cluster until `over` is set.
pub async fn watch(slurm: &Slurm, over: &Cell<bool>) -> Seen {
    let mut seen = Seen::default();
    let mut before = qos(slurm).await;
    while !over.get() {
        let rows = rows(slurm).await;
        let after = qos(slurm).await;
        seen.looks += 1;
        seen.rows += rows.len();
        for row in &rows {
            seen.faults.extend(fault(row, &before, &after).map(|fault| format!("{} look {}: {row:?}: {fault}", slurm.cluster_name(), seen.looks)));
        }
        before = after;
        tokio::time::sleep(PAUSE).await;
    }
    seen
}

/// Account, user, partition, and the QOS that it may use, which it inherits when it has none of its own.
type Row = [String; 4];

/// What lets this association run outside a budget. The three lists are read one after the other, so that a QOS is wrong when it was before and after.
fn fault(row: &Row, before: &BTreeMap<String, bool>, after: &BTreeMap<String, bool>) -> Option<String> {
    let [_, _, partition, list] = row;
    if list.is_empty() {
        return Some("no QOS".to_owned());
    }
    if partition.is_empty() {
        return Some("every partition".to_owned());
    }
    let bounded = |name: &str| before.get(name) == Some(&true) || after.get(name) == Some(&true);
    let free: Vec<&str> = list.split(',').filter(|name| !name.starts_with("grant-") || !bounded(name)).collect();
    (!free.is_empty()).then(|| format!("{free:?} without a budget"))
}

/// Members' associations with accounts of the operator.
async fn rows(slurm: &Slurm) -> Vec<Row> {
    let text = slurm.sacctmgr(&["-nP", "show", "association", "format=account,user,partition,qos"]).await.unwrap();
    let rows = text.lines().filter_map(|line| line.split('|').map(str::to_owned).collect::<Vec<_>>().try_into().ok());
    rows.filter(|[account, user, ..]: &Row| account.starts_with("grant-") && !user.is_empty()).collect()
}

/// Every QOS, and whether it holds a budget that does not decay.
async fn qos(slurm: &Slurm) -> BTreeMap<String, bool> {
    let text = slurm.sacctmgr(&["-nP", "show", "qos", "format=name,flags,grptresmins"]).await.unwrap();
    text.lines()
        .filter_map(|line| {
            let [name, flags, minutes] = line.split('|').collect::<Vec<_>>().try_into().ok()?;
            Some((name.to_owned(), flags.contains("NoDecay") && minutes.split(',').any(|limit| limit.starts_with("gres/gpu="))))
        })
        .collect()
}
