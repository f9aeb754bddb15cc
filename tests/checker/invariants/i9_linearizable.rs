//! I9: each queue is linearizable. The log is the order: every answered call has a T in it, and
//! that order must agree with real time and with what the calls were answered.
//!
//! * `real_time`: who began after another was answered comes later. No stale leader answers.
//! * `queues`: a queue is there, paused, and set as the last calls left it; one that was deleted
//!   comes back while its window lasts, and no longer.
//! * `receives`: a receive gives the first messages in the order of the queue, and fewer than
//!   asked for, or none, only where there is a moment at which no more were visible.
//! * `groups`: of a group only the first is given out.
//! * `reads`: a read shows the state at its T, and counts what is there.
//! * `redrives`: a queue has one redrive at a time, which is as the last calls left it.
//! * `accounts`: no account is sent more than it may hold, and none is refused less.
//! * `orders`: of the calls of one short queue there is an order that explains all of them, whatever
//!   servers said of their positions and times.
//!
//! A call of unknown outcome is allowed to have acted once, or not at all, anywhere between its
//! beginning and what its session did next; what it may have touched is in doubt meanwhile, and
//! no doubt is held against the history.

mod accounts;
mod groups;
mod orders;
mod queues;
mod reads;
mod real_time;
mod receives;
mod redrives;

use crate::story::Story;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let parts = [
        real_time::check,
        queues::check,
        receives::check,
        groups::check,
        reads::check,
        redrives::check,
        accounts::check,
        orders::check,
    ];
    parts.iter().flat_map(|part| part(story)).collect()
}
