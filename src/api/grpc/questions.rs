//! What reading requests ask of the state: how they are read, and the look that each takes; and
//! every such look in one place, for those who try bytes that nobody wrote so.
//!
//! Laws: as in `convert.rs`; a look is bounded, whatever is asked.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::convert;
use super::error::Refusal;
use super::redrive::asked;
use crate::proto::queue::v1 as pb;
use crate::queue::error::Rejection;
use crate::queue::ids::{MessageId, Number, Position, QueueId};
use crate::queue::outcome::{Shown, Standing};
use crate::queue::{AccountView, PeekToken, QueueView, State, redrive};

type Read<T> = Result<T, Refusal>;
/// How old the answer may be; `None` = linearizable.
type Staleness = Option<Duration>;
type Given = Option<prost_types::Duration>;

/// Queues or accounts on a page that names no size.
const USUAL_PAGE: u32 = 100;

/// A question about one queue.
pub(super) struct OneQueue {
    pub(super) staleness: Staleness,
    pub(super) account: String,
    pub(super) name: String,
}

impl OneQueue {
    pub(super) fn of(account: String, name: String, staleness: Given) -> Read<OneQueue> {
        let staleness = convert::staleness(staleness)?;
        let account = convert::account(account)?;
        convert::queue_name(&name)?;
        Ok(OneQueue { staleness, account, name })
    }
}

/// Where a listing of queues goes on.
enum Behind {
    Name(Option<String>),
    Deleted(Option<(String, QueueId)>),
}

/// A page of the queues of an account.
pub(super) struct Listing {
    pub(super) staleness: Staleness,
    account: String,
    prefix: String,
    size: usize,
    behind: Behind,
}

impl Listing {
    pub(super) fn of(request: pb::ListQueuesRequest) -> Read<Listing> {
        let staleness = convert::staleness(request.max_staleness)?;
        let account = convert::account(request.account)?;
        let size = convert::page_size("page_size", request.page_size, USUAL_PAGE)?;
        let token = request.page_token;
        let behind = match request.deleted {
            true => Behind::Deleted(deleted_token(&token)?),
            false => Behind::Name((!token.is_empty()).then_some(token)),
        };
        Ok(Listing { staleness, account, prefix: request.prefix, size, behind })
    }

    /// The page, and whether there is more.
    pub(super) fn look(&self, state: &State) -> (Vec<QueueView>, bool) {
        let (account, prefix) = (&self.account, &self.prefix);
        match &self.behind {
            Behind::Name(after) => state.queues(account, prefix, after.as_deref(), self.size),
            Behind::Deleted(after) => {
                let after = after.as_ref().map(|(name, id)| (name.as_str(), *id));
                state.deleted_queues(account, prefix, after, self.size)
            }
        }
    }

    /// The token of the page behind this queue.
    pub(super) fn token(&self, last: &pb::Queue) -> String {
        match self.behind {
            Behind::Name(_) => last.name.clone(),
            Behind::Deleted(_) => format!("{}/{}", last.name, last.id),
        }
    }
}

/// Where a listing of deleted queues goes on: behind `NAME/ID`.
fn deleted_token(token: &str) -> Read<Option<(String, QueueId)>> {
    if token.is_empty() {
        return Ok(None);
    }
    let parts = token
        .split_once('/')
        .and_then(|(name, id)| Some((name.to_owned(), QueueId(id.parse().ok()?))));
    let wrong = || Refusal::invalid("page_token", "cannot be read", "that of the page before");
    parts.map(Some).ok_or_else(wrong)
}

/// A page of messages.
pub(super) struct Peek {
    pub(super) staleness: Staleness,
    account: String,
    queue: String,
    /// `None` = dead letters, however they stand.
    standing: Option<Standing>,
    after: Option<PeekToken>,
    pub(super) size: usize,
}

impl Peek {
    pub(super) fn of(request: pb::PeekRequest) -> Read<Peek> {
        let staleness = convert::staleness(request.max_staleness)?;
        let account = convert::account(request.account)?;
        convert::queue_name(&request.queue)?;
        let standing = convert::peeked(request.state)?;
        let after = convert::peek_token(&request.page_token)?;
        let size = convert::page_size("max_messages", request.max_messages, 1)?;
        Ok(Peek { staleness, account, queue: request.queue, standing, after, size })
    }

    pub(super) fn look(
        &self,
        state: &State,
        size: usize,
    ) -> Result<(Vec<Shown>, Option<PeekToken>), Rejection> {
        match self.standing {
            Some(standing) => state.peek(&self.account, &self.queue, standing, self.after, size),
            None => state.peek_dead(&self.account, &self.queue, self.after, size),
        }
    }
}

