//! What consumers do with many messages: deletes and releases of many, transactions, streams.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::stage::{Lab, Ran, command, wait};

/// A node of a lab, and a queue for this alone.
pub struct At<'a> {
    pub lab: &'a Lab,
    pub url: &'a str,
    pub queue: &'a str,
}

impl At<'_> {
    fn on(&self, line: &str) -> Ran {
        self.lab.run(&format!("{line} -e {}", self.url))
    }

    fn fed(&self, line: &str, input: &str) -> Ran {
        self.lab.fed(&format!("{line} -e {}", self.url), input)
    }

    fn counts(&self) -> Value {
        self.on(&format!("queue show {}", self.queue)).exits(0)["queue"]["counts"].clone()
    }

    /// Waits until the queue holds so many visible and leased messages.
    fn until(&self, visible: u64, leased: u64) {
        let what = format!("{} holds {visible} visible and {leased} leased", self.queue);
        wait(&what, || {
            let now = self.counts();
            (now["visible"] == visible && now["leased"] == leased).then_some(())
        });
    }

    fn stream(&self, flags: &str) -> Stream {
        let (queue, url, dir) = (self.queue, self.url, self.lab.dir.display());
        let line = format!("receive {queue} --stream {flags} --json -e {url} --dir {dir}");
        let mut child = command(self.lab.home(), &line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = child.stdout.take().map(BufReader::new);
        Stream { child, output }
    }

    /// Five messages: each has its own outcome, whatever becomes of the others.
    pub fn many(&self) {
        let queue = self.queue;
        self.on(&format!("queue create {queue}")).exits(0);
        let sent = self.on(&format!("send {queue} 1 2 3 4 5")).exits(0);
        let old = sent["messages"][4]["pop_receipt"].as_str().expect("a receipt").to_owned();
        let received = self.on(&format!("receive {queue} --max 5"));
        let pairs: Vec<String> = received.items().iter().map(pair).collect();
        let [one, two, three, four, five] = pairs.as_slice() else { panic!("five: {received:?}") };

        let both = self.on(&format!("delete {queue} {one} {two}"));
        assert_eq!(both.exits(0)["deleted"], 2, "{both:?}");
        assert_eq!(outcomes(&both), ["deleted", "deleted"]);
        let mixed = self.on(&format!("delete {queue} {one} {three}"));
        let result = mixed.exits(1);
        assert_eq!(outcomes(&mixed), ["message_not_found", "deleted"]);
        assert_eq!(
            (&result["ok"], &result["deleted"], &result["message_not_found"]),
            (&false.into(), &1.into(), &1.into())
        );
        let (last, _) = five.split_once(' ').expect("a pair");
        let odd = self.on(&format!("delete {queue} {four} {last}"));
        odd.says(64, &[last, "has no pop receipt"]);
        self.fed(&format!("delete {queue} --lines"), "1\n").says(64, &["line 1 names"]);
        let nothing = self.fed(&format!("delete {queue} --lines"), "\n").exits(0);
        assert_eq!(nothing["deleted"], 0, "{nothing}");
        self.until(0, 2);

        let lines = format!("{four}\n{last}\t{old}\n");
        let released = self.fed(&format!("release {queue} --lines"), &lines);
        assert_eq!(released.exits(1)["released"], 1);
        assert_eq!(outcomes(&released), ["released", "receipt_mismatch"]);
        assert!(released.items()[0]["visible_at"].is_string(), "{released:?}");
        self.until(1, 1);
        let deleted = self.fed(&format!("delete {queue} --lines"), five);
        assert_eq!(deleted.exits(0)["deleted"], 1, "{deleted:?}");
        self.on(&format!("clear {queue}")).exits(0);
    }

    pub fn transactions(&self) {
        let queue = self.queue;
        std::fs::write(self.lab.home().join("bill"), "a bill").expect("written");
        let flags = "--priority 0 --header kind=bill --group g --ttl 1h";
        let line = format!("transact --send-file {queue}=bill --key bill-7 {flags}");
        let duplicates = || self.on(&line).items()[0]["duplicate"].clone();
        assert_eq!((duplicates(), duplicates()), (false.into(), true.into()));
        let received = self.on(&format!("receive {queue} --delete"));
        let bill = &received.items()[0];
        assert_eq!((&bill["body"], &bill["priority"]), (&"a bill".into(), &0.into()));
        assert_eq!((&bill["headers"], &bill["group"]), (&json!({ "kind": "bill" }), &"g".into()));
        let two = self.on(&format!("transact --send {queue}=a --send {queue}=b --key k"));
        two.says(64, &["--key is for one message, and 2 are given"]);
        self.on(&format!("transact --send {queue}=a --send {queue}=b --delay 1h")).exits(0);
        assert_eq!(self.counts()["delayed"], 2);
        self.on(&format!("clear {queue}")).exits(0);
    }

    pub fn streams(&self) {
        let queue = self.queue;
        self.on(&format!("send {queue} 1 2 3 4 5")).exits(0);
        let two = self.on(&format!("receive {queue} --stream --max 2 --credit 4 --delete"));
        assert_eq!(two.items().iter().map(|item| &item["body"]).collect::<Vec<_>>(), ["1", "2"]);
        let result = two.exits(0);
        assert_eq!((&result["deleted"], &result["released"]), (&2.into(), &0.into()));
        let counts = self.counts();
        assert_eq!((&counts["visible"], &counts["leased"]), (&3.into(), &0.into()), "{counts}");
        let rest = self.on(&format!("receive {queue} --stream --wait 2s --visibility 1h"));
        assert_eq!(rest.exits(0)["received"], 3, "{rest:?}");
        assert_eq!(self.counts()["leased"], 3, "what was printed is not released");
        self.on(&format!("clear {queue}")).exits(0);
        self.on("receive no-such-queue --stream").exits(2);

        let mut stream = self.stream("");
        self.on(&format!("send {queue} one")).exits(0);
        assert_eq!(stream.line()["body"], "one");
        let result = stream.interrupted();
        assert_eq!((&result["ok"], &result["received"]), (&true.into(), &1.into()), "{result}");
        self.on(&format!("clear {queue}")).exits(0);
        self.readers_that_leave();
    }

    fn readers_that_leave(&self) {
        let queue = self.queue;
        let mut stream = self.stream("--delete");
        self.on(&format!("send {queue} one")).exits(0);
        assert_eq!(stream.line()["body"], "one");
        self.until(0, 0);
        stream.left();
        self.on(&format!("send {queue} two")).exits(0);
        let next = self.on(&format!("receive {queue} --delete"));
        assert_eq!(next.items()[0]["body"], "two", "nobody took it");

        // One fits into a pipe; the second is held up there, and never read.
        std::fs::write(self.lab.home().join("large"), "x".repeat(60_000)).expect("written");
        for _ in 0..3 {
            self.on(&format!("send {queue} --file large")).exits(0);
        }
        let stream = self.stream("--delete --visibility 1h");
        self.until(0, 2);
        stream.left();
        self.until(2, 0);
        self.on(&format!("clear {queue}")).exits(0);
    }
}

/// As `delete` and `release` take it.
fn pair(message: &Value) -> String {
    let text = |key: &str| message[key].as_str().expect("a text").to_owned();
    format!("{} {}", text("id"), text("pop_receipt"))
}

fn outcomes(ran: &Ran) -> Vec<String> {
    let outcome = |item: &Value| item["outcome"].as_str().expect("an outcome").to_owned();
    ran.items().iter().map(outcome).collect()
}

/// A stream whose output is read through a pipe; killed when dropped.
struct Stream {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Stream {
    #[track_caller]
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.as_mut().expect("a reader").read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("an object")
    }

    /// Interrupts it, and waits for its end; the result.
    #[track_caller]
    fn interrupted(mut self) -> Value {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("a process of ours");
        let result = self.line();
        self.ends_quietly();
        result
    }

    /// Reads no more, and waits for its end.
    #[track_caller]
    fn left(mut self) {
        self.output = None;
        self.ends_quietly();
    }

    #[track_caller]
    fn ends_quietly(&mut self) {
        let ended = wait("the stream ends", || self.child.try_wait().expect("a child of ours"));
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert_eq!((ended.code(), said.as_str()), (Some(0), ""));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
