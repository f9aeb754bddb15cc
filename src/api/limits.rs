//! What one stream may have under way at a node.

use std::time::Duration;

/// Sends of one stream that may be in flight; beyond it no frame is read.
pub const STREAM_SENDS: usize = 4_096;
/// Deletes of one receive stream that may be in flight; beyond it no frame is read.
pub const STREAM_DELETES: usize = 256;
/// How long a send, a grant or a delete of a stream may take once it is proposed.
pub const STREAM_ITEM: Duration = Duration::from_secs(10);
/// Messages that a client may have asked for on one receive stream.
pub const STREAM_CREDIT: u32 = 10_000;
