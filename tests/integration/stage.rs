//! What the tests stand on: commands that are run to their end, and labs that are taken down.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_zoneq");
/// The longest that any command or condition may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The warning of a test that loses, stops or silences nodes.
pub const PEERS_ARE_LOST: &[&str] = &["a peer cannot be reached"];

/// Ports of one test; nobody else in this process gets them.
pub struct Ports {
    pub grpc: u16,
    pub peer: u16,
}

impl Ports {
    /// Below the ports that the system gives to outgoing connections.
    pub fn take() -> Ports {
        Ports::take_wide(20)
    }

    /// As a lab is told of them.
    fn flags(&self) -> String {
        let Ports { grpc, peer } = self;
        // The clients' ports are followed by as many for metrics.
        let metrics = grpc + (peer - grpc) / 2;
        format!("--grpc-port {grpc} --peer-port {peer} --metrics-port {metrics}")
    }

    /// The second half of so many ports is between nodes.
    fn take_wide(many: u16) -> Ports {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = 11_000 + (std::process::id() % 20) as u16 * 1_000;
        let grpc = first + NEXT.fetch_add(many, Ordering::Relaxed);
        Ports { grpc, peer: grpc + many / 2 }
    }
}

/// What `Instant::now` is allowed for: the ends of waits.
#[allow(clippy::disallowed_methods, reason = "a test's deadline is real time")]
fn now() -> Instant {
    Instant::now()
}

/// Asks again and again until there is an answer; fails with `what` when there never is.
#[allow(clippy::disallowed_methods, reason = "between two looks at another process")]
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now() < until, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command that has ended.
#[derive(Debug)]
#[allow(dead_code, reason = "a failed test prints all of it")]
pub struct Ran {
    pub line: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Ran {
    /// The last line of output, which under `--json` is the result.
    #[track_caller]
    pub fn result(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in the end of {self:#?}"))
    }

    /// Every line but the last.
    #[track_caller]
    pub fn items(&self) -> Vec<Value> {
        let mut lines: Vec<&str> = self.stdout.lines().collect();
        lines.pop();
        lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// Fails unless the command ended with this code; the result.
    #[track_caller]
    pub fn exits(&self, code: i32) -> Value {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self.result()
    }

    /// Fails unless it ended with this code and says all of this.
    #[track_caller]
    pub fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            let said = self.stdout.contains(word) || self.stderr.contains(word);
            assert!(said, "{word:?} is not said in {self:#?}");
        }
    }
}

/// A process and where its output goes; killed when dropped.
pub struct Process {
    line: String,
    child: Child,
    stdout: File,
    stderr: File,
    begun: Instant,
}

/// The binary with the words of `line`, in `dir`, without settings and input from outside.
pub fn command(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ZONEQ_") {
            command.env_remove(name);
        }
    }
    command.args(line.split_whitespace()).current_dir(dir).env("TMPDIR", dir).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts the binary with the words of `line`, in `dir`, without settings from outside.
    pub fn start(dir: &Path, line: &str) -> Process {
        Process::fed(dir, line, "")
    }

    /// The same with something to read on its standard input.
    fn fed(dir: &Path, line: &str, input: &str) -> Process {
        let file = || tempfile::tempfile_in(dir).expect("a file for input or output");
        let (mut stdin, stdout, stderr) = (file(), file(), file());
        stdin.write_all(input.as_bytes()).expect("written");
        stdin.rewind().expect("from the beginning");
        let child = command(dir, line)
            .stdin(stdin)
            .stdout(stdout.try_clone().expect("a descriptor"))
            .stderr(stderr.try_clone().expect("a descriptor"))
            .spawn()
            .expect("the binary starts");
        Process { line: line.to_owned(), child, stdout, stderr, begun: now() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a process of ours");
    }

    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(mut self) -> Ran {
        let status: ExitStatus = wait(&format!("`zoneq {}` ends", self.line), || {
            self.child.try_wait().expect("a child of ours")
        });
        Ran {
            line: self.line.clone(),
            code: status.code(),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took: now() - self.begun,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- zoneq {}\n{}{}", self.line, self.stdout(), self.stderr());
        }
    }
}

/// Reads without moving the place in the file, which the child shares and writes at.
fn read(file: &File) -> String {
    let length = file.metadata().map_or(0, |known| known.len());
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).expect("output");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs one command to its end.
#[track_caller]
pub fn zoneq(dir: &Path, line: &str) -> Ran {
    Process::start(dir, line).ended()
}

/// A lab of real processes; taken down when dropped.
pub struct Lab {
    home: TempDir,
    pub dir: PathBuf,
}

