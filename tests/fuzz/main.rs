//! Bytes from a disk, a peer, a client or another region that nobody wrote so.
//!
//! Here each decoder reads the corpus, and what is near to it: changed, cut and spliced at random
//! (proptest). `guided/run.sh` lets libFuzzer look for more, led by coverage, for as long as one
//! likes; what it finds is added to `corpus/`, one folder for each decoder.

mod decoders;
mod samples;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Tries of each decoder.
const TRIES: u32 = 20_000;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name)
}

/// With `ZONEQ_RECORD_EXAMPLES` set the examples are written into the corpus, where libFuzzer
/// finds them.
fn record(name: &str, examples: &[Vec<u8>]) {
    if std::env::var_os("ZONEQ_RECORD_EXAMPLES").is_some() {
        std::fs::create_dir_all(folder(name)).expect("a folder");
        for (at, bytes) in examples.iter().enumerate() {
            std::fs::write(folder(name).join(format!("example-{at}")), bytes).expect("a file");
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = folder(name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map(|found| found.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    paths.sort();
    let kept = paths.iter().map(|path| std::fs::read(path).expect("a readable file"));
    samples::of(name).into_iter().chain(kept).collect()
}

/// One change of some bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(prop::sample::Index, u8),
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index, u8),
    End(prop::sample::Index),
    /// A length that says more than there is.
    Huge(prop::sample::Index),
    Repeat(prop::sample::Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, b)| Change::Insert(at, b)),
        (at(), 1u8..64).prop_map(|(at, len)| Change::Cut(at, len)),
        at().prop_map(Change::End),
        at().prop_map(Change::Huge),
        (at(), 1u8..64).prop_map(|(at, len)| Change::Repeat(at, len)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let len = bytes.len();
        let place = |at: &prop::sample::Index| at.index(len + 1);
        match change {
            Change::Flip(at, bit) => {
                if let Some(byte) = bytes.get_mut(place(at)) {
                    *byte ^= 1 << bit;
                }
            }
            Change::Set(at, to) => {
                if let Some(byte) = bytes.get_mut(place(at)) {
                    *byte = *to;
                }
            }
            Change::Insert(at, more) => {
                bytes.splice(place(at)..place(at), more.iter().copied());
            }
            Change::Cut(at, count) => {
                bytes.drain(place(at)..len.min(place(at) + usize::from(*count)));
            }
            Change::End(at) => bytes.truncate(place(at)),
            Change::Huge(at) => {
                let end = len.min(place(at) + 1);
                bytes.splice(place(at)..end, [0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
            Change::Repeat(at, count) => {
                let end = len.min(place(at) + usize::from(*count));
                let again = bytes[place(at)..end].to_vec();
                bytes.splice(place(at)..place(at), again);
            }
        }
    }
    bytes
}

#[test]
fn every_decoder_has_an_example_and_reads_its_corpus() {
    for decoder in &decoders::ALL {
        let examples = samples::of(decoder.name);
        assert!(!examples.is_empty(), "{} has no example", decoder.name);
        for (at, bytes) in examples.iter().enumerate() {
            assert!((decoder.read)(bytes), "example {at} of {} is refused", decoder.name);
        }
        record(decoder.name, &examples);
        for bytes in corpus(decoder.name) {
            (decoder.read)(&bytes);
        }
    }
}

#[test]
fn whatever_the_bytes_are_a_decoder_answers() {
    for decoder in &decoders::ALL {
        let corpus = corpus(decoder.name);
        let tries = (prop::sample::select(corpus), prop::collection::vec(change(), 0..6));
        let config = Config { cases: TRIES, failure_persistence: None, ..Config::default() };
        let ended = TestRunner::new(config).run(&tries, |(bytes, changes)| {
            (decoder.read)(&changed(bytes, &changes));
            Ok(())
        });
        ended.unwrap_or_else(|failure| panic!("{}: {failure}", decoder.name));
    }
}
