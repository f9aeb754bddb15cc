//! Transcripts: scripts under `testscripts/` with the answers of the state, to be read.
//!
//! `UPDATE_GOLDENFILES=1 cargo test transcripts` writes the answers anew; read the difference.
//! Each line is an entry of one command, `at 10s` first moves the leader's clock. Times are
//! seconds of T. `client=7 seq=1 lowest=1` puts a command into a session; `account=NAME` names
//! another account. After each script the table must rebuild the state.

use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Runner};

use super::stage::{ACCOUNT, Stage, next_visible, plain};
use crate::queue::command::{
    AccountQuota, BackOff, Command, Content, DeadLetters, Envelope, NewMessage, Receive, Redrive,
    RedriveFilter, ReleaseAfter, SessionTag, Settings, StringMap, TimeToLive, Transact, Update,
};
use crate::queue::ids::{Epoch, LogTime, MessageId, Number, QueueId, Receipt, Span};
use crate::queue::note::Note;
use crate::queue::outcome::{DeleteOutcome, Outcome, ReleaseOutcome, Reply, Shown, Standing};
use crate::queue::redrive::Tally;
use crate::queue::rows::RedriveRow;
use crate::queue::{Held, PeekToken, QueueView, State, check, limits};

type Failure = Box<dyn Error>;

struct Script {
    stage: Stage,
    clock: LogTime,
}

fn play(name: &str) {
    let path = format!("{}/src/queue/testscripts/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut script = Script { stage: Stage::new(), clock: LogTime(0) };
    goldenscript::run(&mut script, path).expect("the script runs");
}

macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { play(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            let known = [$(stringify!($name)),*];
            let folder = format!("{}/src/queue/testscripts", env!("CARGO_MANIFEST_DIR"));
            for file in std::fs::read_dir(folder).expect("the folder") {
                let file = file.expect("a file");
                if file.path().is_dir() {
                    continue;
                }
                let name = file.file_name();
                let name = name.to_str().expect("a name");
                assert!(known.contains(&name), "no test runs the script {name}");
            }
        }
    };
}

transcripts! { queues send_and_receive receipts update delete expiry leases order clear sessions log_time peek pause priority dead_letters release deduplication groups transact quotas redrive undelete accounts }

/// Seconds, with microseconds only where there are any.
fn time(at: LogTime) -> String {
    match (at.0 / 1_000_000, at.0 % 1_000_000) {
        (secs, 0) => format!("{secs}s"),
        (secs, micros) => format!("{secs}.{micros:06}s"),
    }
}

fn until(at: Option<LogTime>) -> String {
    at.map_or("never".to_owned(), time)
}

fn span(text: &str) -> Result<Span, Failure> {
    if let Some(micros) = text.strip_suffix("us") {
        return Ok(Span(micros.parse()?));
    }
    Ok(Span::from_secs(text.strip_suffix('s').unwrap_or(text).parse()?))
}

