//! Job records from a stream of bytes, one at a time.

use std::fmt;
use std::io::{self, Read};

use aifactory_plan::engine::slurm_accounts::usage::{RunKey, RunRecord, RunState};
use bytes::{Buf as _, Bytes};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokio::sync::mpsc;

use super::super::error::{SlurmError, of_system};
use super::undecodable;

/// Pieces of an answer that wait to be decoded.
const WAITING: usize = 4;

/// Where pieces of an answer go, and where they are read. To be read where blocking is allowed.
pub(super) fn channel() -> (mpsc::Sender<Bytes>, impl Read + Send + 'static) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (sender, io::BufReader::with_capacity(64 << 10, Pieces { receiver, piece: Bytes::new() }))
}

struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = to.len().min(self.piece.len());
        if let Some(to) = to.get_mut(..length) {
            self.piece.copy_to_slice(to);
        }
        Ok(length)
    }
}

/// Every record of an answer; an error if the answer says one, or ends too soon.
pub(super) fn records(reader: impl Read, each: impl FnMut(RunRecord)) -> Result<(), SlurmError> {
    let mut json = serde_json::Deserializer::from_reader(reader);
    let errors = Answer(each).deserialize(&mut json).map_err(|error| undecodable(error.to_string()))?;
    json.end().map_err(|error| undecodable(error.to_string()))?;
    match errors.into_iter().next() {
        Some(Problem { error_number: number, .. }) if number == 7000 || of_system(number) => Err(SlurmError::DatabaseDown),
        Some(Problem { error_number, error, description }) => {
            Err(SlurmError::Refused { number: error_number, text: if description.is_empty() { error } else { description } })
        }
        None => Ok(()),
    }
}

struct Answer<F>(F);

impl<'de, F: FnMut(RunRecord)> DeserializeSeed<'de> for Answer<F> {
    type Value = Vec<Problem>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(RunRecord)> Visitor<'de> for Answer<F> {
    type Value = Vec<Problem>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an answer with jobs")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut errors, mut jobs) = (Vec::new(), false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "jobs" => {
                    map.next_value_seed(Jobs(&mut self.0))?;
                    jobs = true;
                }
                "errors" => errors = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        // Without the list nothing was read: that is not the same as no jobs.
        if jobs || !errors.is_empty() { Ok(errors) } else { Err(serde::de::Error::missing_field("jobs")) }
    }
}

struct Jobs<'a, F>(&'a mut F);

impl<'de, F: FnMut(RunRecord)> DeserializeSeed<'de> for Jobs<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(RunRecord)> Visitor<'de> for Jobs<'_, F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of jobs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(job) = list.next_element::<Job>()? {
            (self.0)(job.into());
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    error_number: i64,
    #[serde(default)]
    error: String,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Job {
    account: String,
    cluster: String,
    job_id: i64,
    #[serde(default)]
    qos: String,
    #[serde(default)]
    user: String,
    state: States,
    time: Times,
    tres: Tres,
}

#[derive(Deserialize)]
struct States {
    current: Vec<String>,
}

#[derive(Deserialize)]
struct Times {
    elapsed: i64,
    start: i64,
    end: i64,
    submission: i64,
    suspended: i64,
    limit: Number,
}

#[derive(Deserialize)]
struct Number {
    set: bool,
    infinite: bool,
    number: i64,
}

#[derive(Deserialize)]
struct Tres {
    allocated: Vec<Count>,
}

#[derive(Deserialize)]
struct Count {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    count: i64,
}

impl From<Job> for RunRecord {
    fn from(job: Job) -> Self {
        let gpus = job.tres.allocated.iter().filter(|tres| tres.kind == "gres" && tres.name == "gpu").map(|tres| tres.count.max(0)).sum();
        let Number { set, infinite, number } = job.time.limit;
        Self {
            key: RunKey { cluster: job.cluster, job: job.job_id, submission: job.time.submission },
            account: job.account,
            qos: job.qos,
            user: job.user,
            state: RunState::of(job.state.current.iter().map(String::as_str)),
            start: job.time.start,
            end: job.time.end,
            elapsed: job.time.elapsed,
            suspended: job.time.suspended,
            gpus,
            limit: (set && !infinite).then(|| number.saturating_mul(60)),
        }
    }
}
