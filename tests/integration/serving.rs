//! One node, started by hand as an operator does.

use std::path::Path;

use serde_json::Value;

use super::stage::{Ports, Process, Ran, wait};

/// A node of its own process.
pub struct Serving {
    process: Process,
    pub grpc: String,
    pub peer: String,
}

impl Serving {
    /// Starts `zoneq serve --json` and waits until it listens.
    #[track_caller]
    pub fn start(dir: &Path, line: &str) -> Serving {
        let process = Process::start(dir, &format!("serve --json {line}"));
        let first = wait(&format!("a node listens: {line}"), || {
            let stdout = process.stdout();
            let first = stdout.lines().next()?.to_owned();
            // A line is read once it is whole.
            stdout.contains('\n').then_some(first)
        });
        let event: Value = serde_json::from_str(&first).expect("a line of JSON");
        assert_eq!(event["event"], "listening", "{event} {}", process.stderr());
        assert_eq!(event["pid"], process.pid(), "{event}");
        let address = |key: &str| event[key].as_str().expect("an address").to_owned();
        Serving { grpc: address("grpc"), peer: address("peer"), process }
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// SIGKILL; waits for its end.
    #[track_caller]
    pub fn kill(self) {
        self.process.signal(rustix::process::Signal::KILL);
        self.process.ended();
    }

    /// SIGTERM; waits for its end.
    #[track_caller]
    pub fn stop(self) -> Ran {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.ended()
    }
}

/// Flags of a node alone on ports of its own; the data is in `dir/data`.
pub fn alone(dir: &Path) -> String {
    let Ports { grpc, peer } = Ports::take();
    format!(
        "--cluster-id shop --node-id 1 --zone z1 --data-dir {} --grpc-listen 127.0.0.1:{grpc} \
         --peer-listen 127.0.0.1:{peer} --heartbeat-ms 80 --election-ms 200..400",
        dir.join("data").display()
    )
}
