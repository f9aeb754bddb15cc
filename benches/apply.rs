//! What the state machine costs by itself: `State::apply` without disk or network, with one queue
//! and with 10,000, the memory of a waiting message, and clear and delete-queue by the size of the
//! queue.
//!
//! `cargo bench --bench apply`. Prints one JSON object a line; nothing here is a test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use zoneq::clock::{Clock as _, SystemClock};
use zoneq::queue::State;
use zoneq::queue::command::{Command, Content, Entry, Envelope, NewMessage, Receive, StringMap};
use zoneq::queue::ids::{Epoch, LogTime, MessageId, Position, Receipt};
use zoneq::queue::outcome::{Outcome, Reply};

/// The system's allocator, counting what is held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A state with one queue and the log it is fed from.
struct Rig {
    state: State,
    index: u64,
    clock: SystemClock,
    body: Bytes,
}

impl Rig {
    fn new() -> Rig {
        let mut rig = Rig {
            state: State::new(),
            index: 0,
            clock: SystemClock::default(),
            body: Bytes::from(vec![7; 1024]),
        };
        rig.apply(vec![create("bench")]);
        rig
    }

    fn apply(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        self.index += 1;
        let commands = commands
            .into_iter()
            .map(|command| Envelope { session: None, account: "default".into(), command })
            .collect();
        let entry = Entry {
            position: Position { term: 1, node: 1, index: self.index },
            stamp: LogTime(self.index),
            epoch: Epoch(self.state.epoch().0),
            commands,
        };
        self.state.apply(&entry).outcomes
    }

    fn message(&self) -> NewMessage {
        NewMessage {
            content: Content { body: self.body.clone(), headers: StringMap::new() },
            ..NewMessage::default()
        }
    }

    /// Sends `count` messages, 64 commands of one message an entry, as 64 clients would.
    fn fill(&mut self, count: usize) {
        for at in (0..count).step_by(64) {
            let sends = (0..64.min(count - at))
                .map(|_| Command::Send { queue: "bench".into(), messages: vec![self.message()] })
                .collect();
            self.apply(sends);
        }
    }

    /// The same to each of some queues in turn, 16 commands an entry.
    fn fill_each(&mut self, count: usize, names: &[String]) {
        for at in (0..count).step_by(16) {
            let sends = (at..count.min(at + 16))
                .map(|at| Command::Send {
                    queue: names[at % names.len()].clone(),
                    messages: vec![self.message()],
                })
                .collect();
            self.apply(sends);
        }
    }

    /// Nanoseconds that `work` takes, for each of `count` things.
    fn time<T>(&mut self, count: usize, work: impl FnOnce(&mut Rig) -> T) -> (f64, T) {
        let start = self.clock.monotonic_us();
        let made = work(self);
        let took = self.clock.monotonic_us() - start;
        (took as f64 * 1_000.0 / count as f64, made)
    }

    fn receive(&mut self) -> Vec<(MessageId, Receipt)> {
        let receive = Receive {
            queue: "bench".into(),
            max_messages: 10,
            max_bytes: 4 << 20,
            visibility: None,
        };
        match self.apply(vec![Command::Receive(receive)]).pop() {
            Some(Ok(Reply::Received { messages, .. })) => {
                messages.iter().map(|granted| (granted.id, granted.receipt)).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn create(name: &str) -> Command {
    Command::CreateQueue { name: name.into(), metadata: StringMap::new(), settings: Box::default() }
}

fn print(what: &str, count: usize, figure: f64, unit: &str) {
    println!("{{\"what\":\"{what}\",\"messages\":{count},\"{unit}\":{figure:.1}}}");
}

fn main() {
    const MANY: usize = 1_000_000;
    const FEW: usize = 1_000;

    let mut rig = Rig::new();
    let before = HELD.load(Ordering::Relaxed);
    let (send, ()) = rig.time(MANY, |rig| rig.fill(MANY));
    print("send", MANY, send, "ns_per_message");
    let held = HELD.load(Ordering::Relaxed) - before;
    print("waiting message in memory", MANY, held as f64 / MANY as f64, "bytes_per_message");

    let rounds = 10_000;
    let (receive, granted) =
        rig.time(rounds * 10, |rig| (0..rounds).flat_map(|_| rig.receive()).collect::<Vec<_>>());
    print("receive, 10 a call", granted.len(), receive, "ns_per_message");
    let (delete, ()) = rig.time(granted.len(), |rig| {
        for items in granted.chunks(10) {
            rig.apply(vec![Command::Delete { queue: "bench".into(), items: items.to_vec() }]);
        }
    });
    print("delete, 10 a call", granted.len(), delete, "ns_per_message");

    for queues in [1, 10_000] {
        let mut rig = Rig::new();
        let names: Vec<String> = (0..queues).map(|n| format!("bench-queue-q{n:05}")).collect();
        names.iter().for_each(|name| drop(rig.apply(vec![create(name)])));
        let (send, ()) = rig.time(MANY, |rig| rig.fill_each(MANY, &names));
        print(&format!("send to each of {queues} queues"), MANY, send, "ns_per_message");
    }

    for count in [FEW, MANY] {
        let mut rig = Rig::new();
        rig.fill(count);
        let (clear, _) =
            rig.time(1, |rig| rig.apply(vec![Command::Clear { queue: "bench".into() }]));
        print("clear", count, clear / 1_000.0, "us");
        let mut rig = Rig::new();
        rig.fill(count);
        let (delete, _) =
            rig.time(1, |rig| rig.apply(vec![Command::DeleteQueue { name: "bench".into() }]));
        print("delete queue", count, delete / 1_000.0, "us");
    }
}
