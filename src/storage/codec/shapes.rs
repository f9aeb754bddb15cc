//! The shape of a line, as it lies in the row of the authority and travels to the other region.

use crate::proto::log::v1 as pb;
use crate::queue::authority::shape::{Outage, Shape, TraceStep};
use crate::queue::ids::{LogTime, Span};

#[must_use]
pub fn shape_to(shape: &Shape) -> pb::Shape {
    let outage = |it: &Outage| pb::ShapeOutage {
        after_us: it.after.0,
        lasts_us: it.lasts.0,
        every_us: it.every.map(|span| span.0),
    };
    let step = |it: &TraceStep| pb::ShapeStep {
        at_us: it.at.0,
        delay_us: it.delay.0,
        bytes_per_second: it.bytes_per_second,
        down: it.is_down,
    };
    pb::Shape {
        delay_us: shape.delay.0,
        jitter_us: shape.jitter.0,
        bytes_per_second: shape.bytes_per_second,
        paused: shape.paused,
        since_us: shape.since.0,
        outages: shape.outages.iter().map(outage).collect(),
        trace: shape.trace.iter().map(step).collect(),
        trace_repeats_us: shape.trace_repeats.map(|span| span.0),
    }
}

/// Reads what [`shape_to`] wrote.
#[must_use]
pub fn shape_from(shape: pb::Shape) -> Shape {
    let outage = |it: pb::ShapeOutage| Outage {
        after: Span(it.after_us),
        lasts: Span(it.lasts_us),
        every: it.every_us.map(Span),
    };
    let step = |it: pb::ShapeStep| TraceStep {
        at: Span(it.at_us),
        delay: Span(it.delay_us),
        bytes_per_second: it.bytes_per_second,
        is_down: it.down,
    };
    Shape {
        delay: Span(shape.delay_us),
        jitter: Span(shape.jitter_us),
        bytes_per_second: shape.bytes_per_second,
        paused: shape.paused,
        since: LogTime(shape.since_us),
        outages: shape.outages.into_iter().map(outage).collect(),
        trace: shape.trace.into_iter().map(step).collect(),
        trace_repeats: shape.trace_repeats_us.map(Span),
    }
}
