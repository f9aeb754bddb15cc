//! What an operator sets while faults go on, by dice of its own: the shape of the line between the
//! regions, and the region lease. In one seed of four there are shapes, in one of four leases.

use zoneq::storage::disk::faulty::Dice;

use super::{Operator, UNSHAPED, primary};
use crate::history::{Told, Verb};

/// Salt of the seeds in which the line is shaped.
const SHAPING: u64 = 0x7368_6170_6500;
/// Salt of the seeds with region leases.
const LEASING: u64 = 0x6c65_6173_6500;

pub struct Settings {
    /// Decides how the line is shaped, where it is at all.
    line: Option<Dice>,
    /// Decides the region lease, where there is one at all.
    lease: Option<Dice>,
}

impl Settings {
    pub fn of(seed: u64) -> Settings {
        let drawn = |salt: u64| {
            let mut dice = Dice::new(seed ^ salt);
            (dice.below(4) == 0).then_some(dice)
        };
        Settings { line: drawn(SHAPING), lease: drawn(LEASING) }
    }

    pub fn has_shapes(&self) -> bool {
        self.line.is_some()
    }

    /// How the line is to be from now on, where that changes: slower than what is written, or as
    /// it was.
    fn shape(&mut self) -> Option<Verb> {
        let line = self.line.as_mut()?;
        if line.below(3) > 0 {
            return None;
        }
        Some(match line.below(4) {
            0 => UNSHAPED,
            1 => Verb::Shape { bytes_per_second: 0, delay_ms: 100 + line.below(2_000) },
            _ => {
                let bytes_per_second = (4 + line.below(28)) << 10;
                Verb::Shape { bytes_per_second, delay_ms: line.below(300) }
            }
        })
    }

    /// How long the region lease is to be from now on, where that changes.
    fn lease(&mut self) -> Option<Verb> {
        let lease = self.lease.as_mut()?;
        if lease.below(4) > 0 {
            return None;
        }
        let ms = if lease.below(6) == 0 { 0 } else { 1_000 + lease.below(1_000) };
        Some(Verb::Lease { ms })
    }
}

impl Operator {
    /// Sets what the dice say, at the side that is the primary.
    pub async fn set(&mut self, sides: &[Option<Told>; 2]) {
        for verb in [self.settings.shape(), self.settings.lease()].into_iter().flatten() {
            if let Some(region) = primary(sides) {
                self.act(region, verb).await;
            }
        }
    }
}
