//! `zoneq region shape`: how the line between the regions is made to behave, and the file of a
//! trace.
//!
//! A line of a trace file is `OFFSET DELAY BANDWIDTH up|down`, such as `10s 500ms 2MiB/s up`, with
//! `-` for a bandwidth that is not limited; from that offset on the line is so. A last line
//! `OFFSET repeat` begins again. Empty lines and what follows a `#` count for nothing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::{Value, json};

use super::seconds;
use crate::cli::output::counted;
use crate::cli::parse_span;
use crate::client::Regions;
use crate::proto::admin::v1 as pb;

/// A file that is longer is no trace.
const FILE_BYTES: u64 = 64 << 10;

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Shape {
    /// Everything arrives so much later; 0s for no delay
    #[arg(long, env = "ZONEQ_REGION_SHAPE_DELAY", value_parser = parse_span, value_name = "SPAN")]
    delay: Option<Duration>,
    /// And later again by up to this, at random; order is kept
    #[arg(long, env = "ZONEQ_REGION_SHAPE_JITTER", value_parser = parse_span, value_name = "SPAN")]
    jitter: Option<Duration>,
    /// Bytes a second, such as 2MiB/s, or `unlimited`
    #[arg(long, env = "ZONEQ_REGION_SHAPE_BANDWIDTH", value_parser = parse_rate, value_name = "RATE")]
    bandwidth: Option<Rate>,
    /// Nothing passes: from START after now, for FOR, once or once in each EVERY; may be repeated,
    /// and replaces the outages set before
    #[arg(long = "outage", env = "ZONEQ_REGION_SHAPE_OUTAGE", value_parser = parse_outage,
          value_name = "START/FOR[/EVERY]", value_delimiter = ',')]
    outages: Vec<Outage>,
    /// Play this file from now on: lines of OFFSET DELAY BANDWIDTH up|down
    #[arg(long, env = "ZONEQ_REGION_SHAPE_TRACE", value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Nothing passes until --resume
    #[arg(long, conflicts_with = "resume", env = "ZONEQ_REGION_SHAPE_PAUSE",
          value_parser = FalseyValueParser::new())]
    pause: bool,
    /// End a --pause
    #[arg(long, env = "ZONEQ_REGION_SHAPE_RESUME", value_parser = FalseyValueParser::new())]
    resume: bool,
    /// The line as it is; what else is given begins from there
    #[arg(long, env = "ZONEQ_REGION_SHAPE_OFF", value_parser = FalseyValueParser::new())]
    off: bool,
}

/// Bytes a second; 0 = not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outage {
    after: Duration,
    lasts: Duration,
    every: Option<Duration>,
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "unlimited" || text == "-" {
        return Ok(Rate(0));
    }
    let wrong = || format!("{text:?} is no bandwidth; write for example 64KiB/s, 2MiB/s, 1000B/s");
    text.strip_suffix("/s").and_then(parse_bytes).map(Rate).ok_or_else(wrong)
}

/// Reads `1000B`, `64KiB`, `2MiB` or `1GiB`; nothing is no size.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

fn parse_outage(text: &str) -> Result<Outage, String> {
    let wrong =
        || format!("{text:?} is no outage; write START/FOR or START/FOR/EVERY, such as 10s/5s/1m");
    let parts: Vec<Duration> =
        text.split('/').map(parse_span).collect::<Result<_, _>>().map_err(|_| wrong())?;
    match *parts.as_slice() {
        [after, lasts] => Ok(Outage { after, lasts, every: None }),
        [after, lasts, every] => Ok(Outage { after, lasts, every: Some(every) }),
        _ => Err(wrong()),
    }
}

fn wire(span: Duration) -> Option<prost_types::Duration> {
    span.try_into().ok()
}

/// Reads a trace file.
///
/// # Errors
/// The line that is none, or that there are no steps.
pub fn parse_trace(text: &str) -> anyhow::Result<pb::LineTrace> {
    let mut trace = pb::LineTrace::default();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let read = parse_step(&words, &mut trace);
        if let Err(why) = read {
            bail!("line {}: {why}", at + 1);
        }
    }
    if trace.steps.is_empty() {
        bail!("it has no steps");
    }
    Ok(trace)
}

fn parse_step(words: &[&str], trace: &mut pb::LineTrace) -> Result<(), String> {
    if trace.repeats.is_some() {
        return Err("nothing follows `repeat`".to_owned());
    }
    match *words {
        [at, "repeat"] => trace.repeats = wire(parse_span(at)?),
        [at, delay, rate, line @ ("up" | "down")] => {
            let Rate(rate) = parse_rate(rate)?;
            trace.steps.push(pb::LineStep {
                at: wire(parse_span(at)?),
                delay: wire(parse_span(delay)?),
                bytes_per_second: (rate > 0).then_some(rate),
                down: line == "down",
            });
        }
        _ => return Err("write OFFSET DELAY BANDWIDTH up|down, or OFFSET repeat".to_owned()),
    }
    Ok(())
}

