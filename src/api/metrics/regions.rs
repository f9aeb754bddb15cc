//! The pair of regions, as this cluster knows it: the same that `zoneq region status` shows.
//!
//! Laws: what stands in the replicated state every node tells; how far the copy is only the leader
//! knows. The last sync time is rounded down, so that it is never later than the truth.

use super::Sources;
use super::page::Page;
use crate::proto::admin::v1 as pb;
use crate::queue::authority::Role;

const STATUSES: [(pb::GeoStatus, &str); 3] = [
    (pb::GeoStatus::Live, "live"),
    (pb::GeoStatus::Bootstrap, "bootstrap"),
    (pb::GeoStatus::Unavailable, "unavailable"),
];

pub(super) fn fill(page: &mut Page, sources: &Sources) {
    let status = sources.region.here();
    let leads = sources.group.leadership().borrow().is_me;
    let standing = sources.group.standing();
    let role = standing.as_ref().map_or(Role::Standalone.name(), |it| it.authority.role.name());
    let help = "What the cluster is in its pair of regions: 1 for the role that it has.";
    page.one_of("zoneq_geo_role", help, "role", &Role::NAMES, role);
    let help = "1 where clients may write as far as regions go.";
    page.flag("zoneq_geo_writable", help, status.writable);
    let help = "1 while another region is attached.";
    page.flag("zoneq_geo_protected", help, !status.peer.is_empty());
    if leads {
        let labels = [("redundancy", status.redundancy.as_str())];
        let help = "Always 1; the label names what the cluster survives; told by the leader.";
        page.gauge_of("zoneq_geo_redundancy_info", help, &labels, 1.0);
    }
    let Some(epoch) = &status.epoch else { return };
    let help = "The number of the region epoch; it grows with every promotion.";
    page.gauge("zoneq_geo_epoch_number", help, f64::from(epoch.number));
    let labels = [
        ("region", status.region.as_str()),
        ("peer", &status.peer),
        ("epoch_region", &epoch.region),
    ];
    let help = "Always 1; the labels say which regions these are, and whose epoch it is.";
    page.gauge_of("zoneq_geo_pair_info", help, &labels, 1.0);
    let help = "1 where reads are allowed while the cluster is the secondary.";
    page.flag("zoneq_geo_read_access", help, status.read_access);
    lease(page, &status, leads);
    if leads {
        copy(page, &status);
        limit(page, &status);
        line(page, &status);
        if let Some(lag) =
            sources.group.behind().filter(|_| is_ahead(&status)).and_then(|it| it.lag)
        {
            let help = "How old the newest entry is that the secondary has; told by the \
                        primary's leader.";
            page.gauge("zoneq_geo_behind_seconds", help, lag.0 as f64 / 1e6);
        }
    }
}

/// Whether the cluster ships, or has done so lately.
fn is_ahead(status: &pb::GetRegionResponse) -> bool {
    let ahead = [pb::RegionRole::Primary, pb::RegionRole::Sealed, pb::RegionRole::Released];
    ahead.contains(&status.role())
}

/// How far the copy is.
fn copy(page: &mut Page, status: &pb::GetRegionResponse) {
    if status.status() != pb::GeoStatus::Unspecified {
        let words = STATUSES.map(|(_, word)| word);
        let holds = STATUSES.iter().find(|(known, _)| *known == status.status());
        let help = "How the copy does: 1 for the status that holds; told by the leader.";
        let holds = holds.map_or("", |(_, word)| word);
        page.one_of("zoneq_geo_copy_status", help, "status", &words, holds);
    }
    if let Some(at) = &status.last_sync_time {
        let help = "Everything committed up to then, in seconds since 1970, is in the secondary; \
                    rounded down; told by the leader.";
        page.gauge("zoneq_geo_last_sync_timestamp_seconds", help, at.seconds as f64);
    }
    let drain = status.drain.as_ref().map(seconds);
    let heard = status.heard_ago.as_ref().map(seconds);
    let count = |it: Option<u64>| it.map(|it| it as f64);
    for (name, help, value) in [
        (
            "zoneq_geo_behind_entries",
            "Entries of the primary's log that the secondary lacks; told by the leader.",
            count(status.entries_behind),
        ),
        (
            "zoneq_geo_behind_messages",
            "Messages that the primary has and the secondary lacks; told by the leader.",
            count(status.messages_behind),
        ),
        (
            "zoneq_geo_behind_bytes",
            "Bytes of the primary's log that the secondary lacks; told by the leader.",
            count(status.bytes_behind),
        ),
        (
            "zoneq_geo_drain_seconds",
            "About how long it takes to ship what waits; told by the leader.",
            drain,
        ),
        (
            "zoneq_geo_applied_through_index",
            "The entry of the primary's log up to which the secondary has it; told by the leader.",
            count(status.applied_through.as_ref().map(|it| it.index)),
        ),
        (
            "zoneq_geo_peer_heard_age_seconds",
            "How long ago the other region was heard; told by the leader.",
            heard,
        ),
    ] {
        if let Some(value) = value {
            page.gauge(name, help, value);
        }
    }
    let help = "1 while shipping stands still or is too far behind, the regions hold different \
                data, or this one is fenced or in conflict, for a reason that `region status` \
                says; told by the leader.";
    page.flag("zoneq_geo_trouble", help, !status.trouble.is_empty());
    if is_ahead(status) {
        let help = "Bytes of the state that this node gave its copy last, while it led.";
        page.gauge("zoneq_geo_copied_bytes", help, status.copied_bytes as f64);
    } else {
        let help = "1 once a secondary has had all that its primary had; told by the leader.";
        page.flag("zoneq_geo_complete", help, status.complete);
    }
}

