//! The same decoders under libFuzzer; built and run by `guided.sh`. `ZONEQ_FUZZ` names the one.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod decoders;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static DECODER: std::sync::LazyLock<&'static decoders::Decoder> =
        std::sync::LazyLock::new(|| {
            let name = std::env::var("ZONEQ_FUZZ").expect("ZONEQ_FUZZ names a decoder");
            let known = decoders::ALL.iter().find(|decoder| decoder.name == name);
            known.expect("ZONEQ_FUZZ names a decoder")
        });
    let _ = (DECODER.read)(data);
});

#[cfg(not(fuzzing))]
fn main() {
    println!("not run: tests/fuzz/guided.sh builds this with libFuzzer");
}
