//! A history as lines of JSON, each a call with its answer, a fault, or what was seen of a node;
//! a file may hold several, one behind the other. The form is the product's own
//! (`zoneq::cli::drill::history`), as drills write it too.
//!
//! Refuses what it does not understand, with the line: another version, and what has no ending. The
//! first version had of a pair of regions only the calls, which is not enough to judge it: such a
//! file is refused too.

use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use zoneq::cli::drill::history::{FORM, Line, Sight};
use zoneq::queue::authority::Authority;

use crate::history::{History, PairHistory, Sighted};
use crate::parts::{authority, part};
use crate::sampled::Sampled;

pub fn write(path: &Path, history: &History) -> Result<(), String> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::options().create(true).append(true).open(path).map_err(words)?;
    let mut file = BufWriter::new(file);
    let events = history.events.iter().map(|(at, what)| Line::Event(*at, what.clone()));
    let leaders = history.leaders.iter().map(|(of, term, node)| Line::Leads(*of, *term, *node));
    let lines = [Line::Form(FORM)]
        .into_iter()
        .chain(events)
        .chain(of_pair(&history.pair))
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

/// What was seen of a pair of regions; a part is written where it is another than before.
fn of_pair(pair: &PairHistory) -> impl Iterator<Item = Line> {
    let mut last: Option<Arc<Authority>> = None;
    let sighted = pair.sighted.iter().flat_map(move |seen| {
        let is_new = last.as_ref() != Some(&seen.authority);
        last = Some(Arc::clone(&seen.authority));
        let Sighted { at, cluster, node, index, log_time, digest, .. } = *seen;
        let part = is_new.then(|| Line::Part(Box::new(part(&seen.authority))));
        let sight = Sight { at, cluster, node, index, log_time, digest };
        part.into_iter().chain([Line::Sighted(sight)])
    });
    sighted
        .chain(pair.told.iter().cloned().map(Line::Told))
        .chain(pair.acts.iter().cloned().map(Line::Act))
        .chain(pair.listed.iter().cloned().map(Box::new).map(Line::Listed))
        .chain(pair.replays.iter().cloned().map(Line::Replay))
}

/// The histories of a file: each ends with its ending.
pub fn read(path: &Path) -> Result<Vec<History>, String> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = BufReader::new(std::fs::File::open(path).map_err(words)?);
    let (mut all, mut history) = (Vec::new(), None);
    let mut last: Option<Arc<Authority>> = None;
    let mut sampled = Sampled::default();
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
                let what = "is of two regions, of which the first form says too little to judge it";
                return Err(format!("{} {what}", place()));
            }
            Line::Digest(applied) => now.applied.push(applied),
            Line::Part(part) => {
                let read = authority(*part).map_err(|why| format!("{}: {why}", place()))?;
                last = Some(Arc::new(read));
            }
            Line::Sighted(sight) => {
                let Some(authority) = last.clone() else {
                    return Err(format!("{}: nothing said before what it was", place()));
                };
                let Sight { at, cluster, node, index, log_time, digest } = sight;
                let seen = Sighted { at, cluster, node, index, log_time, digest, authority };
                now.pair.sighted.push(seen);
            }
            Line::Look(look) => {
                sampled.look(*look).map_err(|why| format!("{}: {why}", place()))?;
            }
            Line::OpIn(epoch, op) => {
                sampled.call(now.ops.len(), epoch);
                now.ops.push(*op);
            }
            Line::Told(told) => now.pair.told.push(told),
            Line::Act(act) => now.pair.acts.push(act),
            Line::Listed(listed) => now.pair.listed.push(*listed),
            Line::Replay(replay) => now.pair.replays.push(replay),
            Line::Ending(ending) => {
                last = None;
                let sampled = std::mem::take(&mut sampled);
                sampled.tell(now).map_err(|why| format!("{}: {why}", path.display()))?;
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
    use crate::invariants::{broken, pair_sample::PairSample, sample::Sample};

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

    /// A pair of which every kind of line is written, and that broke promises.
    fn pair() -> History {
        let mut sample = PairSample::protected();
        sample.leased(2);
        sample.write(5, 50);
        sample.copied(5, 50);
        sample.told(60);
        sample.promoted(5);
        sample.send("m", 6);
        sample.send("n", 7);
        sample.fenced(8);
        sample.listed(&["m"]);
        sample.replayed(200, 1);
        sample.replay_told(&["m"]);
        sample.given_again("new", 6, 210);
        sample.given_again("newer", 6, 220);
        sample.begins_anew();
        sample.history
    }

    #[test]
    fn a_history_of_two_regions_is_judged_as_before() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("history.jsonl");
        write(&path, &pair()).expect("written");
        let all = read(&path).expect("read");
        let [read] = all.as_slice() else { panic!("{} histories", all.len()) };
        let (was, is) = (&pair().pair, &read.pair);
        assert_eq!((&is.told, &is.acts), (&was.told, &was.acts));
        assert_eq!((&is.listed, &is.replays), (&was.listed, &was.replays));
        let roles = |pair: &PairHistory| -> Vec<_> {
            pair.sighted.iter().map(|it| (it.at, it.authority.role.name())).collect()
        };
        assert_eq!(roles(is), roles(was));
        assert_eq!(broken(read), broken(&pair()));
        let names: Vec<&str> = broken(read).into_iter().map(|(name, _)| name).collect();
        for name in ["G1", "G6", "I8"] {
            assert!(names.contains(&name), "{names:?}");
        }
    }

    #[test]
    fn two_regions_of_the_first_form_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("history.jsonl");
        std::fs::write(&path, "{\"pair\":4}\n").expect("written");
        assert!(read(&path).expect_err("no states").contains("line 1 is of two regions"));
        let sight = r#"{"sighted":{"at":1,"cluster":{"region":0,"generation":0},"node":1,"index":1,
            "log_time":1,"digest":null}}"#;
        std::fs::write(&path, sight.replace('\n', "")).expect("written");
        assert!(read(&path).expect_err("of what?").contains("line 1: nothing said"));
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
