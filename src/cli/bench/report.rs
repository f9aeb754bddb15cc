//! The figures of a run, under the names that other load generators of this kind print.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Latencies in microseconds, up to ten minutes.
#[derive(Clone, Debug)]
pub struct Latency(Option<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Self {
        Latency(Histogram::new_with_bounds(1, 600_000_000, 3).ok())
    }
}

impl Latency {
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(micros.max(1));
        }
    }

    pub fn add(&mut self, other: &Latency) {
        if let (Some(mine), Some(other)) = (&mut self.0, &other.0) {
            // Both have the same bounds, so nothing can be out of range.
            let _ = mine.add(other);
        }
    }

    #[must_use]
    pub fn json(&self) -> Value {
        let Some(histogram) = self.0.as_ref().filter(|histogram| !histogram.is_empty()) else {
            return Value::Null;
        };
        let at = |quantile| histogram.value_at_quantile(quantile);
        json!({
            "n": histogram.len(),
            "mean_us": histogram.mean().round(),
            "p50_us": at(0.5),
            "p99_us": at(0.99),
            "p999_us": at(0.999),
            "max_us": histogram.max(),
        })
    }
}

/// Adds the fields of `more` to an object.
pub fn put(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

/// One decimal.
#[must_use]
pub fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Acknowledgements are counted by slots of the run's clock, for this many of them, an hour.
const SLOT: u64 = 10_000_000;
const SLOTS: usize = 360_000;
/// Slots in which a rate is looked at: half a second.
const LOOK: usize = 50;

/// The longest time without an acknowledgement since it was armed, and the way back up.
#[derive(Debug, Default)]
pub struct Gap(Mutex<Gaps>);

#[derive(Debug, Default)]
struct Gaps {
    /// Acknowledgements of each slot, from the one in which it was armed.
    slots: Vec<u32>,
    armed_at: Option<u64>,
    last: u64,
    longest: u64,
    began: u64,
    acked_since: u64,
}

/// What a gap was, in nanoseconds of the clock it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GapFound {
    pub longest: u64,
    /// When it began, and when the watch was armed.
    pub began: u64,
    pub armed: u64,
    /// False when nothing was acknowledged since.
    pub recovered: bool,
}

impl Gap {
    fn lock(&self) -> std::sync::MutexGuard<'_, Gaps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was acknowledged at this time.
    pub fn acknowledged(&self, now: u64) {
        let mut gaps = self.lock();
        if let Some(armed) = gaps.armed_at {
            let slot = slots_between(armed, now);
            if slot >= gaps.slots.len() && slot < SLOTS {
                gaps.slots.resize(slot + 1, 0);
            }
            if let Some(count) = gaps.slots.get_mut(slot) {
                *count += 1;
            }
            let gap = now.saturating_sub(gaps.last);
            if gaps.last > 0 && gap > gaps.longest {
                (gaps.longest, gaps.began) = (gap, gaps.last);
            }
            gaps.acked_since += 1;
        }
        gaps.last = gaps.last.max(now);
    }

    /// From here on gaps count.
    pub fn arm(&self, now: u64) {
        let mut gaps = self.lock();
        *gaps = Gaps { armed_at: Some(now), last: gaps.last, ..Gaps::default() };
    }

    /// Acknowledgements since it was armed.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.lock().acked_since
    }

    /// Milliseconds from when it was armed until acknowledgements came at half of a rate a second
    /// again, as far as half seconds that are over tell.
    #[must_use]
    pub fn half_rate(&self, now: u64, before: f64) -> Option<u64> {
        let gaps = self.lock();
        let over = slots_between(gaps.armed_at?, now).min(SLOTS);
        let mut slots = gaps.slots.clone();
        drop(gaps);
        slots.resize(over, 0);
        half_rate(&slots, before)
    }

    /// The longest gap so far; one that has not ended counts up to `now`.
    #[must_use]
    pub fn found(&self, now: u64) -> GapFound {
        let gaps = self.lock();
        let open = now.saturating_sub(gaps.last);
        let armed = gaps.armed_at.unwrap_or(now);
        let recovered = gaps.acked_since > 0;
        if !recovered || open > gaps.longest {
            return GapFound { longest: open, began: gaps.last, armed, recovered };
        }
        GapFound { longest: gaps.longest, began: gaps.began, armed, recovered }
    }
}

