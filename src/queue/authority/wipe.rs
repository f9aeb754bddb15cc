//! How a kept copy is given up: everything goes, and what is left is a cluster that may be attached
//! to any primary, or used by itself.
//!
//! Law: only a copy that follows nobody is wiped, and only by name; the audit stays. As where a
//! whole state is taken, one entry names every row: nobody reads or writes there meanwhile who
//! could be kept waiting.

use super::command::RegionVerb;
use super::refusal::RegionRefusal;
use super::seed::free_last;
use super::transition::{is_empty, keep, wrong_role};
use super::{Authority, Role};
use crate::queue::outcome::{Changes, ContentEvent};
use crate::queue::state::State;

/// Wipes a kept copy; whether there was anything to wipe.
///
/// # Errors
/// Refused in any role but a kept copy's, and where that is being given a state.
pub fn run(state: &mut State, changes: &mut Changes) -> Result<bool, RegionRefusal> {
    let Some(before) = state.authority.as_deref().cloned() else {
        return nothing_left(state, &Role::Standalone);
    };
    match before.role {
        Role::Detached if before.seeding.is_some() => return Err(RegionRefusal::Seeding),
        Role::Detached => {}
        role => return nothing_left(state, &role),
    }
    while free_last(state, changes).is_some() {}
    changes.rows.extend(state.row_keys());
    changes.rows.extend(state.grave_keys());
    changes.contents.push(ContentEvent::Switch);
    let audit = std::mem::take(&mut state.audit);
    *state = State::new();
    state.audit = audit;
    let next = Authority {
        region: before.region,
        // The revision and the audit go on, so that a restart tells a lost row.
        revision: before.revision,
        next_audit: before.next_audit,
        high_contents: !before.high_contents,
        ..Authority::default()
    };
    keep(state, next, changes);
    Ok(true)
}

/// What was wiped already is wiped.
fn nothing_left(state: &State, role: &Role) -> Result<bool, RegionRefusal> {
    if *role == Role::Standalone && is_empty(&state.counters) {
        return Ok(false);
    }
    Err(wrong_role(role, &RegionVerb::Wipe))
}
