//! What a call says about itself: how long it may take, whether another node passed it on, and
//! which epoch of a pair of regions its caller knows.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use crate::proto::epoch::{self, KnownEpoch};

/// Marks a call that was passed on; it is never passed on again.
pub(super) const FORWARDED: &str = "zoneq-forwarded";
/// For a call that says nothing.
const USUAL: Duration = Duration::from_secs(10);
/// No call takes longer: the longest wait of a receive and some.
const LONGEST: Duration = Duration::from_secs(70);
/// Answers leave this much before the deadline, so that the client reads ours and not that of
/// the layer below, which says nothing about the outcome.
const MARGIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) deadline: Instant,
    /// Until then it waits for something to happen, however often it is tried again.
    pub(super) wait_until: Instant,
    pub(super) forwarded: bool,
    /// What cannot be read counts as not said.
    pub(super) knows: Option<KnownEpoch>,
}

impl Call {
    /// Reads a call's metadata; `wait` is how long it asked to wait for something to happen.
    pub(super) fn of(metadata: &MetadataMap, wait: Duration) -> Call {
        let given = metadata.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
        let within = given.unwrap_or(USUAL + wait).min(LONGEST);
        let margin = if given.is_some() { MARGIN.min(within / 10) } else { Duration::ZERO };
        Call {
            deadline: Instant::now() + (within - margin),
            wait_until: Instant::now() + wait,
            forwarded: metadata.contains_key(FORWARDED),
            knows: known(metadata),
        }
    }

    /// A change that may take as long as its caller allows, up to `longest`.
    pub(super) fn patient(metadata: &MetadataMap, longest: Duration) -> Call {
        let given = metadata.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
        let within = given.unwrap_or(longest).min(longest);
        Call {
            deadline: Instant::now() + within.saturating_sub(MARGIN.min(within / 10)),
            wait_until: Instant::now(),
            forwarded: metadata.contains_key(FORWARDED),
            knows: known(metadata),
        }
    }

    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// What is left of the wait that it asked for.
    pub(super) fn rest_of_wait(&self) -> Duration {
        self.wait_until.saturating_duration_since(Instant::now())
    }
}

fn known(metadata: &MetadataMap) -> Option<KnownEpoch> {
    KnownEpoch::read(metadata.get(epoch::HEADER)?.as_bytes())
}

/// `grpc-timeout`: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_and_what_cannot_be_read_is_none() {
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "5", "123456789S", "-1S", "5é", "1.5S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_epoch_that_cannot_be_read_is_not_said() {
        let mut metadata = MetadataMap::new();
        let knows = |metadata: &MetadataMap| Call::of(metadata, Duration::ZERO).knows;
        assert_eq!(knows(&metadata), None);
        let west = KnownEpoch::new(2, "west", 7).expect("an epoch");
        metadata.insert(epoch::HEADER, west.to_string().parse().expect("ASCII"));
        assert_eq!(knows(&metadata), Some(west));
        assert_eq!(Call::patient(&metadata, USUAL).knows, Some(west));
        for bad in ["", "2", "2 west", "two west 7", "2 west 7 and more"] {
            metadata.insert(epoch::HEADER, bad.parse().expect("ASCII"));
            assert_eq!(knows(&metadata), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_timeout_gets_the_usual_one_and_none_gets_more_than_the_longest() {
        let mut metadata = MetadataMap::new();
        assert_eq!(Call::of(&metadata, Duration::ZERO).remaining(), USUAL);
        assert_eq!(Call::of(&metadata, LONGEST).remaining(), LONGEST);
        let waits = Call::of(&metadata, USUAL);
        tokio::time::advance(USUAL / 2).await;
        assert_eq!(waits.rest_of_wait(), USUAL / 2, "a second try does not wait anew");
        metadata.insert("grpc-timeout", "1000S".parse().expect("ASCII"));
        assert_eq!(Call::of(&metadata, Duration::ZERO).remaining(), LONGEST - MARGIN);
        metadata.insert("grpc-timeout", "100m".parse().expect("ASCII"));
        assert_eq!(Call::of(&metadata, Duration::ZERO).remaining(), Duration::from_millis(90));
    }
}
