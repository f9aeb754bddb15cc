//! A cluster's authority as a history has it, and back: what is judged of it, and no more.

use zoneq::cli::drill::history::{EpochId, Join, Part, Place, Taken};
use zoneq::queue::authority::replay::Replayed;
use zoneq::queue::authority::{Authority, LedgerLine, RegionEpoch, Role};
use zoneq::queue::ids::{Epoch, Number, Position, Span};

pub fn epoch_out(epoch: &RegionEpoch) -> EpochId {
    (epoch.number.0, epoch.region.clone())
}

pub fn epoch_in((number, region): EpochId) -> RegionEpoch {
    RegionEpoch { number: Epoch(number), region }
}

fn place_out(at: Position) -> Place {
    let Position { term, node, index } = at;
    Place { index, term, node }
}

fn place_in(at: Place) -> Position {
    let Place { index, term, node } = at;
    Position { term, node, index }
}

/// What is judged of an authority.
pub fn part(authority: &Authority) -> Part {
    let (role_at, other) = match &authority.role {
        Role::Sealed { at } => (Some(*at), None),
        Role::Released { to, at } => (Some(*at), Some(epoch_out(to))),
        Role::Fenced { by, at, .. } => (Some(*at), Some(epoch_out(by))),
        Role::Conflict { with, at, .. } => (Some(*at), Some((0, with.clone()))),
        _ => (None, None),
    };
    let join = |line: &LedgerLine| Join {
        epoch: epoch_out(&line.epoch),
        previous: line.previous.map(place_out),
        first: line.first.map(place_out),
    };
    let taken = |it: &Replayed| Taken {
        epoch: epoch_out(&it.epoch),
        through: it.through.0,
        sent: it.sent,
        skipped: it.skipped,
        done: it.done,
    };
    Part {
        lineage: authority.lineage,
        region: authority.region.clone(),
        role: authority.role.name().to_owned(),
        role_at: role_at.map(place_out),
        other,
        epoch: epoch_out(&authority.epoch),
        ledger: authority.ledger.iter().map(join).collect(),
        applied_through: authority.applied_through.map(place_out),
        lease: authority.leasing.in_force.map(|span| span.0),
        replayed: authority.replayed.iter().map(taken).collect(),
    }
}

/// The authority of which that was told; a role that has no name is refused.
pub fn authority(part: Part) -> Result<Authority, String> {
    let at = place_in(part.role_at.unwrap_or_default());
    let other = part.other.map(epoch_in).unwrap_or_default();
    let role = match part.role.as_str() {
        "standalone" => Role::Standalone,
        "primary" => Role::Primary,
        "sealed" => Role::Sealed { at },
        "released" => Role::Released { to: other, at },
        "secondary" => Role::Secondary,
        "fenced" => Role::Fenced { by: other, fork: None, at },
        "conflict" => Role::Conflict { with: other.region, fork: None, at },
        "detached" => Role::Detached,
        word => return Err(format!("a region is no {word}")),
    };
    let line = |join: Join| LedgerLine {
        epoch: epoch_in(join.epoch),
        previous: join.previous.map(place_in),
        first: join.first.map(place_in),
        next_number: 0,
    };
    let replayed = |it: Taken| Replayed {
        epoch: epoch_in(it.epoch),
        through: Number(it.through),
        sent: it.sent,
        skipped: it.skipped,
        done: it.done,
    };
    let mut authority = Authority {
        lineage: part.lineage,
        region: part.region,
        role,
        epoch: epoch_in(part.epoch),
        ledger: part.ledger.into_iter().map(line).collect(),
        applied_through: part.applied_through.map(place_in),
        replayed: part.replayed.into_iter().map(replayed).collect(),
        ..Authority::default()
    };
    authority.leasing.in_force = part.lease.map(Span);
    Ok(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_is_read_as_it_was_written() {
        let at = Position { term: 2, node: 3, index: 4 };
        let to = RegionEpoch { number: Epoch(5), region: "west".to_owned() };
        let roles = [
            Role::Standalone,
            Role::Primary,
            Role::Sealed { at },
            Role::Released { to: to.clone(), at },
            Role::Secondary,
            Role::Fenced { by: to, fork: None, at },
            Role::Conflict { with: "west".to_owned(), fork: None, at },
            Role::Detached,
        ];
        assert_eq!(roles.each_ref().map(Role::name), Role::NAMES);
        for role in roles {
            let written = Authority { role, ..Authority::default() };
            assert_eq!(authority(part(&written)).as_ref(), Ok(&written));
        }
        assert!(authority(Part { role: "king".to_owned(), ..Part::default() }).is_err());
    }
}
