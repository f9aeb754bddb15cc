//! A page of metrics while it is filled: families by name, each with its help and its kind once.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::storage::timings::Timed;

/// What the text is.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Labels<'a> = &'a [(&'a str, &'a str)];

#[derive(Default)]
pub(super) struct Page {
    families: BTreeMap<&'static str, MetricFamily>,
}

impl Page {
    pub(super) fn gauge(&mut self, name: &'static str, help: &str, value: f64) {
        self.gauge_of(name, help, &[], value);
    }

    /// A gauge that is 1 or 0.
    pub(super) fn flag(&mut self, name: &'static str, help: &str, is_so: bool) {
        self.gauge(name, help, f64::from(u8::from(is_so)));
    }

    pub(super) fn gauge_of(
        &mut self,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        value: f64,
    ) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.push(name, help, MetricType::GAUGE, labels, |metric| metric.set_gauge(gauge));
    }

    /// One gauge for each word, of which the one that holds is 1; none, where another does.
    pub(super) fn one_of(
        &mut self,
        name: &'static str,
        help: &str,
        label: &str,
        words: &[&str],
        holds: &str,
    ) {
        for word in words {
            let value = f64::from(u8::from(*word == holds));
            self.gauge_of(name, help, &[(label, word)], value);
        }
    }

    /// It never falls while the process lives.
    pub(super) fn counter_of(
        &mut self,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        value: f64,
    ) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.push(name, help, MetricType::COUNTER, labels, |metric| metric.set_counter(counter));
    }

    pub(super) fn histogram_of(
        &mut self,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        timed: &Timed,
    ) {
        let bucket = |(bound, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(timed.within.iter().map(bucket).collect());
        histogram.set_sample_count(timed.count);
        histogram.set_sample_sum(timed.sum_seconds);
        self.push(name, help, MetricType::HISTOGRAM, labels, |metric| {
            metric.set_histogram(histogram)
        });
    }

    fn push(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricType,
        labels: Labels<'_>,
        set: impl FnOnce(&mut Metric),
    ) {
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::from_label(labels.iter().map(pair).collect());
        set(&mut metric);
        let family = self.families.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        family.mut_metric().push(metric);
    }

    /// Everything as text, by name.
    ///
    /// # Errors
    /// A family without a metric or without a name.
    pub(super) fn text(self) -> Result<String, prometheus::Error> {
        let families: Vec<MetricFamily> = self.families.into_values().collect();
        TextEncoder::new().encode_to_string(&families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_come_once_by_name_and_labels_are_escaped() {
        let mut page = Page::default();
        page.flag("b_flag", "Second.", true);
        page.one_of("a_role", "First.", "role", &["leader", "follower"], "follower");
        page.counter_of("c_total", "Third.", &[("queue", "a\"b\\c\nd")], 3.0);
        let expected = "# HELP a_role First.\n# TYPE a_role gauge\na_role{role=\"leader\"} 0\n\
                        a_role{role=\"follower\"} 1\n# HELP b_flag Second.\n# TYPE b_flag gauge\n\
                        b_flag 1\n# HELP c_total Third.\n# TYPE c_total counter\n\
                        c_total{queue=\"a\\\"b\\\\c\\nd\"} 3\n";
        assert_eq!(page.text().expect("text"), expected);
    }

    #[test]
    fn a_histogram_ends_with_everything_that_was_noted() {
        let timed = Timed { within: vec![(0.5, 1), (1.0, 3)], count: 4, sum_seconds: 9.5 };
        let mut page = Page::default();
        page.histogram_of("took_seconds", "How long.", &[("verb", "send")], &timed);
        let text = page.text().expect("text");
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "took_seconds_bucket{verb=\"send\",le=\"0.5\"} 1",
                "took_seconds_bucket{verb=\"send\",le=\"1\"} 3",
                "took_seconds_bucket{verb=\"send\",le=\"+Inf\"} 4",
                "took_seconds_sum{verb=\"send\"} 9.5",
                "took_seconds_count{verb=\"send\"} 4",
            ]
        );
    }
}
