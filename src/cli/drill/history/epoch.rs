//! A region's epoch, as a history has it: its number and its region.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::queue::authority::RegionEpoch;
use crate::queue::ids::Epoch;

/// Writes it.
///
/// # Errors
/// What is written to refuses.
pub fn serialize<S: Serializer>(epoch: &RegionEpoch, to: S) -> Result<S::Ok, S::Error> {
    (epoch.number.0, &epoch.region).serialize(to)
}

/// Reads it.
///
/// # Errors
/// It is none.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RegionEpoch, D::Error> {
    let (number, region) = Deserialize::deserialize(from)?;
    Ok(RegionEpoch { number: Epoch(number), region })
}
