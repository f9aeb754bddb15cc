//! How the line between the regions is made to behave, to rehearse a real pair of regions.
//!
//! Laws: a shape only holds back what is shipped; it changes nothing and drops nothing. What it
//! is at a moment follows from the shape and from the time since it was set, so every leader
//! makes the same line of it. It is bounded: it lies in the row of the authority.

use super::refusal::RegionRefusal;
use crate::queue::ids::{LogTime, Span};
use crate::queue::limits::{LINE_OUTAGES, LINE_SPAN, LINE_TRACE_STEPS};

/// A line as an operator shaped it. Outages and the trace count from `since`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub delay: Span,
    pub jitter: Span,
    /// `None` = as fast as the line is.
    pub bytes_per_second: Option<u64>,
    pub paused: bool,
    /// When outages and trace were set, by the primary's log clock.
    pub since: LogTime,
    pub outages: Vec<Outage>,
    /// In order; from each offset on the line is so. It has the say over delay and bandwidth.
    pub trace: Vec<TraceStep>,
    /// The trace begins again after this long; `None` = its last step stays.
    pub trace_repeats: Option<Span>,
}

/// Nothing passes for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    pub after: Span,
    pub lasts: Span,
    /// Once in each such time; `None` = once.
    pub every: Option<Span>,
}

/// From an offset on the line is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceStep {
    pub at: Span,
    pub delay: Span,
    pub bytes_per_second: Option<u64>,
    pub is_down: bool,
}

/// The line at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    pub delay: Span,
    pub jitter: Span,
    pub bytes_per_second: Option<u64>,
    /// Nothing passes.
    pub is_down: bool,
}

impl Shape {
    /// Whether the line is shaped at all.
    #[must_use]
    pub fn is_shaped(&self) -> bool {
        *self != Shape { since: self.since, ..Shape::default() }
    }

    /// The line so long after `since`.
    #[must_use]
    pub fn weather(&self, elapsed: Span) -> Weather {
        let plain = Weather {
            delay: self.delay,
            jitter: self.jitter,
            bytes_per_second: self.bytes_per_second,
            is_down: self.paused || self.outages.iter().any(|outage| outage.is_at(elapsed)),
        };
        match self.step(elapsed) {
            None => plain,
            Some(step) => Weather {
                delay: step.delay,
                bytes_per_second: step.bytes_per_second,
                is_down: plain.is_down || step.is_down,
                ..plain
            },
        }
    }

    fn step(&self, elapsed: Span) -> Option<&TraceStep> {
        let offset = match self.trace_repeats {
            Some(Span(period)) if period > 0 => Span(elapsed.0 % period),
            _ => elapsed,
        };
        self.trace.iter().rev().find(|step| step.at <= offset)
    }

    /// Whether a shape is in its bounds.
    ///
    /// # Errors
    /// The field that is not.
    pub fn check(&self) -> Result<(), RegionRefusal> {
        let refuse = |field: &str, problem: &str| {
            Err(RegionRefusal::BadField { field: field.to_owned(), problem: problem.to_owned() })
        };
        let rates = self.trace.iter().map(|step| step.bytes_per_second);
        if rates.chain([self.bytes_per_second]).flatten().any(|rate| rate < 1_024) {
            return refuse("bandwidth", "is less than 1 KiB/s");
        }
        let delays = self.trace.iter().map(|step| step.delay);
        if delays.chain([self.delay, self.jitter]).any(|delay| delay > LINE_SPAN) {
            return refuse("delay or jitter", "is longer than a day");
        }
        if self.outages.len() > LINE_OUTAGES {
            return refuse("outages", "are more than 32");
        }
        let is_wrong =
            |it: &Outage| it.lasts == Span::ZERO || it.every.is_some_and(|every| every <= it.lasts);
        if self.outages.iter().any(is_wrong) {
            return refuse(
                "outage",
                "lasts no time, or as long as the time after which it returns",
            );
        }
        if self.trace.len() > LINE_TRACE_STEPS {
            return refuse("trace", "has more than 256 steps");
        }
        if !self.trace.is_sorted_by(|one, next| one.at < next.at) {
            return refuse("trace", "has steps out of order");
        }
        let last = self.trace.last().map(|step| step.at);
        if self.trace_repeats.is_some_and(|period| last.is_none_or(|last| period <= last)) {
            return refuse("trace", "begins again before its last step");
        }
        Ok(())
    }
}

