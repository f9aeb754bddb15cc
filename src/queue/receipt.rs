//! Who may change a message: the holder of its newest pop receipt.
//!
//! Laws: a receipt comes from a send, a grant or an update, and each makes all earlier ones of
//! that message void. It does not end with the lease: until somebody else is given the message,
//! the last holder may still delete or extend it. A message past its expiry does not exist for
//! any receipt, whether or not a pulse has removed it yet.

use super::ids::{LogTime, MessageId, Receipt};
use super::message::Message;
use super::order::Lineup;

/// Why a receipt does not open its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    NotFound,
    Mismatch,
}

/// The message that `receipt` may change now.
///
/// # Errors
/// [`Closed`]: the message does not exist, or the receipt is not its newest.
pub fn open(
    lineup: &Lineup,
    id: MessageId,
    receipt: Receipt,
    now: LogTime,
) -> Result<Message, Closed> {
    let message = lineup
        .find(id.number)
        .filter(|message| message.epoch == id.epoch && !message.is_due(now))
        .ok_or(Closed::NotFound)?;
    if message.receipt != receipt && !crate::mutants::is_chosen("old-receipt") {
        return Err(Closed::Mismatch);
    }
    Ok(message)
}
