//! A history as lines of JSON, each a call with its answer, a fault, or what was seen of a node;
//! a file may hold several, one behind the other. The form is the product's own
//! (`zoneq::cli::drill::history`), as drills write it too.
//!
//! Refuses what it does not understand, with the line: another version, and what has no ending. Of
//! a pair of regions only the calls are written, which is not enough to judge it: such a file is
//! refused too.

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use zoneq::cli::drill::history::{FORM, Line};

use crate::history::History;

pub fn write(path: &Path, history: &History) -> Result<(), String> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::options().create(true).append(true).open(path).map_err(words)?;
    let mut file = BufWriter::new(file);
    let events = history.events.iter().map(|(at, what)| Line::Event(*at, what.clone()));
    let leaders = history.leaders.iter().map(|(of, term, node)| Line::Leads(*of, *term, *node));
    let pair = Some(history.pair.sighted.len()).filter(|states| *states > 0);
    let lines = [Line::Form(FORM)]
        .into_iter()
        .chain(events)
        .chain(pair.map(Line::Pair))
        .chain(leaders)
        .chain(history.unexpected_stops.iter().cloned().map(Line::Stopped))
        .chain(history.applied.iter().copied().map(Line::Digest))
        .chain(history.ops.iter().cloned().map(Box::new).map(Line::Op))
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
    let (mut all, mut history) = (Vec::new(), None);
    for (number, line) in (1..).zip(file.lines()) {
        let place = || format!("{} line {number}", path.display());
        let line = serde_json::from_str(&line.map_err(words)?)
            .map_err(|error| format!("{}: {error}", place()))?;
        let is_first = history.is_none();
        let now: &mut History = history.get_or_insert_default();
        match line {
            Line::Form(1..=FORM) if is_first => {}
            Line::Form(form) if is_first => {
                return Err(format!("{}: it is of form {form}, newer than {FORM}", place()));
            }
            Line::Form(_) => return Err(format!("{}: the history before has no end", place())),
            Line::Op(op) => now.ops.push(*op),
            Line::Event(at, what) => now.events.push((at, what)),
            Line::Leads(of, term, node) => now.leaders.push((of, term, node)),
            Line::Stopped(what) => now.unexpected_stops.push(what),
            Line::Pair(_) => {
                let what = "is of two regions, and is judged only where it comes about";
                return Err(format!("{} {what}", place()));
            }
            Line::Digest(applied) => now.applied.push(applied),
            Line::Ending(ending) => {
                now.ending = ending;
                all.extend(history.take());
            }
        }
    }
    match history {
        None => Ok(all),
        Some(_) => Err(format!("{} ends within a history, which has no end", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Applied, Cluster, DRAIN};
    use crate::invariants::{broken, sample::Sample};

    fn seen() -> History {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 2, 5, 1);
        sample.delete_is_refused("m", "r1", 3, crate::history::Deleted::Mismatch);
        sample.unknown_delete("m", "r2", 4);
        sample.redrive("gamma-dead", "job", 5);
        let mut history = sample.ended();
        let (cluster, digest) = (Cluster::default(), u128::MAX - 7);
        history.applied.push(Applied { cluster, node: 1, index: 9, term: 2, leader: 3, digest });
        history.leaders.push((cluster, 2, 3));
        history.events.push((7, "kill-leader of [3]".to_owned()));
        history.unexpected_stops.push("node 2 stopped".to_owned());
        history
    }

    #[test]
    fn a_history_that_is_read_again_is_judged_as_before() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("history.jsonl");
        let lost = {
            let mut sample = Sample::default();
            sample.send("lost", 1);
            sample.ended()
        };
        write(&path, &seen()).expect("written");
        write(&path, &lost).expect("written behind it");
        let all = read(&path).expect("read");
        let [first, second] = all.as_slice() else { panic!("{} histories", all.len()) };
        assert_eq!((&first.ops, &first.applied), (&seen().ops, &seen().applied));
        assert_eq!((&first.leaders, &first.events), (&seen().leaders, &seen().events));
        assert_eq!(first.ending, seen().ending);
        assert_eq!((broken(first), broken(second)), (broken(&seen()), broken(&lost)));
        assert!(broken(second).iter().any(|(name, _)| *name == "I1"));
        assert!(first.ops.iter().all(|op| op.client != DRAIN));
    }

    #[test]
    fn a_history_of_two_regions_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("history.jsonl");
        let pair = crate::invariants::pair_sample::PairSample::protected();
        write(&path, &pair.history).expect("written");
        assert!(read(&path).expect_err("no states").contains("is of two regions"));
    }

    #[test]
    fn a_history_of_a_newer_form_or_without_an_end_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("history.jsonl");
        let said = |text: &str| {
            std::fs::write(&path, text).expect("written");
            read(&path).err().unwrap_or_default()
        };
        write(&path, &seen()).expect("written");
        let text = std::fs::read_to_string(&path).expect("text");
        let (form, rest) = text.split_once('\n').expect("lines");
        assert_eq!(form, r#"{"form":2}"#);
        assert_eq!(said(rest), "", "the first form said nothing of itself");
        assert!(said(&format!("{{\"form\":3}}\n{rest}")).contains("line 1: it is of form 3"));
        assert!(said(form).ends_with("ends within a history, which has no end"));
        assert!(said(&format!("{form}\n{text}")).contains("line 2: the history before"));
    }

    #[test]
    fn a_line_that_is_none_is_refused_by_its_number() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("history.jsonl");
        write(&path, &seen()).expect("written");
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, format!("{text}{{\"op\": 7}}\n")).expect("written");
        let line = text.lines().count() + 1;
        assert!(read(&path).expect_err("no call").contains(&format!("line {line}:")));
    }
}