impl Outage {
    fn is_at(&self, elapsed: Span) -> bool {
        let Some(past) = elapsed.0.checked_sub(self.after.0) else { return false };
        match self.every {
            Some(Span(every)) if every > 0 => past % every < self.lasts.0,
            _ => past < self.lasts.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Span {
        Span::from_secs(secs)
    }

    fn down_at(shape: &Shape) -> Vec<u64> {
        (0..30).filter(|at| shape.weather(secs(*at)).is_down).collect()
    }

    #[test]
    fn outages_come_once_or_again_and_again() {
        let once = Outage { after: secs(3), lasts: secs(2), every: None };
        let again = Outage { after: secs(10), lasts: secs(1), every: Some(secs(5)) };
        let shape = Shape { outages: vec![once, again], ..Shape::default() };
        assert_eq!(down_at(&shape), [3, 4, 10, 15, 20, 25]);
        assert!(shape.is_shaped() && shape.check().is_ok());
        let paused = Shape { paused: true, ..Shape::default() };
        assert_eq!(down_at(&paused).len(), 30);
        let later = Shape { since: LogTime(9), ..Shape::default() };
        assert!(!later.is_shaped(), "that it was shaped once is no shape");
    }

    #[test]
    fn a_trace_says_how_the_line_is_from_each_offset_on() {
        let step = |at, delay, is_down: bool| TraceStep {
            at: secs(at),
            delay: secs(delay),
            bytes_per_second: is_down.then_some(2_048),
            is_down,
        };
        let trace = vec![step(2, 7, false), step(5, 0, true), step(8, 1, false)];
        let mut shape = Shape { delay: secs(3), trace, ..Shape::default() };
        let delay = |shape: &Shape, at| shape.weather(secs(at)).delay;
        assert_eq!([0, 2, 4, 8, 90].map(|at| delay(&shape, at)), [3, 7, 7, 1, 1].map(secs));
        assert_eq!(down_at(&shape), [5, 6, 7]);
        shape.trace_repeats = Some(secs(10));
        assert_eq!(down_at(&shape), [5, 6, 7, 15, 16, 17, 25, 26, 27]);
        assert!(shape.check().is_ok());
        shape.trace_repeats = Some(secs(8));
        assert!(shape.check().is_err(), "it must reach its last step");
    }

    #[test]
    fn a_shape_has_bounds() {
        let outage = |lasts, every| Shape {
            outages: vec![Outage { after: secs(0), lasts: secs(lasts), every }],
            ..Shape::default()
        };
        let many = outage(1, None).outages.repeat(LINE_OUTAGES + 1);
        let steps = |count: u64| {
            (0..count).map(|at| TraceStep { at: secs(at), ..TraceStep::default() }).collect()
        };
        let wrong = [
            Shape { bytes_per_second: Some(1_023), ..Shape::default() },
            Shape { delay: secs(86_401), ..Shape::default() },
            Shape { jitter: secs(86_401), ..Shape::default() },
            outage(0, None),
            outage(5, Some(secs(5))),
            Shape { outages: many, ..Shape::default() },
            Shape { trace: steps(257), ..Shape::default() },
            Shape { trace: vec![TraceStep::default(); 2], ..Shape::default() },
            Shape { trace_repeats: Some(secs(5)), ..Shape::default() },
        ];
        for shape in wrong {
            assert!(shape.check().is_err(), "{shape:?}");
        }
        assert!(Shape { trace: steps(256), ..Shape::default() }.check().is_ok());
    }
}
