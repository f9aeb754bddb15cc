//! A lab's processes: started in a group of their own, so that a key pressed in the terminal
//! does not reach them, signalled by id, and never mistaken for a later process of that id.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};
use serde::{Deserialize, Serialize};

/// A process for good: its number and when it started, in ticks since boot.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Id {
    pub pid: u32,
    pub started: u64,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    /// Stopped by SIGSTOP.
    Paused,
    Down,
}

impl State {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Paused => "paused",
            State::Down => "down",
        }
    }
}

/// Starts this same binary with other arguments; what it prints goes to `log`. Its environment
/// is ours without our own settings, which would be taken for the node's.
pub fn start(args: &[String], log: &Path) -> anyhow::Result<Id> {
    spawn(command(args, log)?.process_group(0))
}

/// As [`start`], for a process that makes a session of its own at once ([`leave`]): it may be
/// stopped before we end. A stopped group whose last tie to its session ends is woken by the
/// system, with SIGHUP and SIGCONT.
pub fn start_leaving(args: &[String], log: &Path) -> anyhow::Result<Id> {
    spawn(&mut command(args, log)?)
}

/// Makes a session of this process alone. One that leads its group already stays where it is.
pub fn leave() -> anyhow::Result<()> {
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(io::Error::from(error)).context("no session of its own can be made"),
    }
}

fn command(args: &[String], log: &Path) -> anyhow::Result<Command> {
    let binary = std::env::current_exe().context("the path of this binary is not known")?;
    let open = || File::options().create(true).append(true).open(log);
    let out = open().with_context(|| format!("{} cannot be opened", log.display()))?;
    let err = open().with_context(|| format!("{} cannot be opened", log.display()))?;
    let mut command = Command::new(&binary);
    for (name, _) in std::env::vars_os() {
        let own = name.to_str().is_some_and(|name| name.starts_with("ZONEQ_"));
        if own && name != "ZONEQ_LOG" {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null()).stdout(out).stderr(err);
    Ok(command)
}

fn spawn(command: &mut Command) -> anyhow::Result<Id> {
    let child = command.spawn();
    let child = child.with_context(|| format!("{:?} cannot be started", command.get_program()))?;
    let pid = child.id();
    Ok(Id { pid, started: stat(pid).map_or(0, |stat| stat.started) })
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u64,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    Stat::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

impl Stat {
    /// Fields 3, 20 and 22 of `/proc/PID/stat`; the name in field 2 may hold anything.
    fn parse(text: &str) -> Option<Stat> {
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let threads = fields.nth(16)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        Some(Stat { state, threads, started })
    }

    /// The main thread of a killed process may end before its others, and only the last one
    /// closes its files and ports.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

fn raw(id: Id) -> Option<Pid> {
    i32::try_from(id.pid).ok().and_then(Pid::from_raw)
}

/// What the process is doing now. A child of ours that has ended is reaped.
#[must_use]
pub fn state(id: Id) -> State {
    let Some(pid) = raw(id) else { return State::Down };
    if !Path::new("/proc/self/stat").exists() {
        let alive = test_kill_process(pid).is_ok();
        return if alive { State::Running } else { State::Down };
    }
    match stat(id.pid) {
        Some(stat) if stat.started != id.started => State::Down,
        Some(stat) if stat.has_ended() => {
            // Fails when it is not our child; then its parent reaps it.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            State::Down
        }
        Some(Stat { state: 'T' | 't', .. }) => State::Paused,
        Some(_) => State::Running,
        None => State::Down,
    }
}

/// Sends a signal; a process that is gone needs none.
pub fn signal(id: Id, signal: Signal) -> anyhow::Result<()> {
    let Some(pid) = raw(id).filter(|_| state(id) != State::Down) else { return Ok(()) };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(io::Error::from(error))
            .with_context(|| format!("process {} cannot be signalled", id.pid)),
    }
}

/// Waits until all are gone; says which are not.
pub async fn wait_gone(ids: &[Id], patience: Duration) -> Vec<Id> {
    let until = tokio::time::Instant::now() + patience;
    loop {
        let left: Vec<Id> = ids.iter().copied().filter(|id| state(*id) != State::Down).collect();
        if left.is_empty() || tokio::time::Instant::now() >= until {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The last lines of a log, for an error message.
#[must_use]
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_process_has_ended_with_its_last_thread() {
        let line = |state, threads| {
            let before = "4194560 1 0 0 0 5 6 0 0 20 0";
            format!("15329 (a) z) (x)) {state} 1 15329 15329 0 -1 {before} {threads} 0 982451 7 8")
        };
        let parsed = Stat::parse(&line('Z', 4)).expect("whole");
        assert_eq!(parsed, Stat { state: 'Z', threads: 4, started: 982_451 });
        assert!(!parsed.has_ended(), "its ports are still taken");
        assert!(Stat::parse(&line('Z', 1)).expect("whole").has_ended());
        assert!(!Stat::parse(&line('S', 1)).expect("whole").has_ended());
        assert_eq!(Stat::parse("15329 (zoneq) Z 1"), None);
        let own = stat(std::process::id()).expect("this process");
        assert!(own.threads >= 1 && own.started > 0 && !own.has_ended());
    }

    #[tokio::test]
    #[allow(clippy::zombie_processes, reason = "`state` reaps it")]
    async fn a_process_is_known_by_its_number_and_its_start() {
        let child = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let pid = child.id();
        let id = Id { pid, started: stat(pid).expect("it runs").started };
        assert_eq!(state(id), State::Running);
        assert_eq!(state(Id { started: id.started + 1, ..id }), State::Down, "another process");
        signal(id, Signal::STOP).expect("ours");
        while state(id) != State::Paused {
            tokio::task::yield_now().await;
        }
        signal(id, Signal::KILL).expect("ours");
        assert_eq!(wait_gone(&[id], Duration::from_secs(10)).await, [], "reaped");
        signal(id, Signal::KILL).expect("one that is gone needs none");
    }
}
