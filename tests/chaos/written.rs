//! A history as lines of JSON, each a call with its answer, a fault, or what was seen of a node.

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::history::{Applied, Cluster, Ending, History, Micros, Op};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Op(Op),
    /// A fault, a phase.
    Event(Micros, String),
    Leads(Cluster, u64, u64),
    /// A node stopped, and nobody had hurt it so.
    Stopped(String),
    Digest(Applied),
    Ending(Ending),
}

pub fn write(path: &Path, history: &History) -> Result<(), String> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::options().create(true).append(true).open(path).map_err(words)?;
    let mut file = BufWriter::new(file);
    let events = history.events.iter().map(|(at, what)| Line::Event(*at, what.clone()));
    let leaders = history.leaders.iter().map(|(of, term, node)| Line::Leads(*of, *term, *node));
    let lines = events
        .chain(leaders)
        .chain(history.unexpected_stops.iter().cloned().map(Line::Stopped))
        .chain(history.applied.iter().copied().map(Line::Digest))
        .chain(history.ops.iter().cloned().map(Line::Op))
        .chain([Line::Ending(history.ending.clone())]);
    for line in lines {
        let text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
        writeln!(file, "{text}").map_err(words)?;
    }
    file.flush().map_err(words)
}

/// The histories of a file: each ends with its ending.
pub fn read(path: &Path) -> Result<Vec<History>, String> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = BufReader::new(std::fs::File::open(path).map_err(words)?);
    let (mut all, mut history) = (Vec::new(), History::default());
    for (number, line) in (1..).zip(file.lines()) {
        let line = serde_json::from_str(&line.map_err(words)?)
            .map_err(|error| format!("{} line {number}: {error}", path.display()))?;
        match line {
            Line::Op(op) => history.ops.push(op),
            Line::Event(at, what) => history.events.push((at, what)),
            Line::Leads(of, term, node) => history.leaders.push((of, term, node)),
            Line::Stopped(what) => history.unexpected_stops.push(what),
            Line::Digest(applied) => history.applied.push(applied),
            Line::Ending(ending) => {
                history.ending = ending;
                all.push(std::mem::take(&mut history));
            }
        }
    }
    Ok(all)
}
