//! Job records from a stream of bytes, one at a time.

use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;

use aifactory_plan::engine::slurm_accounts::usage::{RunKey, RunRecord, RunState};
use aifactory_plan::model::id::{AccountName, ClusterName, QosName, UserName};
use bytes::{Buf as _, Bytes};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokio::sync::mpsc;

use super::super::error::{SlurmError, of_system};
use super::undecodable;
use crate::tolerant_decode::BROKEN;

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
        while let Some(job) = list.next_element::<Soft<Job>>()? {
            match job.0.and_then(Job::record) {
                Some(record) => (self.0)(record),
                None => {
                    BROKEN.inc();
                    tracing::warn!("A job record of Slurm can not be decoded, and is not counted");
                }
            }
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

/// A value that may be of any shape: one of another type than expected is `None`, and hides nothing beside it.
#[derive(Debug)]
struct Soft<T>(Option<T>);

impl<T> Default for Soft<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// What a [`Soft`] value makes of what comes.
trait Shape: Sized {
    fn number(_: i64) -> Option<Self> {
        None
    }
    fn text(_: &str) -> Option<Self> {
        None
    }
    fn truth(_: bool) -> Option<Self> {
        None
    }
    fn list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl Shape for i64 {
    fn number(number: i64) -> Option<Self> {
        Some(number)
    }
}

impl Shape for String {
    fn text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Shape for bool {
    fn truth(truth: bool) -> Option<Self> {
        Some(truth)
    }
}

impl<T: Shape> Shape for Vec<Soft<T>> {
    fn list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut found = Vec::new();
        while let Some(element) = list.next_element()? {
            found.push(element);
        }
        Ok(Some(found))
    }
}

impl<'de, T: Shape> Deserialize<'de> for Soft<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SoftVisitor(PhantomData)).map(Self)
    }
}

struct SoftVisitor<T>(PhantomData<T>);

impl<'de, T: Shape> Visitor<'de> for SoftVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(T::number(number))
    }

    // Slurm holds one bit more than we do.
    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(T::number(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::text(text))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(T::truth(truth))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::map(map)
    }
}

/// A struct of which each field is read for itself, the last of two with one name.
macro_rules! soft {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        struct $name {
            $($field: Soft<$type>,)*
        }

        impl Shape for $name {
            fn map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
                let mut found = Self::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        $($key => found.$field = map.next_value()?,)*
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Some(found))
            }
        }
    };
}

soft! {
    struct Job {
        account: String = "account",
        cluster: String = "cluster",
        id: i64 = "job_id",
        qos: String = "qos",
        user: String = "user",
        state: States = "state",
        time: Times = "time",
        tres: Tres = "tres",
    }
}

soft! {
    struct States {
        current: Vec<Soft<String>> = "current",
    }
}

soft! {
    struct Times {
        elapsed: i64 = "elapsed",
        start: i64 = "start",
        end: i64 = "end",
        submission: i64 = "submission",
        suspended: i64 = "suspended",
        limit: Number = "limit",
    }
}

soft! {
    struct Number {
        set: bool = "set",
        infinite: bool = "infinite",
        number: i64 = "number",
    }
}

soft! {
    struct Tres {
        allocated: Vec<Soft<Count>> = "allocated",
    }
}

soft! {
    struct Count {
        kind: String = "type",
        name: String = "name",
        count: i64 = "count",
    }
}

impl Number {
    fn seconds(self) -> Option<Option<i64>> {
        let (set, infinite) = (self.set.0?, self.infinite.0?);
        if set && !infinite { Some(Some(self.number.0?.saturating_mul(60))) } else { Some(None) }
    }
}

impl Job {
    /// The record, where all that is counted can be read.
    fn record(self) -> Option<RunRecord> {
        let time = self.time.0?;
        let states = self.state.0?.current.0?.into_iter().map(|state| state.0).collect::<Option<Vec<String>>>()?;
        let mut gpus = 0_i64;
        for tres in self.tres.0?.allocated.0? {
            let tres = tres.0?;
            if tres.kind.0? == "gres" && tres.name.0? == "gpu" {
                gpus = gpus.saturating_add(tres.count.0?.max(0));
            }
        }
        Some(RunRecord {
            key: RunKey { cluster: ClusterName::new(self.cluster.0?), job: self.id.0?, submission: time.submission.0? },
            account: AccountName::new(self.account.0?),
            qos: QosName::new(self.qos.0.unwrap_or_default()),
            user: UserName::new(self.user.0.unwrap_or_default()),
            state: RunState::of(states.iter().map(String::as_str)),
            start: time.start.0?,
            end: time.end.0?,
            elapsed: time.elapsed.0?,
            suspended: time.suspended.0?,
            gpus,
            limit: time.limit.0?.seconds()?,
        })
    }
}
