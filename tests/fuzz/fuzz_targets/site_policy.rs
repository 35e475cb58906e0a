//! A site's own policy is any text: it is read without a panic, and what can not be read is named.

#![no_main]

use std::collections::BTreeMap;

use aifactory_plan::model::{duration, quantity};
use aifactory_plan::site::policy::SitePolicy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: BTreeMap<String, String>| {
    let mut data = data;
    let text = data.values().next().cloned().unwrap_or_default();
    let _ = quantity::storage(&text);
    let _ = quantity::parse_count(&text);
    let _ = duration::seconds(&text);
    for key in ["paused", "allowDeletion", "refuseGrants", "refuseMembers", "maxGPUs"] {
        data.insert(key.to_owned(), text.clone());
    }
    let policy = SitePolicy::parse(&data);
    // A value that can not be read counts as the most restrictive one.
    assert!(policy.paused || text.trim() == "false", "{text:?}");
    assert!(policy.keep_namespaces || text.trim() == "true", "{text:?}");
});
