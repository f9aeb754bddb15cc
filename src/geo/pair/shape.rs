//! How the operator shapes the line, and how both sides hear of it.

use std::time::Duration;

use super::Pair;
use super::toward::elsewhere;
use crate::geo::error::PairError;
use crate::geo::failover::MAX_PAUSE;
use crate::geo::shaper;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::shape::{Outage, Shape, TraceStep};
use crate::queue::authority::{Authority, RegionSettings, Role};
use crate::queue::ids::{LogTime, Span};
use crate::storage::codec;

/// What changes of a shape; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShapeChange {
    /// All that was before is gone first.
    pub is_off: bool,
    pub delay: Option<Span>,
    pub jitter: Option<Span>,
    /// `Some(None)` = as fast as the line is.
    pub bytes_per_second: Option<Option<u64>>,
    pub paused: Option<bool>,
    /// These, from now on.
    pub outages: Option<Vec<Outage>>,
    /// This trace from now on, and after how long it begins again.
    pub trace: Option<(Vec<TraceStep>, Option<Span>)>,
}

/// A line that is shaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaped {
    pub shape: Shape,
    /// It lets nothing through just now.
    pub is_down: bool,
}

impl ShapeChange {
    /// The shape that a line has after this change of it. Its bounds are not checked.
    #[must_use]
    pub fn over(self, before: &Shape, now: LogTime) -> Shape {
        let mut shape = if self.is_off { Shape::default() } else { before.clone() };
        let restarts = self.outages.is_some() || self.trace.is_some();
        shape.delay = self.delay.unwrap_or(shape.delay);
        shape.jitter = self.jitter.unwrap_or(shape.jitter);
        shape.bytes_per_second = self.bytes_per_second.unwrap_or(shape.bytes_per_second);
        shape.paused = self.paused.unwrap_or(shape.paused);
        shape.outages = self.outages.unwrap_or(shape.outages);
        if let Some((trace, repeats)) = self.trace {
            (shape.trace, shape.trace_repeats) = (trace, repeats);
        }
        if restarts {
            shape.since = now;
        }
        shape
    }
}

impl Pair {
    /// Shapes the line from this primary, live.
    ///
    /// # Errors
    /// Refused by the role, or for what is out of its bounds.
    pub async fn shape(&self, who: &str, change: ShapeChange) -> Result<(), PairError> {
        let authority = self.in_pair()?;
        if authority.role != Role::Primary {
            let why = format!(
                "the line is shaped at the primary: this cluster is {}",
                authority.role.name()
            );
            return Err(elsewhere(&why, &authority, "shape"));
        }
        let not_leading = || PairError::not_now("this node does not lead");
        let now = self.group.stamp().ok_or_else(not_leading)?;
        self.configure(who, |settings| {
            let shape = change.clone().over(&settings.shape, now);
            shape.check().map_err(|refusal| PairError::Refused(refusal.to_string()))?;
            Ok(RegionSettings { shape, ..settings })
        })
        .await
    }

    /// How the line is shaped, by this side's own word or by the other one's; only a primary
    /// shapes one.
    pub(super) fn shaped(
        &self,
        own: Option<&Authority>,
        heard: Option<&pb::GetStatusResponse>,
    ) -> Option<Shaped> {
        let own = own?;
        if own.role == Role::Secondary {
            let theirs = heard?;
            let shape = codec::shape_from(theirs.shape.clone()?);
            return Some(Shaped { shape, is_down: theirs.line_is_down });
        }
        let ships = matches!(own.role, Role::Primary | Role::Sealed { .. } | Role::Released { .. });
        let weather = shaper::weather(&self.group, own).filter(|_| ships)?;
        Some(Shaped { shape: own.settings.shape.clone(), is_down: weather.is_down })
    }

    /// A planned failover over such a line would let writes rest and then be taken back.
    pub(super) fn check_line(&self, authority: &Authority) -> Result<(), PairError> {
        let Some(weather) = shaper::weather(&self.group, authority) else { return Ok(()) };
        let slow = weather.delay.0.saturating_add(weather.jitter.0);
        if weather.is_down || Duration::from_micros(slow) >= MAX_PAUSE {
            return Err(PairError::not_now(
                "the line is shaped, and lets nothing through in the time that writes may rest: \
                 region shape --off ends that",
            ));
        }
        Ok(())
    }
}
