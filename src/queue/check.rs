//! What a command must be before it may enter the log.
//!
//! The wall (api) calls [`account`] and [`command`] to refuse early; `apply` calls them again,
//! because an entry may come from another build or region. They look at the command alone and
//! at fixed limits, so the answer is the same everywhere. What depends on a queue's settings
//! ([`content`]) is checked where the queue is known.

use super::accounts;
use super::command::{
    Command, Content, DeadLetters, NewMessage, ReleaseAfter, Settings, StringMap, TimeToLive,
};
use super::dedup;
use super::error::Rejection;
use super::ids::Span;
use super::limits;
use super::redrive;
use super::release;
use super::transact;

type Checked = Result<(), Rejection>;

/// Refuses an account name that is not 3 to 24 of `[a-z0-9]`.
///
/// # Errors
/// [`Rejection::InvalidArgument`], as all checks here: it names the field and what is allowed.
pub fn account(name: &str) -> Checked {
    let fits = limits::ACCOUNT_NAME.contains(&name.len());
    if fits && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Ok(());
    }
    refuse("account", format!("is {}", quoted(name)), "3 to 24 of a-z and 0-9")
}

/// Refuses a queue name that Azure would refuse too.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn queue_name(name: &str) -> Checked {
    let allowed = "3 to 63 of a-z, 0-9 and single dashes between them";
    let fits = limits::QUEUE_NAME.contains(&name.len());
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let dashes = !name.starts_with('-') && !name.ends_with('-') && !name.contains("--");
    if fits && letters && dashes {
        return Ok(());
    }
    refuse("queue", format!("is {}", quoted(name)), allowed)
}

/// Checks all of a command that does not depend on the state.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn command(command: &Command) -> Checked {
    match command {
        Command::CreateQueue { name, metadata: map, settings: wanted } => {
            queue_name(name)?;
            metadata(map)?;
            settings(wanted)
        }
        Command::SetMetadata { name, metadata: map } => {
            queue_name(name)?;
            metadata(map)
        }
        Command::SetSettings { name, settings: wanted } => {
            queue_name(name)?;
            settings(wanted)
        }
        Command::DeleteQueue { name }
        | Command::SetPaused { name, .. }
        | Command::Clear { queue: name } => queue_name(name),
        Command::Send { queue, messages } => {
            queue_name(queue)?;
            batch("messages", messages.len())?;
            messages.iter().try_for_each(message)
        }
        Command::Receive(receive) => {
            queue_name(&receive.queue)?;
            batch("max_messages", receive.max_messages as usize)?;
            visibility("visibility_timeout", receive.visibility)
        }
        Command::Update(update) => {
            queue_name(&update.queue)?;
            visibility("visibility_timeout", update.visibility)?;
            update.content.as_ref().map_or(Ok(()), headers)
        }
        Command::Delete { queue, items } => {
            queue_name(queue)?;
            batch("items", items.len())
        }
        Command::Release { queue, items, after } => {
            queue_name(queue)?;
            batch("items", items.len())?;
            match after {
                ReleaseAfter::Delay(span) => delay(*span),
                ReleaseAfter::Now | ReleaseAfter::BackOff => Ok(()),
            }
        }
        Command::Transact(asked) => transact::check(asked),
        Command::UndeleteQueue { name, new_name, .. } => {
            queue_name(name)?;
            new_name.as_deref().map_or(Ok(()), queue_name)
        }
        Command::StartRedrive(asked) => redrive::check(asked),
        Command::CancelRedrive { queue, .. } => queue_name(queue),
        Command::SetAccountQuota(quota) => accounts::check_quota(quota),
        Command::ReplayTail(asked) => super::authority::replay::check(asked),
        Command::Pulse | Command::RaiseRules { .. } | Command::Region(_) => Ok(()),
    }
}

/// The hash of a deduplication key that a user gave.
///
/// # Errors
/// [`Rejection::InvalidArgument`]: it is too long, or empty.
pub fn deduplication_key(key: &str) -> Result<u128, Rejection> {
    if limits::DEDUPLICATION_KEY.contains(&key.len()) {
        return Ok(dedup::hash(key));
    }
    let (field, problem) = ("deduplication_key".to_owned(), format!("has {} bytes", key.len()));
    let most = limits::DEDUPLICATION_KEY.end();
    Err(Rejection::InvalidArgument { field, problem, allowed: format!("1 to {most} bytes") })
}

/// Checks a content against the size its queue allows.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn content(content: &Content, settings: &Settings) -> Checked {
    let (size, most) = (content.size(), settings.max_message_bytes);
    if size <= most as usize {
        return Ok(());
    }
    let problem = format!("has {size} bytes with its headers");
    refuse("message", problem, format!("0 to {most} bytes in this queue"))
}