/// Whole slots from the one of a time until that of a later one.
fn slots_between(from: u64, until: u64) -> usize {
    usize::try_from((until / SLOT).saturating_sub(from / SLOT)).unwrap_or(usize::MAX)
}

/// Milliseconds from the first slot until the first half second with at least half of the
/// acknowledgements that it had at the rate before. The first slot itself is of both times.
fn half_rate(slots: &[u32], before: f64) -> Option<u64> {
    let enough = before / 2.0 * LOOK as f64 * SLOT as f64 / 1e9;
    let reached = |look: &[u32]| look.iter().map(|count| f64::from(*count)).sum::<f64>() >= enough;
    let at = slots.get(1..)?.windows(LOOK).position(reached)?;
    Some((at as u64 + 1) * (SLOT / 1_000_000))
}

/// The most of some times; `None` when one of them never came.
#[must_use]
pub fn slowest(times: &[Option<u64>]) -> Option<u64> {
    times.iter().copied().collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// How many times `one` is `other`, in thousandths; `None` without two figures.
#[must_use]
pub fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    let ratio = one? / other?;
    ratio.is_finite().then(|| (ratio * 1000.0).round() / 1000.0)
}

/// Objects with the same fields as one: numbers are the mean of all, the rest is of the last.
#[must_use]
pub fn mean(objects: &[Value]) -> Value {
    let mut all = objects.last().cloned().unwrap_or_default();
    for (name, value) in all.as_object_mut().into_iter().flatten() {
        let field = |object: &Value| object.get(name).and_then(Value::as_f64);
        if let (true, Some(numbers)) =
            (value.is_f64(), objects.iter().map(field).collect::<Option<Vec<f64>>>())
        {
            let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
            *value = json!((mean * 1000.0).round() / 1000.0);
        }
    }
    all
}

/// The middle and the largest of some numbers.
#[must_use]
pub fn middle_and_largest(mut numbers: Vec<f64>) -> (f64, f64) {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.get(numbers.len() / 2).copied().unwrap_or(0.0);
    (middle, numbers.last().copied().unwrap_or(0.0))
}

