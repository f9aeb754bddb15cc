//! What is set about the line between the regions, between the messages and our types.

use tonic::Status;

use crate::api::grpc::convert::{duration, lasting, span, timestamp};
use crate::geo::pair::{LimitChange, PairStatus, ShapeChange, Shaped};
use crate::proto::admin::v1 as pb;
use crate::queue::authority::Authority;
use crate::queue::authority::shape::{Outage, TraceStep};
use crate::queue::ids::Span;

type Read<T> = Result<T, Box<Status>>;
type Given = Option<prost_types::Duration>;

/// What was agreed about region leases, where one was ever asked for.
pub fn lease_out(status: &PairStatus, authority: &Authority) -> Option<pb::RegionLease> {
    let (wanted, leasing) = (authority.settings.lease, authority.leasing);
    let lease = pb::RegionLease {
        wanted: wanted.map(duration),
        in_force: leasing.in_force.map(duration),
        left: status.lease_left.filter(|_| leasing.in_force.is_some()).map(lasting),
        longest: leasing.longest.map(duration),
        stopped: leasing.stopped.is_some(),
    };
    (lease != pb::RegionLease::default()).then_some(lease)
}

pub fn shape_out(shaped: &Shaped) -> pb::LineShape {
    let shape = &shaped.shape;
    let outage = |it: &Outage| pb::LineOutage {
        after: Some(duration(it.after)),
        lasts: Some(duration(it.lasts)),
        every: it.every.map(duration),
    };
    let step = |it: &TraceStep| pb::LineStep {
        at: Some(duration(it.at)),
        delay: Some(duration(it.delay)),
        bytes_per_second: it.bytes_per_second,
        down: it.is_down,
    };
    pb::LineShape {
        delay: Some(duration(shape.delay)),
        jitter: Some(duration(shape.jitter)),
        bytes_per_second: shape.bytes_per_second,
        paused: shape.paused,
        since: Some(timestamp(shape.since)),
        outages: shape.outages.iter().map(outage).collect(),
        trace: shape.trace.iter().map(step).collect(),
        trace_repeats: shape.trace_repeats.map(duration),
        down: shaped.is_down,
    }
}

/// The limits of the lag, where there are any.
pub fn limit_out(status: &PairStatus, authority: &Authority) -> Option<pb::LagLimit> {
    let settings = &authority.settings;
    let has_any = settings.max_lag.is_some() || settings.max_unshipped_bytes.is_some();
    has_any.then(|| pb::LagLimit {
        max_lag: settings.max_lag.map(duration),
        max_unshipped_bytes: settings.max_unshipped_bytes,
        throttle: settings.throttle,
        passed: status.lag_trouble.is_some(),
    })
}

pub fn limit_in(asked: &pb::SetLagLimitRequest) -> Read<LimitChange> {
    let max_lag = given("max_lag", asked.max_lag)?;
    Ok(LimitChange {
        max_lag: max_lag.map(|lag| (lag > Span::ZERO).then_some(lag)),
        max_unshipped_bytes: asked.max_unshipped_bytes.map(|it| (it > 0).then_some(it)),
        throttle: asked.throttle,
    })
}

fn given(field: &str, value: Given) -> Read<Option<Span>> {
    span(field, value).map_err(|refusal| Box::new(refusal.into()))
}

fn needed(field: &str, value: Given) -> Read<Span> {
    Ok(given(field, value)?.unwrap_or(Span::ZERO))
}

fn outage_in(outage: pb::LineOutage) -> Read<Outage> {
    Ok(Outage {
        after: needed("outages.after", outage.after)?,
        lasts: needed("outages.lasts", outage.lasts)?,
        every: given("outages.every", outage.every)?,
    })
}

fn step_in(step: pb::LineStep) -> Read<TraceStep> {
    Ok(TraceStep {
        at: needed("trace.at", step.at)?,
        delay: needed("trace.delay", step.delay)?,
        bytes_per_second: step.bytes_per_second,
        is_down: step.down,
    })
}

/// Bounds are checked where the shape is set.
pub fn change_in(asked: pb::ShapeLineRequest) -> Read<ShapeChange> {
    let outages = asked.outages.map(|it| it.outages.into_iter().map(outage_in).collect());
    let trace = asked.trace.map(|it| {
        let steps = it.steps.into_iter().map(step_in).collect::<Read<Vec<_>>>()?;
        Ok::<_, Box<Status>>((steps, given("trace.repeats", it.repeats)?))
    });
    Ok(ShapeChange {
        is_off: asked.off,
        delay: given("delay", asked.delay)?,
        jitter: given("jitter", asked.jitter)?,
        bytes_per_second: asked.bytes_per_second.map(|rate| (rate > 0).then_some(rate)),
        paused: asked.paused,
        outages: outages.transpose()?,
        trace: trace.transpose()?,
    })
}
