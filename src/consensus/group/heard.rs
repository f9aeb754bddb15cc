//! What this node heard of a promotion in the other region, before its cluster has agreed that it
//! is fenced.
//!
//! Laws: from the moment at which a node hears of a higher epoch it tells no client anything as
//! leader that was not told before: no write, and no read that is called the newest. It keeps the
//! word beside its vote, and whenever it leads it proposes first to be fenced. Once that is applied
//! the role itself refuses, on every node, and the word has done its part.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::error::{Fate, GroupError, Reason};
use super::super::proposer::Done;
use super::Group;
use crate::queue::authority::command::{Actor, RegionCommand, RegionVerb};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::{Authority, LedgerLine, RegionEpoch, Role};
use crate::queue::command::{Command, Entry, Envelope};
use crate::queue::ids::{Epoch, LogTime, Position};
use crate::storage::codec;

/// One attempt to be fenced may take so long.
const WITHIN: Duration = Duration::from_secs(3);

/// The newest word of a promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    lineage: u128,
    /// Of the region that was promoted; the last line is the epoch.
    ledger: Vec<LedgerLine>,
}

impl Word {
    fn epoch(&self) -> Option<&RegionEpoch> {
        self.ledger.last().map(|line| &line.epoch)
    }

    /// Whether a cluster of this authority is deposed by it and does not know it yet.
    fn deposes(&self, authority: &Authority) -> bool {
        // Who follows writes nothing; who is promoted later looks again.
        let follows = matches!(authority.role, Role::Secondary | Role::Detached);
        let is_above = self.epoch().is_some_and(|it| it.number > authority.seen.number);
        is_above && !follows && self.lineage == authority.lineage
    }

    fn verb(&self) -> RegionVerb {
        RegionVerb::Fence { lineage: self.lineage, ledger: self.ledger.clone() }
    }

    /// As it is kept: an entry that was never proposed.
    fn to_bytes(&self) -> Bytes {
        let position = Position::default();
        let commands = vec![proposal(self.verb(), String::new())];
        let (stamp, epoch) = (LogTime::default(), Epoch::default());
        codec::encode_entry(&mut Entry { position, stamp, epoch, commands })
    }

