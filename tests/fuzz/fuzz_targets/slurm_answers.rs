//! An answer of slurmrestd is any JSON: what was not read is an error, never nothing.

#![no_main]

use std::collections::BTreeSet;

use aifactory_operator::site::slurm::read::answer;
use aifactory_plan::model::id::AccountName;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(found) = serde_json::from_slice::<Value>(bytes) else { return };
    let _ = answer::accounts(found.clone());
    let _ = answer::qos(found.clone());
    let _ = answer::tres(found.clone());
    let _ = answer::clusters(found.clone());
    let _ = answer::partitions(found.clone(), found.clone());
    let ours = BTreeSet::from([AccountName::new("grant-a")]);
    let _ = answer::associations(found.clone(), &ours);
    // One element of ours that can not be read makes the whole answer an error.
    let broken = found.as_object().is_none_or(|element| !element.contains_key("lineage"));
    if broken {
        assert!(answer::associations(json!({"associations": [{"account": "grant-a", "more": found}]}), &ours).is_err());
    }
});