/// The result in a few lines for people: those of these fields that are there.
#[must_use]
pub fn text(result: &Value) -> String {
    const FIELDS: [&str; 41] = [
        "run",
        "calls",
        "durability",
        "msgs_per_s",
        "fill_msgs_per_s",
        "acked",
        "completed",
        "errors",
        "first_error",
        "send_latency",
        "deliver_latency",
        "end_to_end_latency",
        "copy_lag",
        "shipped_bytes_per_payload_byte",
        "copy_cpu_us_per_msg",
        "rounds",
        "gap_ms",
        "longest_gap_ms",
        "ms_to_half_rate",
        "recovered",
        "acked_lost",
        "unacked_found",
        "delivered_twice",
        "not_delivered",
        "redelivered",
        "lease_expired",
        "creates_per_s",
        "listed_per_s",
        "list_us_per_queue",
        "list_cpu_us_per_queue",
        "sends_per_s",
        "send_cpu_us_per_msg",
        "ratios",
        "disk_bytes_per_msg",
        "rss_mib_full",
        "server_cores",
        "server_cpu_us_per_msg",
        "client_cpu_us_per_msg",
        "server_written_bytes_per_msg",
        "machine_flushes_per_msg",
        "server_rss_mib",
    ];
    let mut lines = Vec::new();
    for name in FIELDS {
        match result.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => lines.push(format!("{name:<30}{text}")),
            Some(Value::Object(latency)) => {
                let parts = latency.iter().map(|(name, value)| format!("{name} {value}"));
                lines.push(format!("{name:<30}{}", parts.collect::<Vec<_>>().join("  ")));
            }
            Some(value) => lines.push(format!("{name:<30}{value}")),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_longest_silence_after_it_was_armed() {
        let gap = Gap::default();
        for now in [10, 1_000] {
            gap.acknowledged(now);
        }
        gap.arm(1_010);
        assert_eq!(gap.found(1_500).longest, 500, "it has not ended yet");
        assert!(!gap.found(1_500).recovered);
        for now in [1_600, 1_650, 1_640] {
            gap.acknowledged(now);
        }
        let found = gap.found(1_651);
        assert_eq!((found.longest, found.began, found.recovered), (600, 1_000, true));
        assert_eq!(gap.since(), 3);
    }

    #[test]
    fn half_of_the_rate_is_back_with_the_first_half_second_that_has_so_many() {
        // 400 a second before: 100 in half a second are half of it.
        let mut slots = vec![0; 200];
        slots[0] = 1_000;
        assert_eq!(half_rate(&slots, 400.0), None, "the slot of the fault does not count");
        slots[100..].fill(2);
        assert_eq!(half_rate(&slots, 400.0), Some(1_000));
        assert_eq!(half_rate(&slots[..149], 400.0), None, "that half second is not over");
        assert_eq!(half_rate(&slots, 200.0), Some(750), "when half of it is enough");
        slots[1..].fill(2);
        assert_eq!(half_rate(&slots, 400.0), Some(10), "it was never less");
        assert_eq!(half_rate(&[], 400.0), None);
    }

    #[test]
    fn acknowledgements_count_from_when_the_gap_was_armed() {
        let gap = Gap::default();
        let at = |millis: u64| millis * 1_000_000;
        (0..1_000).for_each(|millis| gap.acknowledged(at(millis)));
        assert_eq!(gap.half_rate(at(1_000), 1_000.0), None, "not armed");
        gap.arm(at(1_005));
        (1_300..1_800).for_each(|millis| gap.acknowledged(at(millis)));
        // 250 are there when the half second from 1.05 s is over.
        assert_eq!(gap.half_rate(at(1_549), 1_000.0), None);
        assert_eq!(gap.half_rate(at(1_550), 1_000.0), Some(50));
        gap.arm(at(2_000));
        assert_eq!(gap.half_rate(at(9_000), 1_000.0), None, "each fault counts anew");
        gap.acknowledged(u64::MAX);
    }

    #[test]
    fn windows_are_told_as_their_mean() {
        let windows = [
            json!({ "queues": 5, "rate": 10.0, "rss": [1.0] }),
            json!({ "queues": 5, "rate": 25.0, "rss": [2.0] }),
        ];
        assert_eq!(mean(&windows), json!({ "queues": 5, "rate": 17.5, "rss": [2.0] }));
        assert_eq!(mean(&[]), Value::Null);
    }

    #[test]
    fn a_ratio_has_two_figures_and_a_slowest_time_has_all() {
        assert_eq!(ratio(Some(2.0), Some(3.0)), Some(0.667));
        for (one, other) in [(None, Some(1.0)), (Some(1.0), None), (Some(0.0), Some(0.0))] {
            assert_eq!(ratio(one, other), None);
        }
        assert_eq!(slowest(&[Some(3), Some(9), Some(4)]), Some(9));
        assert_eq!(slowest(&[Some(3), None]), None);
        assert_eq!(slowest(&[]), None);
    }

    #[test]
    fn latencies_are_given_under_their_names() {
        let mut latency = Latency::default();
        assert_eq!(latency.json(), Value::Null);
        for millis in 1..=100 {
            latency.record(Duration::from_millis(millis));
        }
        let mut twice = latency.clone();
        twice.add(&latency);
        assert_eq!(twice.json()["n"], 200);
        let p50 = twice.json()["p50_us"].as_f64().expect("a number");
        assert!((p50 - 50_000.0).abs() < 100.0, "{p50}");
        assert_eq!(middle_and_largest(vec![3.0, 1.0, 2.0]), (2.0, 3.0));
    }
}