/// A question about one message.
pub(super) struct OneMessage {
    pub(super) queue: OneQueue,
    pub(super) id: MessageId,
}

impl OneMessage {
    pub(super) fn of(request: pb::GetMessageRequest) -> Read<OneMessage> {
        let queue = OneQueue::of(request.account, request.queue, request.max_staleness)?;
        Ok(OneMessage { queue, id: convert::message_id(&request.id)? })
    }
}

/// A page of the accounts.
pub(super) struct Accounts {
    pub(super) staleness: Staleness,
    size: usize,
    after: Option<String>,
}

impl Accounts {
    pub(super) fn of(request: pb::ListAccountsRequest) -> Read<Accounts> {
        let staleness = convert::staleness(request.max_staleness)?;
        let size = convert::page_size("page_size", request.page_size, USUAL_PAGE)?;
        let after = Some(request.page_token).filter(|token| !token.is_empty());
        Ok(Accounts { staleness, size, after })
    }

    pub(super) fn look(&self, state: &State) -> (Vec<AccountView>, bool) {
        state.accounts(self.after.as_deref(), self.size)
    }
}

/// How old the answer may be, and the account.
pub(super) fn one_account(request: pb::GetAccountRequest) -> Read<(Staleness, String)> {
    Ok((convert::staleness(request.max_staleness)?, convert::account(request.account)?))
}

/// The position whose durability is asked for.
pub(super) fn position(request: pb::GetDurabilityRequest) -> Read<Position> {
    let given = request.position.ok_or_else(|| {
        Refusal::invalid("position", "is missing", "that of a durability receipt")
    })?;
    Ok(Position { term: given.term, node: given.node, index: given.index })
}

/// `None` when the bytes are no such message.
type Way = fn(Bytes, &State) -> Option<Read<usize>>;

fn way<M: Message + Default>(
    bytes: Bytes,
    state: &State,
    look: impl FnOnce(M, &State) -> Read<usize>,
) -> Option<Read<usize>> {
    Some(look(M::decode(bytes).ok()?, state))
}

/// What a dry run finds on its first page.
fn dry_run(request: pb::StartRedriveRequest, state: &State) -> Read<usize> {
    let account = convert::account(request.account.clone())?;
    let asked = asked(request)?;
    redrive::check(&asked)?;
    let seen = state.preview_redrive(&account, &asked, Number(0), 1_000)?;
    Ok(usize::try_from(seen.matching).unwrap_or(usize::MAX))
}

macro_rules! ways {
    ($($message:ident => $look:expr,)*) => {
        /// Messages of the wire that ask the state, in the order of their numbers in [`look`].
        pub const MESSAGES: &[&str] = &[$(concat!("queue.", stringify!($message))),*];
        const WAYS: &[Way] = &[$(|bytes, state| way::<pb::$message>(bytes, state, $look)),*];
    };
}

ways! {
    GetQueueRequest => |it, state| {
        let asked = OneQueue::of(it.account, it.name, it.max_staleness)?;
        Ok(state.queue(&asked.account, &asked.name).map_or(0, |_| 1))
    },
    ListQueuesRequest => |it, state| {
        let asked = Listing::of(it)?;
        let (mut found, _) = asked.look(state);
        let count = found.len();
        if let Some(last) = found.pop() {
            asked.token(&convert::queue_out(last));
        }
        Ok(count)
    },
    PeekRequest => |it, state| {
        let asked = Peek::of(it)?;
        Ok(asked.look(state, asked.size)?.0.len())
    },
    GetMessageRequest => |it, state| {
        let OneMessage { queue, id } = OneMessage::of(it)?;
        Ok(state.message(&queue.account, &queue.name, id).map(|_| 1)?)
    },
    ListRedrivesRequest => |it, state| {
        let asked = OneQueue::of(it.account, it.queue, it.max_staleness)?;
        Ok(state.redrives(&asked.account, &asked.name)?.len())
    },
    GetAccountRequest => |it, state| {
        let (_, name) = one_account(it)?;
        Ok(usize::from(state.account(&name).name == name))
    },
    ListAccountsRequest => |it, state| Ok(Accounts::of(it)?.look(state).0.len()),
    GetDurabilityRequest => |it, _| position(it).map(|_| 1),
    StartRedriveRequest => dry_run,
}

/// How much a reading request of `zoneq.queue.v1` finds in a state. The first byte is its number in
/// [`MESSAGES`]. `None` when the rest is no such message, or is refused.
#[must_use]
pub fn look(bytes: &Bytes, state: &State) -> Option<usize> {
    let way = WAYS.get(usize::from(*bytes.first()?))?;
    way(bytes.slice(1..), state)?.ok()
}