    fn from_bytes(bytes: Bytes) -> Option<Word> {
        let entry = codec::decode_entry(Position::default(), bytes).ok()?;
        match entry.commands.into_iter().next()?.command {
            Command::Region(asked) => match asked.verb {
                RegionVerb::Fence { lineage, ledger } => Some(Word { lineage, ledger }),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What a node heard, and whether it may still count.
#[derive(Debug)]
pub(super) struct Heard {
    word: watch::Sender<Option<Word>>,
    /// Looked at before every write: false = there is nothing to compare.
    counts: AtomicBool,
}

impl Heard {
    /// With what was kept beside the vote.
    pub fn new(kept: Option<Bytes>) -> Heard {
        let word = kept.and_then(Word::from_bytes);
        let counts = AtomicBool::new(word.is_some());
        Heard { word: watch::Sender::new(word), counts }
    }
}

fn proposal(verb: RegionVerb, who: String) -> Envelope {
    let by = Actor { who, at_us: 0 };
    let command = Command::Region(Box::new(RegionCommand { by, verb }));
    Envelope { session: None, account: String::new(), command }
}

impl Group {
    /// Hears of an epoch of the other region: keeps the word, and proposes to be fenced by it.
    ///
    /// # Errors
    /// As [`Group::propose`]; the word is kept all the same.
    pub async fn hear(
        &self,
        lineage: u128,
        ledger: Vec<LedgerLine>,
        who: &str,
        deadline: Instant,
    ) -> Result<Done, GroupError> {
        self.keep_heard(lineage, &ledger).await;
        let verb = RegionVerb::Fence { lineage, ledger };
        self.propose(proposal(verb, who.to_owned()), deadline).await
    }

    /// Keeps the word of an epoch that deposes this cluster; any other changes nothing. Whether or
    /// not the disk took it, nothing is answered as leader from here on.
    pub async fn keep_heard(&self, lineage: u128, ledger: &[LedgerLine]) {
        // With this mutant `apply` is not fenced, and this would hide it.
        if crate::mutants::is_chosen("no-fencing") {
            return;
        }
        let word = Word { lineage, ledger: ledger.to_vec() };
        let heard = &self.inner.heard;
        let is_newer = self.is_deposed_by(&word)
            && heard.word.send_if_modified(|known| {
                let number = |word: &Word| word.epoch().map(|epoch| epoch.number);
                let same = known.as_ref().filter(|it| it.lineage == word.lineage);
                let is_newer = same.is_none_or(|known| number(known) < number(&word));
                if is_newer {
                    // Before anybody who sees the word can have been answered.
                    heard.counts.store(true, Ordering::SeqCst);
                    *known = Some(word.clone());
                }
                is_newer
            });
        if !is_newer {
            return;
        }
        let by = word.epoch().map(|it| it.region.as_str()).unwrap_or_default();
        tracing::warn!(by, "the other region was promoted: this one answers nothing more");
        if let Err(error) = self.inner.log.save_heard(word.to_bytes()).await {
            tracing::error!(%error, "what was heard of the other region is not kept");
        }
    }

    fn is_deposed_by(&self, word: &Word) -> bool {
        let store = self.store().read();
        store.state().authority().is_some_and(|authority| word.deposes(authority))
    }

    /// The word that deposes this cluster, until the cluster knows it.
    fn deposed_by(&self) -> Option<Word> {
        let heard = &self.inner.heard;
        if !heard.counts.load(Ordering::SeqCst) {
            return None;
        }
        let word = heard.word.borrow().clone()?;
        self.is_deposed_by(&word).then_some(word)
    }

    /// Refuses what only who may write can answer, once a higher epoch was heard of.
    pub(super) fn check_heard(&self) -> Result<(), GroupError> {
        match self.deposed_by().as_ref().and_then(Word::epoch) {
            Some(by) => Err(GroupError::Rejected(RegionRefusal::Fenced { by: by.clone() }.into())),
            None => Ok(()),
        }
    }

    /// The same after the commit, of a write of this epoch: what was done is done, and its fate is
    /// not for this node to tell any more, even where the fence was applied meanwhile.
    pub(super) fn check_heard_after(&self, epoch: Epoch) -> Result<(), GroupError> {
        if !self.inner.heard.counts.load(Ordering::SeqCst) {
            return Ok(());
        }
        let is_deposed = self.inner.heard.word.borrow().as_ref().is_some_and(|word| {
            let store = self.store().read();
            let lineage = store.state().authority().map(|it| it.lineage);
            lineage == Some(word.lineage) && word.epoch().is_some_and(|by| by.number > epoch)
        });
        if !is_deposed {
            return Ok(());
        }
        Err(GroupError::NotNow {
            reason: Reason::Deposed,
            fate: Fate::Unknown,
            retry_after: Duration::from_millis(200),
            leader: None,
        })
    }
}

/// Proposes to be fenced, whenever this node leads and was told to be; until Raft stops.
pub(super) async fn run(group: Group) {
    let mut leadership = group.leadership();
    let mut words = group.inner.heard.word.subscribe();
    loop {
        let leads = leadership.borrow_and_update().is_me;
        words.borrow_and_update();
        let word = if leads { group.deposed_by() } else { None };
        if let Some(word) = &word {
            fence(&group, word).await;
        }
        let ended = tokio::select! {
            changed = leadership.changed() => changed.is_err(),
            changed = words.changed() => changed.is_err(),
            () = tokio::time::sleep(group.config().heartbeat), if word.is_some() => false,
        };
        if ended {
            return;
        }
    }
}

async fn fence(group: &Group, word: &Word) {
    let proposed = proposal(word.verb(), "the other region".to_owned());
    match group.propose(proposed, Instant::now() + WITHIN).await {
        Ok(Done { outcome: Ok(_), .. }) => {}
        // `apply` has the last word on who is deposed.
        Ok(Done { outcome: Err(refusal), .. }) => {
            tracing::warn!(%refusal, "what was heard of the other region does not depose this one");
            group.inner.heard.counts.store(false, Ordering::SeqCst);
        }
        Err(error) => tracing::debug!(%error, "the fence is not proposed yet"),
    }
}
