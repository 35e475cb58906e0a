//! A credential of a site is any bytes: it is used or refused.

#![no_main]

use aifactory_operator::credential::{AddressRules, SiteCredential};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = SiteCredential::parse(bytes, &AddressRules::default());
});
