//! What the two regions say to each other.

use bytes::Bytes;
use prost::Message as _;
use zoneq::geo::pair::{all_lacking, lacking, not_sent_from, way_from, way_to};
use zoneq::geo::{inventory, wire};
use zoneq::proto::geo::v1 as geo;
use zoneq::proto::log::v1 as log;
use zoneq::queue::authority::command::RegionVerb;
use zoneq::queue::authority::fork::first_unshared;
use zoneq::queue::command::{Command, Envelope};
use zoneq::queue::ids::{ContentId, Epoch, Number, Span};
use zoneq::storage::{codec, keys};

use super::peers::milestones;
use super::{bytes, commit, first_line, kinds, of_kind, region, secondary, stocked};

kinds! {
    /// Every message of an rpc between regions that has fields.
    REGIONS:
    geo.ShipRequest => |it: geo::ShipRequest| {
        use geo::ship_request::Message;
        match it.message {
            Some(Message::Hello(hello)) => is_id(&hello.lineage) && is_id(&hello.attachment),
            Some(Message::Batch(batch)) => shipped_batch(&batch.content),
            None => false,
        }
    },
    geo.ShipResponse => |it: geo::ShipResponse| wire::copy_end(&it).is_ok(),
    geo.GetStatusRequest => |it: geo::GetStatusRequest| {
        let (state, _) = stocked();
        let (queues, _) = state.ahead(Number(it.next_message));
        assert_eq!(all_lacking(&queues), state.count_ahead(Number(it.next_message)));
        let _ = it.epoch.map(codec::epoch_from);
        true
    },
    geo.GetStatusResponse => status_said,
    geo.FenceRequest => |it: geo::FenceRequest| wire::fence(it).is_ok_and(|verb| agreed(verb, "")),
    geo.FenceResponse,
    geo.AttachRequest => |it: geo::AttachRequest| {
        let who = it.who.clone();
        let asked = wire::attach(it, "west".to_owned());
        asked.is_ok_and(|it| agreed(RegionVerb::Attach(it), &who))
    },
    geo.DetachRequest => |it: geo::DetachRequest| {
        let verb = if it.wipe { RegionVerb::Wipe } else { RegionVerb::Detach };
        is_id(&it.lineage) && agreed(verb, &it.who)
    },
    geo.HandOverRequest => |it: geo::HandOverRequest| is_id(&it.lineage),
    geo.DeclineRequest => |it: geo::DeclineRequest| {
        let verb = RegionVerb::Decline { number: Epoch(it.number) };
        is_id(&it.lineage) && agreed(verb, &it.who)
    },
    geo.SeedRequest => |it: geo::SeedRequest| {
        let Some(step) = it.step else { return false };
        codec::seed_from(wire::seed_step(step)).is_ok_and(|verb| agreed(verb, ""))
    },
    geo.SeedResponse,
    geo.AcceptLeaseRequest => |it: geo::AcceptLeaseRequest| {
        wire::accept_lease(&it).is_ok_and(|verb| is_id(&it.lineage) && agreed(verb, &it.who))
    },
    geo.GrantLeaseRequest => |it: geo::GrantLeaseRequest| {
        let state = secondary();
        let authority = state.authority().expect("a secondary");
        let Ok(attachment) = wire::narrow(&it.attachment, "the attachment") else { return false };
        let granted = authority.check_grant(attachment, Epoch(it.epoch), Span(it.lease_us));
        assert!(granted.is_err(), "none was agreed to");
        is_id(&it.lineage)
    },
    geo.ResolveRequest => |it: geo::ResolveRequest| {
        let verb = RegionVerb::Resolve { keep: it.keep, number: Epoch(it.number) };
        is_id(&it.lineage) && agreed(verb, &it.who)
    },
    geo.ReplayTailRequest => |mut it: geo::ReplayTailRequest| {
        // The checksum is made right: it is to be got past.
        it.crc32c = crc32c::crc32c(&it.content);
        let lineage = it.lineage.clone();
        let Ok((_, part)) = wire::tail_part(it) else { return false };
        if let Some(part) = part {
            let command = Command::ReplayTail(Box::new(part));
            let asked = Envelope { session: None, account: String::new(), command };
            commit(stocked().0, vec![asked]);
        }
        is_id(&lineage)
    },
    geo.ReplayTailResponse,
    geo.SendTailRequest => |it: geo::SendTailRequest| is_id(&it.lineage),
    geo.SendTailResponse => |it: geo::SendTailResponse| {
        it.not_sent.into_iter().all(|message| not_sent_from(message).is_some())
    },
    geo.InventoryRequest => |it: geo::InventoryRequest| {
        let (state, _) = stocked();
        let _ = inventory::of_seed(&secondary(), &it.groups);
        let taken = inventory::of(&state, &it.groups);
        assert!(it.groups.is_empty() || taken.sums.iter().all(|sum| {
            it.groups.iter().any(|group| group.as_ref() == inventory::group_of(&sum.key))
        }));
        is_id(&it.lineage) && is_id(&it.attachment)
    },
    geo.InventoryResponse => |it: geo::InventoryResponse| {
        let runs = inventory::Runs::from(&it.runs);
        let _ = [0, 9, u64::MAX].map(|id| runs.has(ContentId(id)));
        let seed = it.seed.unwrap_or_default();
        let _ = inventory::Runs::from(&seed.runs);
        let known = it.sums.iter().all(|sum| {
            inventory::group_of(&sum.key).len() <= sum.key.len()
                && keys::parse_row(&sum.key).is_none_or(|key| keys::row(&key) == sum.key)
        });
        known && wire::ledger_from(seed.ledger).is_ok()
    },
    geo.CompareRequest => |it: geo::CompareRequest| {
        let asked = it.milestones.unwrap_or_default();
        is_id(&it.lineage) && codec::compared_to(&milestones(), asked).is_ok()
    },
    geo.CompareResponse => |it: geo::CompareResponse| {
        codec::compared_from(&milestones(), it.compared.unwrap_or_default()).is_ok()
    },
    geo.CarryRequest => |it: geo::CarryRequest| {
        it.verb.is_some() && (it.lineage.is_empty() || is_id(&it.lineage))
    },
    geo.CarryResponse => |it: geo::CarryResponse| {
        let Some(way) = it.way else { return true };
        let (to, stages) = (way.to.clone(), way.stages.len());
        let told = way_to((way_from(way), None));
        assert_eq!((told.to, told.stages.len()), (to, stages));
        true
    },
}

