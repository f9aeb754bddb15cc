//! Bytes from a disk, a peer, a client or another region that nobody wrote so.
//!
//! Here each decoder reads the corpus, and what is near to it: changed, cut and spliced at random
//! (proptest), and is watched for what memory it asks for. The tries of all decoders together are
//! bounded ([`TRIES`]), and take some seconds; `ZONEQ_FUZZ_TRIES=4000000` takes about a minute, and
//! more as long as one likes. They are the same each time, but for another `ZONEQ_FUZZ_SEED`.
//! `guided/run.sh` lets libFuzzer look for more, led by coverage, for as long as one likes; what it
//! finds is added to `corpus/`, one folder for each decoder.

mod coverage;
mod decoders;
mod memory;
mod messages;
mod nested;
mod samples;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Tries of all decoders together; one that takes longer has fewer of them.
const TRIES: u32 = 340_000;

/// What the random changes begin with.
fn seed() -> [u8; 32] {
    let given = std::env::var("ZONEQ_FUZZ_SEED").ok().map(|it| it.parse().expect("a number"));
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&given.unwrap_or(1u64).to_be_bytes());
    seed
}

/// How often a decoder is tried.
fn tries(decoder: &decoders::Decoder) -> u32 {
    let all = std::env::var("ZONEQ_FUZZ_TRIES").ok().map(|it| it.parse().expect("a number"));
    let each = all.unwrap_or(TRIES) / decoders::ALL.len() as u32;
    (each / decoder.cost).max(1)
}

/// Reads, and fails when more memory was asked for at once than any input is worth.
fn read(decoder: &decoders::Decoder, bytes: &[u8]) -> bool {
    let (known, largest) = memory::watched(|| (decoder.read)(bytes));
    let most = decoders::MOST_BYTES;
    assert!(largest <= most, "{} asked for {largest} bytes at once", decoder.name);
    known
}

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
    /// A number inside a message, the lengths around it right.
    Number(prop::sample::Index, u64),
}

/// Where sums and counts end, and where they begin.
const EXTREMES: [u64; 9] = [
    0,
    1,
    2,
    i32::MAX as u64,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX,
];

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        1 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, more)| Change::Insert(at, more)),
        1 => (at(), 1u8..64).prop_map(|(at, len)| Change::Cut(at, len)),
        1 => at().prop_map(Change::End),
        1 => at().prop_map(Change::Huge),
        1 => (at(), 1u8..64).prop_map(|(at, len)| Change::Repeat(at, len)),
        3 => (at(), prop::sample::select(&EXTREMES[..]))
            .prop_map(|(at, to)| Change::Number(at, to)),
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
            Change::Number(at, to) => {
                bytes = nested::with_number(&bytes, at, *to).unwrap_or(bytes);
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
            assert!(read(decoder, bytes), "example {at} of {} is refused", decoder.name);
        }
        record(decoder.name, &examples);
        for bytes in corpus(decoder.name) {
            read(decoder, &bytes);
        }
    }
}

#[test]
fn whatever_the_bytes_are_a_decoder_answers() {
    for decoder in &decoders::ALL {
        let corpus = corpus(decoder.name);
        let cases = tries(decoder);
        let tries = (prop::sample::select(corpus), prop::collection::vec(change(), 0..6));
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed());
        let ended = TestRunner::new_with_rng(config, random).run(&tries, |(bytes, changes)| {
            read(decoder, &changed(bytes, &changes));
            Ok(())
        });
        ended.unwrap_or_else(|failure| panic!("{}: {failure}", decoder.name));
    }
}

#[test]
fn a_decoder_that_takes_a_length_at_its_word_is_found_out() {
    let (_, largest) = memory::watched(|| drop(std::hint::black_box(vec![0u8; 64 << 20])));
    assert!(largest >= 64 << 20);
    let (_, largest) = memory::watched(|| drop(std::hint::black_box(vec![0u8; 1_000])));
    assert!((1_000..1 << 20).contains(&largest), "what was before does not count: {largest}");
}