/// Checks a queue's settings.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn settings(settings: &Settings) -> Checked {
    if settings.default_ttl == Some(Span::ZERO) {
        return refuse("settings.default_ttl", "is 0".to_owned(), "more than 0, or never");
    }
    visibility("settings.default_visibility_timeout", Some(settings.default_visibility))?;
    let bytes = settings.max_message_bytes;
    if !(1..=limits::MAX_MESSAGE_BYTES).contains(&bytes) {
        let allowed = format!("1 to {}", limits::MAX_MESSAGE_BYTES);
        return refuse("settings.max_message_bytes", format!("is {bytes}"), allowed);
    }
    if settings.dead_letter_ttl == Some(Span::ZERO) {
        return refuse("settings.dead_letter_ttl", "is 0".to_owned(), "more than 0, or never");
    }
    release::check(&settings.back_off)?;
    let quota = settings.quota;
    for (field, most) in [("max_messages", quota.messages), ("max_bytes", quota.bytes)] {
        if most == Some(0) {
            return refuse(&format!("settings.{field}"), "is 0".to_owned(), "1 and more, or none");
        }
    }
    let (window, range) = (settings.deduplication_window, limits::DEDUPLICATION_WINDOW);
    if !range.contains(&window) {
        let allowed = format!("{} to {} seconds", seconds(*range.start()), seconds(*range.end()));
        let problem = format!("is {} seconds", seconds(window));
        return refuse("settings.deduplication_window", problem, allowed);
    }
    let window = settings.undelete_window;
    if window > limits::MAX_UNDELETE_WINDOW {
        let allowed = format!("0 to {} seconds", seconds(limits::MAX_UNDELETE_WINDOW));
        let problem = format!("is {} seconds", seconds(window));
        return refuse("settings.undelete_window", problem, allowed);
    }
    settings.dead_letters.as_ref().map_or(Ok(()), dead_letters)
}

fn dead_letters(wanted: &DeadLetters) -> Checked {
    queue_name(&wanted.queue)?;
    let (most, given) = (limits::DELIVERIES, wanted.max_deliveries);
    if most.contains(&given) {
        return Ok(());
    }
    let allowed = format!("{} to {}", most.start(), most.end());
    refuse("settings.max_deliveries", format!("is {given}"), allowed)
}

pub(super) fn message(message: &NewMessage) -> Checked {
    headers(&message.content)?;
    if !limits::PRIORITIES.contains(&message.priority) {
        let allowed = format!("{} to {}", limits::PRIORITIES.start(), limits::PRIORITIES.end());
        return refuse("priority", format!("is {}", message.priority), allowed);
    }
    if let Some(group) = &message.group
        && !limits::GROUP_NAME.contains(&group.len())
    {
        let allowed = format!("1 to {} bytes", limits::GROUP_NAME.end());
        return refuse("group", format!("has {} bytes", group.len()), allowed);
    }
    delay(message.delay)?;
    match message.ttl {
        TimeToLive::For(Span::ZERO) => refuse("ttl", "is 0".to_owned(), "more than 0, or never"),
        TimeToLive::For(ttl) if ttl <= message.delay => {
            refuse("delay", "is not shorter than the time to live".to_owned(), "less than ttl")
        }
        _ => Ok(()),
    }
}

fn delay(span: Span) -> Checked {
    if span <= limits::MAX_DELAY {
        return Ok(());
    }
    let allowed = format!("0 to {} seconds", seconds(limits::MAX_DELAY));
    refuse("delay", format!("is {} seconds", seconds(span)), allowed)
}

fn headers(content: &Content) -> Checked {
    map_fits("headers", &content.headers, limits::HEADER_BYTES)
}

pub(super) fn metadata(metadata: &StringMap) -> Checked {
    map_fits("metadata", metadata, limits::METADATA_BYTES)
}

fn map_fits(field: &str, map: &StringMap, most: usize) -> Checked {
    if map.contains_key("") {
        return refuse(field, "has an empty name".to_owned(), "names of 1 byte and more");
    }
    let bytes: usize = map.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > most {
        let allowed = format!("up to {most} bytes of names and values");
        return refuse(field, format!("has {bytes} bytes"), allowed);
    }
    Ok(())
}

fn batch(field: &str, size: usize) -> Checked {
    if (1..=limits::BATCH).contains(&size) {
        return Ok(());
    }
    refuse(field, format!("is {size}"), format!("1 to {}", limits::BATCH))
}

fn visibility(field: &str, span: Option<Span>) -> Checked {
    match span {
        Some(span) if span > limits::MAX_VISIBILITY => {
            let allowed = format!("0 to {} seconds", seconds(limits::MAX_VISIBILITY));
            refuse(field, format!("is {} seconds", seconds(span)), allowed)
        }
        _ => Ok(()),
    }
}

/// Rounded up, so that what is too long never reads as allowed.
fn seconds(span: Span) -> u64 {
    span.0.div_ceil(1_000_000)
}

/// The name as an error shows it: short, whatever was sent.
fn quoted(name: &str) -> String {
    let short: String = name.chars().take(80).collect();
    format!("{short:?}")
}

fn refuse(field: &str, problem: String, allowed: impl Into<String>) -> Checked {
    let (field, allowed) = (field.to_owned(), allowed.into());
    Err(Rejection::InvalidArgument { field, problem, allowed })
}
