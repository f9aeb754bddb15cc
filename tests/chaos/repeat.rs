//! The command that repeats a cluster, or a pair, that broke a promise.
//!
//! A run has many of them, each with a seed of its own and with its part of the rounds; the command
//! repeats that one alone. What it is to be told is which faults came in which order: all else, the
//! shape of the line and the region lease too, is decided by the seed. How long things take is the
//! machine's, so what is repeated is what was done, not what came of it.

use std::path::Path;

/// What one of them was.
#[derive(Clone, Debug, Default)]
pub struct Repeated<'a> {
    pub seed: u64,
    pub regions: u64,
    /// The faults in the order in which they came, each as often as it did.
    pub rounds: Vec<&'a str>,
    pub lying_disks: bool,
}

/// The command, in one line.
pub fn command(repeated: &Repeated<'_>) -> String {
    let (turn, rounds) = turn(&repeated.rounds);
    let mut line = format!("cargo chaos --seed {}", repeated.seed);
    if repeated.regions > 1 {
        line.push_str(&format!(" --regions {}", repeated.regions));
    }
    turn.iter().for_each(|name| line.push_str(&format!(" --fault {name}")));
    if rounds > 1 {
        line.push_str(&format!(" --rounds {rounds}"));
    }
    if repeated.lying_disks {
        line.push_str(" --lying-disks");
    }
    line
}

/// The command that judges a history again.
pub fn judge(history: &Path) -> String {
    format!("cargo chaos --judge {}", history.display())
}

/// The shortest list of faults that comes again and again, and how often.
fn turn<'a, 'b>(rounds: &'b [&'a str]) -> (&'b [&'a str], usize) {
    let all = rounds.len();
    let repeats = |length: &usize| {
        all.is_multiple_of(*length)
            && rounds.iter().zip(rounds.iter().cycle().skip(*length)).all(|(one, next)| one == next)
    };
    match (1..all).find(repeats) {
        Some(length) => (&rounds[..length], all / length),
        None => (rounds, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rounds: &[&str]) -> String {
        let rounds = rounds.to_vec();
        command(&Repeated { seed: 7, regions: 1, rounds, lying_disks: false })
    }

    #[test]
    fn a_fault_that_came_many_times_is_named_once() {
        let line = of(&["loss-leader"; 10]);
        assert_eq!(line, "cargo chaos --seed 7 --fault loss-leader --rounds 10");
    }

    #[test]
    fn faults_that_came_in_turn_are_named_once_each() {
        let line = of(&["kill-all", "line", "kill-all", "line"]);
        assert_eq!(line, "cargo chaos --seed 7 --fault kill-all --fault line --rounds 2");
    }

    #[test]
    fn a_part_of_a_turn_is_named_as_it_came() {
        let line = of(&["line", "kill-all", "line"]);
        assert_eq!(line, "cargo chaos --seed 7 --fault line --fault kill-all --fault line");
    }

    #[test]
    fn what_is_as_usual_is_not_said() {
        assert_eq!(of(&["kill-all"]), "cargo chaos --seed 7 --fault kill-all");
    }

    #[test]
    fn two_regions_and_disks_that_lie_are_said() {
        let (rounds, lying_disks) = (vec!["power-all"; 2], true);
        let line = command(&Repeated { seed: 7, regions: 2, rounds, lying_disks });
        let asked = "cargo chaos --seed 7 --regions 2 --fault power-all --rounds 2 --lying-disks";
        assert_eq!(line, asked);
    }

    #[test]
    fn a_kept_history_is_judged_again() {
        let line = judge(Path::new("target/tmp/chaos-7.jsonl"));
        assert_eq!(line, "cargo chaos --judge target/tmp/chaos-7.jsonl");
    }
}
