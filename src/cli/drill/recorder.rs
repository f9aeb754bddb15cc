//! Writes down a drill's history, line by line as it happens, for the checker of the tests.
//!
//! Laws: it holds one buffer and no history. A line that cannot be written is told at the drill's
//! next look ([`Recorder::check`]), and ends the drill; what was written until then has no ending.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::time::Instant;

use super::history::{
    Answer, Call, Cluster, Ending, FORM, Join, Line, LogTime, Micros, NEVER, Op, Outcome,
};
use super::looks;
use crate::client::{ClientError, Reason};
use crate::proto::admin::v1 as pb;

/// A file that a history goes to.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    began: Instant,
    /// The calls go to a pair of regions.
    is_pair: bool,
    file: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    out: BufWriter<File>,
    /// Why it can be written no more.
    failed: Option<std::io::Error>,
    /// The highest T that was answered.
    newest: LogTime,
    served: bool,
    /// The ledger of each region, as it was written last.
    ledgers: BTreeMap<usize, Vec<Join>>,
}

/// A call that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    pub client: u32,
    pub invoked: Micros,
}

/// What became of a call of the client library: how often it was tried, 0 = that is not known, and
/// the number of the epoch under which it was acknowledged.
pub type Told = (Outcome, u32, Option<u32>);

impl Recorder {
    /// Makes the file.
    ///
    /// # Errors
    /// It is there already, or cannot be written.
    pub fn create(path: &Path, is_pair: bool) -> anyhow::Result<Recorder> {
        let named = || format!("the history {}", path.display());
        Ok(Recorder::onto(path, File::create_new(path).with_context(named)?, is_pair))
    }

    fn onto(path: &Path, file: File, is_pair: bool) -> Recorder {
        let (out, ledgers) = (BufWriter::new(file), BTreeMap::new());
        let file = Mutex::new(Open { out, failed: None, newest: 0, served: false, ledgers });
        let recorder = Recorder { path: path.to_owned(), began: Instant::now(), is_pair, file };
        recorder.write(&Line::Form(FORM));
        recorder
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since it was made.
    #[must_use]
    pub fn now(&self) -> Micros {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(NEVER)
    }

    pub fn write(&self, line: &Line) {
        let text = serde_json::to_string(line).map_err(std::io::Error::from);
        let mut open = self.open();
        if open.failed.is_some() {
            return;
        }
        if let Err(error) = text.and_then(|text| writeln!(open.out, "{text}")) {
            open.failed = Some(error);
        }
    }

    /// A fault or a phase.
    pub fn event(&self, what: impl Into<String>) {
        self.write(&Line::Event(self.now(), what.into()));
    }

    #[must_use]
    pub fn begin(&self, client: u32) -> Begun {
        Begun { client, invoked: self.now() }
    }

    /// A region was asked what it is from that moment until now.
    pub fn look(&self, invoked: Micros, status: &pb::GetRegionResponse) {
        let Some(mut look) = looks::look((invoked, self.now()), status) else { return };
        let region = look.told.cluster.region;
        let mut open = self.open();
        if open.ledgers.get(&region) == Some(&look.part.ledger) {
            look.part.ledger.clear();
        } else {
            open.ledgers.insert(region, look.part.ledger.clone());
        }
        drop(open);
        self.write(&Line::Look(Box::new(look)));
    }

    /// The call has returned.
    pub fn op(&self, begun: Begun, call: Call, (outcome, attempts, epoch): Told) {
        if let Outcome::Ok(answer) = &outcome {
            let mut open = self.open();
            open.served |= matches!(answer, Answer::Sent { .. });
            open.newest = answer.mark().map_or(0, |mark| mark.at).max(open.newest);
        }
        let Begun { client, invoked } = begun;
        // A send that is tried again is not told from one that is not.
        let once = attempts == 1 && !matches!(call, Call::Send { .. });
        let elsewhere = self.is_pair && !once;
        let (session, site) = (None, Cluster::default());
        let returned = self.now();
        let op = Box::new(Op {
            client,
            session,
            attempts,
            elsewhere,
            invoked,
            returned,
            call,
            outcome,
            site,
        });
        self.write(&if self.is_pair { Line::OpIn(epoch, op) } else { Line::Op(op) });
    }

    /// Says why the file can be written no more.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(&self) -> anyhow::Result<()> {
        let mut open = self.open();
        match open.failed.take() {
            None => Ok(()),
            Some(error) => {
                let again = std::io::Error::new(error.kind(), error.to_string());
                open.failed = Some(again);
                Err(error).with_context(|| self.cannot())
            }
        }
    }

    fn cannot(&self) -> String {
        format!("the history {} cannot be written", self.path.display())
    }

    /// Ends the history of a drill whose queue is empty, and whose nodes are whole.
    ///
    /// # Errors
    /// It cannot be written to its end.
    pub fn end(&self, steady: bool, paired: bool) -> anyhow::Result<()> {
        let (served, at) = {
            let open = self.open();
            (open.served, open.newest)
        };
        let words = String::new();
        let (converged, drained) = (true, true);
        let ending = Ending { converged, served, drained, words, steady, paired, at };
        self.write(&Line::Ending(ending));
        self.check()?;
        let mut open = self.open();
        open.out.flush().with_context(|| self.cannot())
    }
}

/// A time of the log; 0 = it was not told.
#[must_use]
pub fn moment(at: Option<SystemTime>) -> LogTime {
    let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, micros)
}

#[must_use]
pub fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// What a call came to that failed.
#[must_use]
pub fn failed(error: &ClientError) -> Outcome {
    let why =
        error.reason().map_or_else(|| error.to_string(), |why| Reason::as_str(why).to_owned());
    if error.is_not_applied() { Outcome::Failed(why) } else { Outcome::Unknown(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_with_the_name_of_the_file() {
        let full = Path::new("/dev/full");
        let recorder = Recorder::onto(full, File::create(full).expect("a device"), false);
        recorder.check().expect("it is in the buffer");
        let error = recorder.end(true, false).expect_err("no room");
        assert_eq!(error.to_string(), "the history /dev/full cannot be written");

        let recorder = Recorder::onto(full, File::create(full).expect("a device"), false);
        recorder.event("a".repeat(1 << 16));
        for _ in 0..2 {
            let error = recorder.check().expect_err("no room");
            assert!(format!("{error:#}").contains("/dev/full cannot be written: "), "{error:#}");
        }
        recorder.event("nobody waits for it");
    }
}