fn lease(page: &mut Page, status: &pb::GetRegionResponse, leads: bool) {
    let lease = status.lease.as_ref();
    let of = |it: Option<&prost_types::Duration>| it.map_or(0.0, seconds);
    let help = "The region lease as it is set; 0 where there is none.";
    let wanted = lease.and_then(|it| it.wanted.as_ref());
    page.gauge("zoneq_geo_lease_wanted_seconds", help, of(wanted));
    let help = "The region lease that is relied on: nothing is acknowledged without; 0 where \
                there is none.";
    let in_force = lease.and_then(|it| it.in_force.as_ref());
    page.gauge("zoneq_geo_lease_in_force_seconds", help, of(in_force));
    if leads && in_force.is_some() && is_ahead(status) {
        let help = "What is left of the region lease that is held; 0 where none is; told by the \
                    primary's leader.";
        let left = lease.and_then(|it| it.left.as_ref());
        page.gauge("zoneq_geo_lease_left_seconds", help, of(left));
    }
}

/// How far the copy may be behind.
fn limit(page: &mut Page, status: &pb::GetRegionResponse) {
    let Some(limit) = &status.limit else { return };
    if let Some(most) = &limit.max_lag {
        let help = "How old the copy may be; absent without a limit; told by the leader.";
        page.gauge("zoneq_geo_limit_lag_seconds", help, seconds(most));
    }
    if let Some(most) = limit.max_unshipped_bytes {
        let help = "Bytes that the copy may lack; absent without a limit; told by the leader.";
        page.gauge("zoneq_geo_limit_unshipped_bytes", help, most as f64);
    }
    let help = "1 where writes wait beyond the limit; 0 where it is an alarm only.";
    page.flag("zoneq_geo_limit_throttles", help, limit.throttle);
    let help = "1 while the copy is further behind than the limit; told by the leader.";
    page.flag("zoneq_geo_limit_passed", help, limit.passed);
}

/// The line between the regions, where it is shaped.
fn line(page: &mut Page, status: &pb::GetRegionResponse) {
    let help =
        "1 while the line between the regions is shaped for a rehearsal; told by the leader.";
    page.flag("zoneq_geo_line_shaped", help, status.shape.is_some());
    let Some(shape) = &status.shape else { return };
    let help = "1 while the shaped line is paused.";
    page.flag("zoneq_geo_line_paused", help, shape.paused);
    let help = "1 while the shaped line lets nothing through, by a pause, an outage or its trace.";
    page.flag("zoneq_geo_line_down", help, shape.down);
    let of = |it: &Option<prost_types::Duration>| it.as_ref().map_or(0.0, seconds);
    let help = "How long the shaped line delays.";
    page.gauge("zoneq_geo_line_delay_seconds", help, of(&shape.delay));
    let help = "How much longer the shaped line may delay.";
    page.gauge("zoneq_geo_line_jitter_seconds", help, of(&shape.jitter));
    if let Some(rate) = shape.bytes_per_second {
        let help = "Bytes a second that the shaped line lets through; absent without a limit.";
        page.gauge("zoneq_geo_line_bytes_per_second", help, rate as f64);
    }
}

fn seconds(span: &prost_types::Duration) -> f64 {
    span.seconds as f64 + f64::from(span.nanos) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fill: impl FnOnce(&mut Page)) -> String {
        let mut page = Page::default();
        fill(&mut page);
        page.text().expect("text")
    }

    #[test]
    fn what_is_not_known_is_absent_and_never_zero() {
        let status = pb::GetRegionResponse {
            role: pb::RegionRole::Primary.into(),
            status: pb::GeoStatus::Unavailable.into(),
            ..pb::GetRegionResponse::default()
        };
        let told = text(|page| copy(page, &status));
        for name in ["last_sync", "behind", "drain", "applied_through", "peer_heard"] {
            let name = format!("zoneq_geo_{name}_");
            assert!(!told.contains(&name), "{name} in {told}");
        }
        assert!(told.contains("zoneq_geo_copy_status{status=\"unavailable\"} 1\n"), "{told}");
        assert!(told.contains("zoneq_geo_copy_status{status=\"live\"} 0\n"), "{told}");
        assert!(text(|page| limit(page, &status)).is_empty(), "no limit");
        let line = text(|page| line(page, &status));
        assert!(line.contains("zoneq_geo_line_shaped 0\n") && !line.contains("paused"), "{line}");
    }

    #[test]
    fn a_secondary_tells_all_that_a_primary_tells_of_the_copy() {
        let status = pb::GetRegionResponse {
            role: pb::RegionRole::Secondary.into(),
            entries_behind: Some(3),
            bytes_behind: Some(3_000),
            drain: Some(prost_types::Duration { seconds: 4, nanos: 0 }),
            applied_through: Some(pb::LogPlace { epoch: None, index: 17 }),
            ..pb::GetRegionResponse::default()
        };
        let told = text(|page| copy(page, &status));
        for line in
            ["behind_entries 3", "behind_bytes 3000", "drain_seconds 4", "applied_through_index 17"]
        {
            assert!(told.contains(&format!("zoneq_geo_{line}\n")), "{line} in {told}");
        }
    }

    #[test]
    fn the_last_sync_time_is_rounded_down() {
        let at = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 999_999_999 };
        let status =
            pb::GetRegionResponse { last_sync_time: Some(at), ..pb::GetRegionResponse::default() };
        let told = text(|page| copy(page, &status));
        assert!(told.contains("zoneq_geo_last_sync_timestamp_seconds 1700000000\n"), "{told}");
    }
}