fn map(text: &str) -> StringMap {
    let pairs = text.split(',').filter_map(|pair| pair.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Script {
    fn id(&self, number: &str) -> Result<MessageId, Failure> {
        Ok(MessageId { epoch: self.stage.state.epoch(), number: Number(number.parse()?) })
    }

    /// `1/2`: message 1 with receipt 2.
    fn item(&self, text: &str) -> Result<(MessageId, Receipt), Failure> {
        let (id, receipt) = text.split_once('/').ok_or("an item is NUMBER/RECEIPT")?;
        let receipt = Receipt { epoch: self.stage.state.epoch(), counter: receipt.parse()? };
        Ok((self.id(id)?, receipt))
    }

    fn command(&self, name: &str, args: &mut ArgumentConsumer) -> Result<Option<Command>, Failure> {
        let mut queue = || args.next_pos().map(|arg| arg.value.clone()).ok_or("a queue, please");
        let visibility = |args: &mut ArgumentConsumer| {
            args.lookup("visibility").map(|arg| span(&arg.value)).transpose()
        };
        Ok(Some(match name {
            "create" => {
                let (name, settings) = (queue()?, settings(args)?);
                let settings = Box::new(settings);
                Command::CreateQueue { name, metadata: metadata(args), settings }
            }
            "delete-queue" => Command::DeleteQueue { name: queue()? },
            "set-metadata" => Command::SetMetadata { name: queue()?, metadata: metadata(args) },
            "set-settings" => {
                let name = queue()?;
                Command::SetSettings { name, settings: Box::new(settings(args)?) }
            }
            "pause" => Command::SetPaused { name: queue()?, paused: true },
            "resume" => Command::SetPaused { name: queue()?, paused: false },
            "clear" => Command::Clear { queue: queue()? },
            "pulse" => Command::Pulse,
            "raise-rules" => Command::RaiseRules { version: queue()?.parse()? },
            "send" => send(queue()?, args)?,
            "receive" => Command::Receive(Receive {
                queue: queue()?,
                max_messages: args.lookup_parse("max")?.unwrap_or(1),
                max_bytes: args.lookup_parse("bytes")?.unwrap_or(4 << 20),
                visibility: visibility(args)?,
            }),
            "update" => {
                let (queue, item) = (queue()?, queue()?);
                let (id, receipt) = self.item(&item)?;
                let content = args.lookup("body").map(|arg| content(&arg.value));
                let visibility = visibility(args)?;
                Command::Update(Update { queue, id, receipt, visibility, content })
            }
            "delete" => {
                let queue = queue()?;
                let items = args.rest_pos().into_iter().map(|arg| self.item(&arg.value)).collect();
                Command::Delete {
                    queue,
                    items: {
                        let items: Result<Vec<_>, Failure> = items;
                        items?
                    },
                }
            }
            "transact" => Command::Transact(self.transact(args)?),
            "undelete" => Command::UndeleteQueue {
                name: queue()?,
                id: args.lookup_parse("id")?.map(QueueId),
                new_name: args.lookup("as").map(|arg| arg.value.clone()),
            },
            "redrive" => Command::StartRedrive(Box::new(self.redrive(queue()?, args)?)),
            "cancel-redrive" => {
                let (queue, number) = (queue()?, queue()?);
                Command::CancelRedrive { queue, id: self.id(&number)? }
            }
            "quota" => Command::SetAccountQuota(AccountQuota {
                messages: args.lookup_parse("max_messages")?,
                bytes: args.lookup_parse("max_total")?,
                queues: args.lookup_parse("max_queues")?,
            }),
            "release" => {
                let queue = queue()?;
                let after = match args.lookup("after").map(|arg| arg.value.as_str()) {
                    None => ReleaseAfter::Now,
                    Some("back-off") => ReleaseAfter::BackOff,
                    Some(text) => ReleaseAfter::Delay(span(text)?),
                };
                let items = args.rest_pos().into_iter().map(|arg| self.item(&arg.value));
                Command::Release { queue, items: items.collect::<Result<_, _>>()?, after }
            }
            _ => return Ok(None),
        }))
    }

    fn redrive(&self, queue: String, args: &mut ArgumentConsumer) -> Result<Redrive, Failure> {
        let mut text = |name: &str| args.lookup(name).map(|arg| arg.value.clone());
        let (target, source, group) = (text("target"), text("source"), text("group"));
        let time = |text: Option<String>| -> Result<Option<LogTime>, Failure> {
            Ok(text.map(|text| span(&text)).transpose()?.map(|span| LogTime(span.0)))
        };
        let (dead_since, dead_before) = (time(text("since"))?, time(text("before"))?);
        let rate = args.lookup_parse("rate")?;
        let ids = args.rest_pos().into_iter().map(|arg| self.id(&arg.value));
        let ids = ids.collect::<Result<_, Failure>>()?;
        let filter = RedriveFilter { source, reason: None, dead_since, dead_before, group, ids };
        Ok(Redrive { queue, target, rate, filter })
    }

    /// `delete=QUEUE/NUMBER/RECEIPT` and `QUEUE/BODY`, each as often as wanted.
    fn transact(&self, args: &mut ArgumentConsumer) -> Result<Transact, Failure> {
        let mut asked = Transact::default();
        for arg in args.rest_pos() {
            match *arg.value.split('/').collect::<Vec<_>>().as_slice() {
                [queue, id, receipt] => {
                    let (id, receipt) = self.item(&format!("{id}/{receipt}"))?;
                    asked.deletes.push((queue.to_owned(), id, receipt));
                }
                [queue, body] => {
                    let content = content(body);
                    let message = NewMessage { content, ..NewMessage::default() };
                    asked.sends.push((queue.to_owned(), vec![message]));
                }
                _ => return Err("QUEUE/NUMBER/RECEIPT or QUEUE/BODY".into()),
            }
        }
        Ok(asked)
    }

    fn read(&mut self, name: &str, args: &mut ArgumentConsumer) -> Result<String, Failure> {
        let state = &self.stage.state;
        let mut next = || args.next_pos().map(|arg| arg.value.clone()).ok_or("too few arguments");
        Ok(match name {
            "counts" => {
                let view = state.queue(ACCOUNT, &next()?).ok_or("no such queue")?;
                let c = view.counts;
                let blocked =
                    if c.blocked > 0 { format!(" blocked {}", c.blocked) } else { String::new() };
                format!(
                    "visible {} leased {} delayed {}{blocked} due {} total {} bytes {}",
                    c.visible, c.leased, c.delayed, c.due, c.total, c.bytes
                )
            }
            "alarm" => {
                let view = state.queue(ACCOUNT, &next()?).ok_or("no such queue")?;
                let since = view.dead_letters_refused_at;
                since.map_or("no alarm".to_owned(), |at| format!("refused since {}", time(at)))
            }
            "age" => {
                let view = state.queue(ACCOUNT, &next()?).ok_or("no such queue")?;
                view.oldest_age.map_or("nothing".to_owned(), |age| time(LogTime(age.0)))
            }
            "list" => list(state, args)?,
            "redrives" => {
                let all = state.redrives(ACCOUNT, &next()?)?;
                if all.is_empty() { "none".to_owned() } else { lines(&all, redrive_line) }
            }
            "preview" => {
                let asked = self.redrive(next()?, args)?;
                let preview = state.preview_redrive(ACCOUNT, &asked, Number(0), 100);
                preview.map_or_else(
                    |rejection| format!("refused: {rejection}"),
                    |seen| format!("matching {} held {}", seen.matching, seen.held),
                )
            }
            "deleted" => {
                let (views, _) = state.deleted_queues(ACCOUNT, "", None, 100);
                let line = |view: &QueueView| {
                    let until = view.row.kept.map(|kept| kept.until);
                    format!("{} id {} until {}", view.row.name, view.row.id.0, self::until(until))
                };
                if views.is_empty() { "none".to_owned() } else { lines(&views, line) }
            }
            "account" => {
                let view = state.account(&next()?);
                let (queues, deleted) = (view.queues, view.deleted_queues);
                let Held { messages, bytes } = view.held;
                format!("queues {queues} deleted {deleted} messages {messages} bytes {bytes}")
            }
            "accounts" => {
                let after = args.lookup("after").map(|arg| arg.value.clone());
                let max = args.lookup_parse("max")?.unwrap_or(100);
                let (views, more) = state.accounts(after.as_deref(), max);
                let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
                format!("{}{}", names.join(" "), if more { " more" } else { "" })
            }
            "peek" => {
                let (queue, standing) = (next()?, standing(&next()?)?);
                let max = args.lookup_parse("max")?.unwrap_or(100);
                let after = args.lookup("after").map(|arg| PeekToken::parse(&arg.value));
                let after = after.map(|token| token.ok_or("a bad token")).transpose()?;
                match state.peek(ACCOUNT, &queue, standing, after, max) {
                    Ok((shown, token)) => {
                        let mut out: Vec<String> = shown.iter().map(show).collect();
                        out.extend(token.map(|token| format!("next page after={token}")));
                        if out.is_empty() { "nothing".to_owned() } else { out.join("\n") }
                    }
                    Err(rejection) => format!("refused: {rejection}"),
                }
            }
            "get" => {
                let (queue, number) = (next()?, next()?);
                match state.message(ACCOUNT, &queue, self.id(&number)?) {
                    Ok(shown) => show(&shown),
                    Err(rejection) => format!("refused: {rejection}"),
                }
            }
            "next-visible" => until(next_visible(state, &next()?)),
            "next-due" => until(state.next_due()),
            "time" => time(state.log_time()),
            "totals" => {
                let (queues, messages, bytes) = state.totals();
                format!("queues {queues} messages {messages} bytes {bytes}")
            }
            "at" => {
                self.clock = LogTime(span(&next()?)?.0);
                String::new()
            }
            "restart" => {
                self.stage.state = self.stage.reload();
                self.stage.check();
                String::new()
            }
            "reclaim" => {
                let changes = self.stage.state.reclaim(next()?.parse()?);
                self.stage.record(&changes);
                format!("rows {} contents {}", changes.rows.len(), changes.contents.len())
            }
            other => return Err(format!("unknown command {other}").into()),
        })
    }
}

fn redrive_line(job: &RedriveRow) -> String {
    let Tally { moved, held, refused } = job.tally;
    let next = match job.ended_at {
        Some(at) => format!("ended {}", time(at)),
        None => format!("next step {}", time(job.next_step)),
    };
    let (number, progress) = (job.number.0, job.progress);
    format!("{number} {progress:?} moved {moved} held {held} refused {refused} {next}")
}

fn list(state: &State, args: &mut ArgumentConsumer) -> Result<String, Failure> {
    let text = |arg: Option<&goldenscript::Argument>| arg.map(|arg| arg.value.clone());
    let prefix = text(args.lookup("prefix")).unwrap_or_default();
    let account = text(args.lookup("account")).unwrap_or(ACCOUNT.to_owned());
    let (after, max) = (text(args.lookup("after")), args.lookup_parse("max")?.unwrap_or(100));
    let (views, more) = state.queues(&account, &prefix, after.as_deref(), max);
    let mut out = String::new();
    for view in views {
        let row = view.row;
        let total = view.counts.total;
        writeln!(out, "{} id {} total {total} metadata {:?}", row.name, row.id.0, row.metadata)?;
    }
    out.push_str(if more { "more" } else { "end" });
    Ok(out)
}

fn settings(args: &mut ArgumentConsumer) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    if let Some(arg) = args.lookup("ttl") {
        settings.default_ttl = (arg.value != "never").then(|| span(&arg.value)).transpose()?;
    }
    if let Some(arg) = args.lookup("visibility") {
        settings.default_visibility = span(&arg.value)?;
    }
    if let Some(arg) = args.lookup("dead") {
        let (queue, max_deliveries) = arg.value.split_once('/').ok_or("dead=QUEUE/DELIVERIES")?;
        let max_deliveries = max_deliveries.parse()?;
        settings.dead_letters = Some(DeadLetters { queue: queue.to_owned(), max_deliveries });
    }
    if let Some(arg) = args.lookup("back_off") {
        let parts: Vec<&str> = arg.value.split('/').collect();
        let [first, most, factor] = parts.as_slice() else {
            return Err("back_off=FIRST/MOST/FACTOR".into());
        };
        let factor = factor.parse()?;
        settings.back_off = BackOff { first: span(first)?, most: span(most)?, factor };
    }
    if let Some(arg) = args.lookup("undelete") {
        settings.undelete_window = span(&arg.value)?;
    }
    if let Some(arg) = args.lookup("window") {
        settings.deduplication_window = span(&arg.value)?;
    }
    settings.quota.messages = args.lookup_parse("max_messages")?;
    settings.quota.bytes = args.lookup_parse("max_total")?;
    settings.dead_letter_ttl = args.lookup("dead_ttl").map(|arg| span(&arg.value)).transpose()?;
    settings.max_message_bytes =
        args.lookup_parse("max_bytes")?.unwrap_or(settings.max_message_bytes);
    Ok(settings)
}

fn metadata(args: &mut ArgumentConsumer) -> StringMap {
    args.lookup("metadata").map(|arg| map(&arg.value)).unwrap_or_default()
}

fn content(body: &str) -> Content {
    Content { body: Bytes::copy_from_slice(body.as_bytes()), headers: StringMap::new() }
}

fn send(queue: String, args: &mut ArgumentConsumer) -> Result<Command, Failure> {
    let delay = args.lookup("delay").map_or(Ok(Span::ZERO), |arg| span(&arg.value))?;
    let ttl = match args.lookup("ttl").map(|arg| arg.value.as_str()) {
        None => TimeToLive::Default,
        Some("never") => TimeToLive::Never,
        Some(text) => TimeToLive::For(span(text)?),
    };
    let priority = args.lookup_parse("priority")?.unwrap_or(limits::DEFAULT_PRIORITY);
    let key = args
        .lookup("key")
        .map(|arg| check::deduplication_key(&arg.value).map(Box::new))
        .transpose()?;
    let group: Option<Box<str>> = args.lookup("group").map(|arg| arg.value.as_str().into());
    let message = |body: &str| {
        let (content, group) = (content(body), group.clone());
        NewMessage { content, delay, ttl, priority, key: key.clone(), group }
    };
    let messages = args.rest_pos().into_iter().map(|arg| message(&arg.value)).collect();
    Ok(Command::Send { queue, messages })
}

fn standing(text: &str) -> Result<Standing, Failure> {
    Ok(match text {
        "visible" => Standing::Visible,
        "leased" => Standing::Leased,
        "delayed" => Standing::Delayed,
        "blocked" => Standing::Blocked,
        "due" => Standing::Due,
        other => return Err(format!("unknown standing {other}").into()),
    })
}

fn show(m: &Shown) -> String {
    format!(
        "{} {:?} content {} inserted {} expires {} visible {} dequeued {}",
        m.id.number.0,
        m.standing,
        m.content.0,
        time(m.inserted_at),
        until(m.expires_at),
        time(m.visible_at),
        m.dequeue_count
    ) + &unusual(m.priority, m.note.as_deref())
}

/// What few messages have.
fn unusual(priority: u8, note: Option<&Note>) -> String {
    let mut out = String::new();
    if priority != limits::DEFAULT_PRIORITY {
        out.push_str(&format!(" priority {priority}"));
    }
    let times = |received: Option<(LogTime, LogTime)>| {
        received.map_or(String::new(), |(first, last)| {
            format!(" first received {} last {}", time(first), time(last))
        })
    };
    let Some(note) = note else { return out };
    if let Some(group) = &note.group {
        out.push_str(&format!(" group {group}"));
    }
    if let Some(before) = &note.redriven {
        out.push_str(&format!(" was {} in {}", before.id.number.0, before.queue));
        if let Some(first) = before.first {
            out.push_str(&format!(" and first {}", first.number.0));
        }
    }
    out.push_str(&times(note.received));
    if let Some(dead) = &note.dead {
        let (source, deliveries, at) = (&dead.source, dead.deliveries, time(dead.at));
        out.push_str(&format!(" dead {:?} from {source} at {at}", dead.reason));
        out.push_str(&format!(" after {deliveries} deliveries{}", times(dead.received)));
    }
    out
}

fn answer(outcome: &Outcome) -> String {
    match outcome {
        Err(rejection) => format!("refused: {rejection}"),
        Ok(Reply::Sent(sent) | Reply::Transacted(sent)) => lines(sent, |s| {
            let (expires, visible) = (until(s.expires_at), time(s.visible_at));
            let what = if s.duplicate { "duplicate of" } else { "sent" };
            format!(
                "{what} {}/{} expires {expires} visible {visible}",
                s.id.number.0, s.receipt.counter
            )
        }),
        Ok(Reply::Received { messages, more }) => {
            let mut out = lines(messages, |m| {
                format!(
                    "received {}/{} content {} visible {} dequeued {}",
                    m.id.number.0,
                    m.receipt.counter,
                    m.content.0,
                    time(m.visible_at),
                    m.dequeue_count
                ) + &unusual(m.priority, m.note.as_deref())
            });
            out.push_str(match (messages.is_empty(), more) {
                (true, false) => "nothing",
                (true, true) => "nothing yet, more",
                (false, true) => "\nmore",
                (false, false) => "",
            });
            out
        }
        Ok(Reply::Updated { receipt, visible_at }) => {
            format!("updated receipt {} visible {}", receipt.counter, time(*visible_at))
        }
        Ok(Reply::Released(outcomes)) => lines(outcomes, |outcome| match outcome {
            ReleaseOutcome::Released { visible_at } => {
                format!("released visible {}", time(*visible_at))
            }
            ReleaseOutcome::MessageNotFound => "message not found".to_owned(),
            ReleaseOutcome::ReceiptMismatch => "receipt mismatch".to_owned(),
        }),
        Ok(Reply::Deleted(outcomes)) => lines(outcomes, |outcome| {
            match outcome {
                DeleteOutcome::Deleted => "deleted",
                DeleteOutcome::MessageNotFound => "message not found",
                DeleteOutcome::ReceiptMismatch => "receipt mismatch",
            }
            .to_owned()
        }),
        Ok(other) => format!("{other:?}"),
    }
}

fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    items.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Runner for Script {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Failure> {
        let mut args = command.consume_args();
        let client: Option<u128> = args.lookup_parse("client")?;
        let session = match client {
            None => None,
            Some(client) => Some(SessionTag {
                client,
                sequence: args.lookup_parse("seq")?.ok_or("a seq, please")?,
                lowest_unanswered: args.lookup_parse("lowest")?.unwrap_or(1),
            }),
        };
        let epoch = args.lookup_parse("epoch")?.map(Epoch);
        let account = match command.name.as_str() {
            "list" => None,
            _ => args.lookup("account").map(|arg| arg.value.clone()),
        };
        let Some(asked) = self.command(&command.name, &mut args)? else {
            let answer = self.read(&command.name, &mut args)?;
            args.reject_rest()?;
            return Ok(answer);
        };
        args.reject_rest()?;
        let account = account.unwrap_or(ACCOUNT.to_owned());
        let envelope = Envelope { session, account, ..plain(asked) };
        let mut entry = self.stage.entry(self.clock, vec![envelope]);
        entry.epoch = epoch.unwrap_or(entry.epoch);
        let applied = self.stage.apply_entry(&entry);
        Ok(lines(&applied.outcomes, answer))
    }

    fn end_script(&mut self) -> Result<(), Failure> {
        self.stage.check();
        self.stage.reclaim_all();
        self.stage.check();
        Ok(())
    }
}
