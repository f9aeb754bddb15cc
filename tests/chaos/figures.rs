//! The figures of many rounds: how long nobody's write was acknowledged.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::faults::{Fault, asked};
use crate::gaps::percentile;
use crate::prober::Gap;

/// Rounds from which on what is asked of the figures is judged.
const ENOUGH: usize = 20;

/// In milliseconds, with a tenth.
fn distribution(mut us: Vec<u64>) -> Value {
    us.sort_unstable();
    let ms = |us: u64| (us / 100) as f64 / 10.0;
    json!({
        "p50": ms(percentile(&us, 50)),
        "p90": ms(percentile(&us, 90)),
        "p99": ms(percentile(&us, 99)),
        "worst": ms(us.last().copied().unwrap_or_default()),
    })
}

/// The line of one fault.
pub fn line(fault: &Fault, seed: u64, gaps: &[Gap]) -> Value {
    let all = distribution(gaps.iter().map(|gap| gap.of_all).collect());
    let mut line = json!({
        "fault": fault.name,
        "rounds": gaps.len(),
        "seed": seed,
        "no_write_ms": all,
        "no_write_of_one_client_ms": distribution(gaps.iter().map(|gap| gap.of_one).collect()),
    });
    if let Some((middle, most)) = asked(fault.name) {
        line["asked_ms"] = json!({ "p50": middle, "p99": most });
        if gaps.len() >= ENOUGH {
            let is = |name: &str| all[name].as_f64().unwrap_or(f64::MAX);
            line["met"] = json!(is("p50") <= middle as f64 && is("p99") <= most as f64);
        }
    }
    line
}

/// The same for people.
pub fn words(line: &Value) -> String {
    let of = |key: &str| {
        let it = |name: &str| line[key][name].as_f64().unwrap_or_default();
        format!("{:.0} / {:.0} / {:.0} / {:.0} ms", it("p50"), it("p90"), it("p99"), it("worst"))
    };
    let asked = match (&line["asked_ms"], &line["met"]) {
        (Value::Null, _) => String::new(),
        (asked, Value::Null) => format!("; asked: {asked}, judged from {ENOUGH} rounds on"),
        (asked, met) => {
            format!("; asked: {asked}, {}", if met == true { "met" } else { "NOT MET" })
        }
    };
    format!(
        "{:<15} {:>3} rounds, without an acknowledged write p50 / p90 / p99 / worst: {}, of the \
         client that waited longest: {}{asked}",
        line["fault"].as_str().unwrap_or_default(),
        line["rounds"],
        of("no_write_ms"),
        of("no_write_of_one_client_ms"),
    )
}

/// Adds it to the file.
pub fn keep(path: &Path, line: &Value) -> std::io::Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    writeln!(file, "{line}")
}
