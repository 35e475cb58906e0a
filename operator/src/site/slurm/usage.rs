//! Device-time of accounts, read from Slurm's job records.
//!
//! An answer is decoded record by record as it comes, since records are five kilobytes each; and windows are narrow, since slurmrestd makes an
//! answer whole in memory before it sends it. What was counted is only in memory: it can be counted anew at any time.

mod decode;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_plan::engine::slurm_accounts::usage::{Completeness, EntryKey, Part, Slice, Tally};
use aifactory_plan::model::id::{AccountName, ClusterName, QosName, UserName};
use aifactory_plan::model::report::EntryUsage;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use jiff::Timestamp;

use super::client::{Api, SlurmClient};
use super::error::SlurmError;

/// The longest and the shortest window, in seconds.
const SPAN: (i64, i64) = (24 * 3600, 60);
/// The window that is begun with, since nothing is known of the records; it grows while answers are small.
const FIRST: i64 = 60;
/// What an answer should hold at most, in records and bytes.
const ANSWER: (usize, usize) = (1_500, 8 << 20);
/// Accounts that one question names at most.
const ACCOUNTS: usize = 100;
/// Seconds without complete records after which figures are stale.
const STALE: i64 = 90;

/// What job records say about accounts.
#[derive(Debug)]
pub struct Usage {
    cluster: ClusterName,
    tally: Tally,
    looks: Completeness,
    complete_through: Option<i64>,
    span: i64,
}

/// What one reading found.
#[derive(Debug, Default)]
pub struct Cycle {
    /// Device-time by account and QOS; empty when something could not be read.
    pub used: BTreeMap<EntryKey, EntryUsage>,
    /// The accounts that were read: those of which `used` says nothing have used nothing.
    pub read: BTreeSet<AccountName>,
    /// The figure of an account that was read, without any job.
    pub none: EntryUsage,
    /// Why something could not be read.
    pub problem: Option<SlurmError>,
}

impl Cycle {
    /// What an account used with a QOS; `None`: it was not read.
    pub fn of(&self, account: &AccountName, qos: &QosName) -> Option<&EntryUsage> {
        let known = self.used.get(&(account.clone(), qos.clone()));
        known.or_else(|| self.read.contains(account).then_some(&self.none))
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self::new()
    }
}

impl Usage {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self { cluster: ClusterName::default(), tally: Tally::default(), looks: Completeness::default(), complete_through: None, span: FIRST }
    }

    /// Reads what is not settled yet, of accounts and the moments from which they count.
    pub async fn cycle(&mut self, client: &SlurmClient, cluster: &ClusterName, accounts: &BTreeMap<AccountName, Timestamp>, now: Timestamp) -> Cycle {
        if self.cluster != *cluster {
            *self = Self { cluster: cluster.clone(), ..Self::new() };
        }
        match self.read(client, accounts).await {
            Ok(()) => self.found(accounts, now),
            Err(problem) => {
                self.looks.failed();
                Cycle { problem: Some(problem), ..Cycle::default() }
            }
        }
    }

    /// The users of each account who have jobs, pending ones too.
    pub fn busy(&self) -> BTreeMap<AccountName, BTreeSet<UserName>> {
        self.tally.busy().clone()
    }

    fn found(&self, accounts: &BTreeMap<AccountName, Timestamp>, now: Timestamp) -> Cycle {
        let complete_through = self.complete_through.and_then(|at| Timestamp::from_second(at).ok());
        let stale = self.complete_through.is_none_or(|at| now.as_second().saturating_sub(at) > STALE);
        let none = EntryUsage { complete_through, stale, ..EntryUsage::default() };
        let with_time = |(entry, usage): (&EntryKey, &EntryUsage)| (entry.clone(), EntryUsage { complete_through, stale, ..usage.clone() });
        Cycle { used: self.tally.usage().iter().map(with_time).collect(), read: accounts.keys().cloned().collect(), none, problem: None }
    }

    async fn read(&mut self, client: &SlurmClient, accounts: &BTreeMap<AccountName, Timestamp>) -> Result<(), SlurmError> {
        // What was queued is asked first: then the records that are read afterwards hold everything up to that moment, on slurmctld's own clock.
        let (at, queued) = queue(client).await?;
        let settle = self.looks.looked(at, queued == 0).unwrap_or(i64::MIN);
        let since = accounts.iter().map(|(account, since)| (account.clone(), since.as_second())).collect();
        let mut sweep = self.tally.sweep(&since, settle, at);
        while let Some(slice) = sweep.next(self.span) {
            let (part, size) = read_slice(client, &self.cluster, &slice).await?;
            self.span = next_span(self.span, size);
            sweep.took(slice, part);
        }
        sweep.finish();
        if queued == 0 {
            self.complete_through = Some(at);
        }
        Ok(())
    }
}

