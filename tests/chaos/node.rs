//! One node: a process of the real binary, and what it is started under.
//!
//! Laws: a node is a child of this process and is killed with it, also when this process is
//! killed; it is told nothing by the environment but what is set here, and `ZONEQ_LOG`.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_zoneq");

/// What a node is started under, besides its namespace and its clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Under {
    Nothing,
    /// What `strace` does to the calls that sync.
    Strace(String),
}

/// A file that says how far a wall clock is off, and the library that reads it.
#[derive(Clone, Debug)]
pub struct OwnClock {
    pub library: PathBuf,
    pub file: PathBuf,
}

impl OwnClock {
    /// Moves the clock to so many milliseconds off the machine's.
    pub fn set(&self, ms: i64) -> Result<(), String> {
        let beside = self.file.with_extension("new");
        let text = format!(
            "{}{}.{:03}\n",
            if ms < 0 { '-' } else { '+' },
            ms.abs() / 1_000,
            ms.abs() % 1_000
        );
        std::fs::write(&beside, text)
            .and_then(|()| std::fs::rename(&beside, &self.file))
            .map_err(|error| format!("{}: {error}", self.file.display()))
    }
}

#[derive(Debug)]
pub struct Node {
    pub id: u64,
    /// Where clients ask it.
    pub grpc: String,
    /// The command line after the name of the binary.
    pub args: Vec<String>,
    pub log: PathBuf,
    pub namespace: Option<String>,
    pub clock: Option<OwnClock>,
    child: Option<Child>,
    /// A fault keeps it down.
    pub is_held: bool,
    /// A fault has hurt its disk, so that it may stop by itself.
    pub disk_failed: bool,
}

impl Node {
    pub fn new(id: u64, grpc: String, args: Vec<String>, log: PathBuf) -> Node {
        let (is_held, disk_failed) = (false, false);
        let (namespace, clock, child) = (None, None, None);
        Node { id, grpc, args, log, namespace, clock, child, is_held, disk_failed }
    }

    /// Starts it, if it is down.
    pub fn start(&mut self, under: &Under) -> Result<(), String> {
        if self.child.is_some() {
            return Ok(());
        }
        let mut words: Vec<String> = Vec::new();
        let mut say = |line: &[&str]| words.extend(line.iter().map(|word| (*word).to_owned()));
        if let Some(namespace) = &self.namespace {
            // Not `ip netns exec`: it copies the mounts, and what was unmounted would stay mounted.
            say(&["nsenter", &format!("--net=/run/netns/{namespace}")]);
        }
        if let Under::Strace(inject) = under {
            let expression = format!("inject=fsync,fdatasync:{inject}");
            say(&["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"]);
            say(&["-e", &expression]);
        }
        if let Some(OwnClock { library, file }) = &self.clock {
            let preload = format!("LD_PRELOAD={}", library.display());
            let file = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
            say(&["env", &preload, &file, "FAKETIME_NO_CACHE=1", "NO_FAKE_STAT=1"]);
            say(&["FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]);
        }
        say(&[BINARY]);
        words.extend(self.args.iter().cloned());
        let words_of = |error: io::Error| format!("node {} cannot be started: {error}", self.id);
        let open = |path: &Path| File::options().create(true).append(true).open(path);
        let out = open(&self.log).map_err(words_of)?;
        let err = out.try_clone().map_err(words_of)?;
        let mut command = Command::new(&words[0]);
        for (name, _) in std::env::vars_os() {
            // How much they say is for whoever looks for what went wrong.
            if name.to_string_lossy().starts_with("ZONEQ_") && name != "ZONEQ_LOG" {
                command.env_remove(name);
            }
        }
        command.args(&words[1..]).stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        // SAFETY: between fork and exec it makes one system call.
        unsafe {
            command.pre_exec(|| {
                let dies = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if dies == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
        self.child = Some(command.spawn().map_err(words_of)?);
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        let Some(child) = &self.child else { return Ok(()) };
        kill_process(Pid::from_child(child), signal)
            .map_err(|error| format!("node {} cannot be signalled: {error}", self.id))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails when the node has ended, and then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it has ended by itself since it was started; the end of what it said.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let end = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(" | ");
        Some(format!("{status}: {end}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