impl Lab {
    /// Three zones, one node in each, serving.
    #[track_caller]
    pub fn up() -> Lab {
        let lab = Lab::prepared();
        lab.ok(&lab.up_line());
        lab
    }

    /// Two regions of three zones, protected and live.
    #[track_caller]
    pub fn pair() -> Lab {
        let lab = Lab::prepared();
        lab.ok(&lab.pair_line());
        lab
    }

    /// A place for a lab that is not up.
    pub fn prepared() -> Lab {
        let home = tempfile::tempdir().expect("a folder");
        let dir = home.path().join("lab");
        Lab { home, dir }
    }

    pub fn up_line(&self) -> String {
        format!("lab up --detach --regions 1 {}", Ports::take().flags())
    }

    /// As [`Lab::up_line`], of two regions, as nobody asks for another number.
    pub fn pair_line(&self) -> String {
        format!("lab up --detach {}", Ports::take_wide(40).flags())
    }

    /// Where the test may keep other files.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs a command on this lab, with `--json`.
    #[track_caller]
    pub fn run(&self, line: &str) -> Ran {
        zoneq(self.home(), &format!("{line} --json --dir {}", self.dir.display()))
    }

    /// Runs a command with something to read on its standard input, and `--json`.
    #[track_caller]
    pub fn fed(&self, line: &str, input: &str) -> Ran {
        let line = format!("{line} --json --dir {}", self.dir.display());
        Process::fed(self.home(), &line, input).ended()
    }

    /// Runs a command that must succeed; its result.
    #[track_caller]
    pub fn ok(&self, line: &str) -> Value {
        self.run(line).exits(0)
    }

    /// What `lab.json` holds.
    pub fn file(&self) -> Value {
        let text = std::fs::read_to_string(self.dir.join("lab.json")).expect("lab.json");
        serde_json::from_str(&text).expect("JSON")
    }

    pub fn cluster_id(&self) -> String {
        self.file()["cluster_id"].as_str().expect("a name").to_owned()
    }

    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}/data"))
    }

    /// The addresses for clients, by node.
    pub fn urls(&self) -> Vec<String> {
        let file = self.file();
        let nodes = file["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| format!("http://127.0.0.1:{}", node["grpc_port"])).collect()
    }

    /// The peers' list that the nodes were started with.
    pub fn peers(&self) -> String {
        let file = self.file();
        let args = file["nodes"][0]["args"].as_array().expect("args").clone();
        let at = args.iter().position(|arg| arg == "--peers").expect("--peers");
        args[at + 1].as_str().expect("a list").to_owned()
    }

    /// The node that leads by its own word.
    #[track_caller]
    pub fn leader(&self) -> u64 {
        wait("a node of the lab leads", || self.leading().first().copied())
    }

    fn leading(&self) -> Vec<u64> {
        let status = self.ok("lab status");
        let nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes
            .filter(|node| node["role"] == "leader")
            .filter_map(|node| node["id"].as_u64())
            .collect()
    }

    /// What one node, asked alone, says of the cluster.
    #[track_caller]
    pub fn seen_by(&self, id: u64) -> Value {
        let url = &self.urls()[id as usize - 1];
        self.run(&format!("cluster status -e {url}")).result()
    }

    /// Lines of warnings and errors in the nodes' logs.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in std::fs::read_dir(&self.dir).expect("the lab's folder").flatten() {
            let text = std::fs::read_to_string(entry.path().join("log")).unwrap_or_default();
            let name = entry.file_name().to_string_lossy().into_owned();
            let bad = |line: &&str| line.contains(" WARN ") || line.contains("ERROR");
            lines.extend(text.lines().filter(bad).map(|line| format!("{name}: {line}")));
        }
        lines
    }

    /// Fails when a node warned of something else than what the test brought about.
    #[track_caller]
    pub fn warned_only_of(&self, expected: &[&str]) {
        let known = |line: &str| expected.iter().any(|word| line.contains(word));
        let unexpected = |line: &String| !known(line);
        let lines: Vec<String> = self.warnings().into_iter().filter(unexpected).collect();
        assert!(lines.is_empty(), "unexpected warnings:\n{}", lines.join("\n"));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(entry.path().join("log")).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(15)..].join("\n");
                if !end.is_empty() {
                    eprintln!("--- the log of {} ends with\n{end}", entry.path().display());
                }
            }
        }
        if self.dir.join("lab.json").is_file() {
            let line = format!("lab kill all --dir {}", self.dir.display());
            let _ = Process::start(self.home(), &line).child.wait();
        }
    }
}
