//! The decoders under libFuzzer; built and run by `run.sh`. `ZONEQ_FUZZ` names the one.

#![no_main]

use std::sync::LazyLock;

#[path = "../../decoders/mod.rs"]
mod decoders;

static CHOSEN: LazyLock<&decoders::Decoder> = LazyLock::new(|| {
    let name = std::env::var("ZONEQ_FUZZ").expect("ZONEQ_FUZZ names a decoder");
    let known = decoders::ALL.iter().find(|decoder| decoder.name == name);
    known.expect("ZONEQ_FUZZ names a decoder")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = (CHOSEN.read)(data);
});