fn read_trace(path: &std::path::Path) -> anyhow::Result<pb::LineTrace> {
    let named = || format!("the trace {}", path.display());
    let bytes = std::fs::metadata(path).with_context(named)?.len();
    if bytes > FILE_BYTES {
        bail!("{} is longer than {FILE_BYTES} bytes", named());
    }
    parse_trace(&std::fs::read_to_string(path).with_context(named)?).with_context(named)
}

impl Shape {
    pub async fn run(self, regions: &Regions) -> anyhow::Result<(Value, String)> {
        let outage = |it: &Outage| pb::LineOutage {
            after: wire(it.after),
            lasts: wire(it.lasts),
            every: it.every.and_then(wire),
        };
        let outages = self.outages.iter().map(outage).collect::<Vec<_>>();
        let change = pb::ShapeLineRequest {
            who: String::new(),
            off: self.off,
            delay: self.delay.and_then(wire),
            jitter: self.jitter.and_then(wire),
            bytes_per_second: self.bandwidth.map(|Rate(rate)| rate),
            paused: (self.pause || self.resume).then_some(self.pause),
            outages: (!outages.is_empty()).then_some(pb::LineOutages { outages }),
            trace: self.trace.as_deref().map(read_trace).transpose()?,
        };
        regions.shape_line(change).await?;
        let status = regions.status().await?;
        let text = match &status.shape {
            Some(shape) => shape_said(shape),
            None => "the line is not shaped".to_owned(),
        };
        let shape = status.shape.as_ref().map(shape_json);
        Ok((json!({ "ok": true, "done": "shape", "shape": shape }), text))
    }
}

pub fn shape_json(shape: &pb::LineShape) -> Value {
    let outage = |it: &pb::LineOutage| {
        json!({
            "after_seconds": seconds(it.after.as_ref()),
            "lasts_seconds": seconds(it.lasts.as_ref()),
            "every_seconds": seconds(it.every.as_ref()),
        })
    };
    json!({
        "delay_seconds": seconds(shape.delay.as_ref()),
        "jitter_seconds": seconds(shape.jitter.as_ref()),
        "bytes_per_second": shape.bytes_per_second,
        "paused": shape.paused,
        "outages": shape.outages.iter().map(outage).collect::<Vec<_>>(),
        "trace_steps": shape.trace.len(),
        "trace_repeats_seconds": seconds(shape.trace_repeats.as_ref()),
        "down": shape.down,
    })
}

/// The shape in words.
pub fn shape_said(shape: &pb::LineShape) -> String {
    let mut parts = Vec::new();
    let long = |span: &Option<prost_types::Duration>| seconds(span.as_ref()).filter(|it| *it > 0.0);
    if let Some(delay) = long(&shape.delay) {
        parts.push(format!("delay {delay} s"));
    }
    if let Some(jitter) = long(&shape.jitter) {
        parts.push(format!("jitter up to {jitter} s"));
    }
    if let Some(rate) = shape.bytes_per_second {
        parts.push(format!("{rate} bytes a second"));
    }
    if !shape.outages.is_empty() {
        parts.push(counted(shape.outages.len() as u64, "outage"));
    }
    if !shape.trace.is_empty() {
        parts.push(format!("a trace of {}", counted(shape.trace.len() as u64, "step")));
    }
    if shape.paused {
        parts.push("paused".to_owned());
    }
    let now = if shape.down { ", and is down now" } else { "" };
    format!("the line is shaped ({}){now}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn bandwidths_and_outages_are_read_as_they_are_written() {
        assert_eq!(parse_rate("2MiB/s"), Ok(Rate(2 << 20)));
        assert_eq!(parse_rate("1000B/s"), Ok(Rate(1_000)));
        assert_eq!(parse_rate("unlimited"), Ok(Rate(0)));
        for wrong in ["2MiB", "2MB/s", "MiB/s", "0KiB/s", "99999999999999999999GiB/s", ""] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
        let outage = |every| Outage { after: span(10), lasts: span(5), every };
        assert_eq!(parse_outage("10s/5s"), Ok(outage(None)));
        assert_eq!(parse_outage("10s/5s/1m"), Ok(outage(Some(span(60)))));
        for wrong in ["10s", "10s/5s/1m/2m", "10/5", ""] {
            assert!(parse_outage(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_trace_is_read_and_a_wrong_line_is_named() {
        let text = "# a day in short\n0s 20ms - up\n\n10s 500ms 2MiB/s up # slow\n12s 0s - down\n30s repeat\n";
        let trace = parse_trace(text).expect("a trace");
        assert_eq!(trace.steps.len(), 3);
        assert_eq!(trace.steps[1].bytes_per_second, Some(2 << 20));
        assert_eq!((trace.steps[1].down, trace.steps[2].down), (false, true));
        assert_eq!(trace.repeats.map(|it| it.seconds), Some(30));
        for (text, named) in [
            ("0s 20ms - up\n5s 1s up", "line 2"),
            ("0s 20ms - sideways", "line 1"),
            ("0s 20 - up", "line 1"),
            ("0s 1s - up\n5s repeat\n6s 1s - up", "line 3"),
            ("# nothing", "no steps"),
        ] {
            let error = parse_trace(text).expect_err(text).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