/// Half a window after a long answer, twice as much after a short one.
fn next_span(span: i64, (records, bytes): (usize, usize)) -> i64 {
    let long = |part: usize| records > ANSWER.0 / part || bytes > ANSWER.1 / part;
    let next = if long(1) {
        span / 2
    } else if long(4) {
        span
    } else {
        span.saturating_mul(2)
    };
    next.clamp(SPAN.1, SPAN.0)
}

/// slurmctld's time, and how many messages to the database it holds back.
async fn queue(client: &SlurmClient) -> Result<(i64, i64), SlurmError> {
    let answer = client.get(Api::Slurm, "diag/", &[]).await?;
    let number = |path: &str| {
        let value = answer.pointer(path)?;
        value.as_i64().or_else(|| value.get("number")?.as_i64())
    };
    let undecodable = |what: &str| SlurmError::Undecodable { path: "diag/", why: format!("it has no {what}") };
    let at = number("/statistics/req_time").filter(|at| *at > 0).ok_or_else(|| undecodable("req_time"))?;
    Ok((at, number("/statistics/dbd_agent_queue_size").ok_or_else(|| undecodable("dbd_agent_queue_size"))?))
}

/// A window; with records and bytes of its longest answer.
async fn read_slice(client: &SlurmClient, cluster: &ClusterName, slice: &Slice) -> Result<(Part, (usize, usize)), SlurmError> {
    let mut part = Part::new(slice.window);
    let mut size = (0, 0);
    let accounts: Vec<&str> = slice.accounts.iter().map(AccountName::as_str).collect();
    for chunk in accounts.chunks(ACCOUNTS) {
        let before = part.len();
        let bytes;
        (part, bytes) = read_answer(client, cluster, chunk, slice, part).await?;
        size = (size.0.max(part.len().saturating_sub(before)), size.1.max(bytes));
    }
    Ok((part, size))
}

async fn read_answer(
    client: &SlurmClient,
    cluster: &ClusterName,
    accounts: &[&str],
    slice: &Slice,
    mut part: Part,
) -> Result<(Part, usize), SlurmError> {
    let (from, to) = (slice.window.from.to_string(), slice.window.to.to_string());
    // With just these two flags Slurm shows every run of a job, and cuts its times to the window, suspended time as well.
    let query = [
        ("account", accounts.join(",")),
        ("cluster", cluster.to_string()),
        ("start_time", from),
        ("end_time", to),
        ("skip_steps", "1".to_owned()),
        ("show_duplicates", "1".to_owned()),
    ];
    let query: Vec<(&str, &str)> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let body = client.stream(Api::Slurmdb, "jobs/", &query).await?;
    let mut chunks = body.into_data_stream();
    let (feed, reader) = decode::channel();
    let decoding = tokio::task::spawn_blocking(move || decode::records(reader, |record| part.add(record)).map(|()| part));
    let (mut bytes, mut broken) = (0usize, None);
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => {
                bytes = bytes.saturating_add(chunk.len());
                if feed.send(chunk).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                broken = Some(SlurmError::NoAnswer(error.to_string()));
                break;
            }
        }
    }
    drop(feed);
    let decoded = decoding.await.map_err(|error| undecodable(error.to_string()))?;
    match broken {
        Some(error) => Err(error),
        None => Ok((decoded?, bytes)),
    }
}

fn undecodable(why: String) -> SlurmError {
    SlurmError::Undecodable { path: "jobs/", why }
}