fn is_id(bytes: &[u8]) -> bool {
    wire::narrow(bytes, "the id").is_ok()
}

/// A change that the other region asks for enters the log of a secondary, and of a cluster that
/// stands alone.
fn agreed(verb: RegionVerb, who: &str) -> bool {
    commit(secondary(), vec![region(verb.clone(), who.to_owned())]);
    commit(stocked().0, vec![region(verb, who.to_owned())]);
    true
}

/// The word of the other region on itself.
fn status_said(it: geo::GetStatusResponse) -> bool {
    if let Some(ahead) = &it.ahead {
        let queues = lacking(ahead, 7);
        assert!(queues.iter().all(|queue| queue.messages <= all_lacking(&queues)));
    }
    if let Some(shape) = it.shape {
        let shape = codec::shape_from(shape);
        for elapsed in [0, 1_000_000, u64::MAX] {
            let _ = shape.weather(Span(elapsed));
        }
        assert_eq!(codec::shape_from(codec::shape_to(&shape)), shape);
        let _ = shape.check();
    }
    let Ok(ledger) = wire::ledger_from(it.ledger) else { return false };
    let _ = first_unshared(&[first_line()], &ledger);
    let _ = secondary().authority().expect("a secondary").fork(&ledger);
    true
}

pub fn shipped_batch(data: &[u8]) -> bool {
    // The checksum is made right: it is to be got past.
    let batch = geo::Batch { crc32c: crc32c::crc32c(data), content: bytes(data) };
    let Ok(read) = wire::opened(batch) else { return false };
    let written = codec::batch_to(&read).encode_to_vec();
    let again = log::ApplyShipped::decode(Bytes::from(written)).expect("it is a message");
    assert_eq!(codec::batch_from(again).expect("what was written is read"), read);
    agreed(RegionVerb::ApplyShipped(read), "")
}

pub fn seed_step(data: &[u8]) -> bool {
    let Ok(request) = geo::SeedRequest::decode(data) else { return false };
    let Some(step) = request.step else { return false };
    let Ok(read) = codec::seed_from(wire::seed_step(step)) else { return false };
    assert_eq!(codec::seed_from(codec::seed_to(&read)).expect("what was written is read"), read);
    true
}

pub fn ledger_line(data: &[u8]) -> bool {
    let Ok(line) = log::LedgerLine::decode(data) else { return false };
    let Ok(read) = codec::line_from(line) else { return false };
    assert_eq!(codec::line_from(codec::line_to(&read)).expect("what was written is read"), read);
    true
}

pub fn tail_part(data: &[u8]) -> bool {
    let Ok(read) = codec::decode_replay(bytes(data)) else { return false };
    let again = codec::decode_replay(codec::encode_replay(&read));
    assert_eq!(again.expect("what was written is read"), read);
    true
}

pub fn geo_message(data: &[u8]) -> bool {
    of_kind(REGIONS, data)
}
