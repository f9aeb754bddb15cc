//! The zone rule: which voter sets survive the loss of any one zone, and the redundancy name
//! that a topology has.
//!
//! The law: `voters - largest zone >= voters / 2 + 1`, so a majority is left whichever zone is
//! lost, and every commit is fsynced in at least two zones. The name is derived from the
//! topology, never stored.
//!
//! Refuses an empty voter set, and one zone unless it is asked for by name.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How a cluster is spread, by the name operators know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Redundancy {
    /// All voters share one zone: it must be asked for by name.
    Local,
    /// Any one zone may be lost.
    Zone,
    /// Several zones, but one of them holds too many voters to be lost.
    Degraded,
}

impl Redundancy {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Redundancy::Local => "LRS",
            Redundancy::Zone => "ZRS",
            Redundancy::Degraded => "degraded",
        }
    }
}

impl fmt::Display for Redundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an operator asks a topology to be.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// One zone is enough.
    Lrs,
    /// Any one zone may be lost.
    #[default]
    Zrs,
}

/// Not a redundancy that can be asked for.
#[derive(Debug, thiserror::Error)]
#[error("redundancy {0:?} is not lrs or zrs")]
pub struct UnknownRedundancy(String);

impl FromStr for Wanted {
    type Err = UnknownRedundancy;

    fn from_str(text: &str) -> Result<Wanted, UnknownRedundancy> {
        match text.to_ascii_lowercase().as_str() {
            "lrs" => Ok(Wanted::Lrs),
            "zrs" => Ok(Wanted::Zrs),
            _ => Err(UnknownRedundancy(text.to_owned())),
        }
    }
}

/// Why a voter set is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    #[error("a cluster needs at least one voter")]
    Empty,
    #[error(
        "all {voters} voters are in zone {zone}, so losing that zone stops the cluster; spread \
         them over three zones, or ask for redundancy lrs by name"
    )]
    OneZone { voters: usize, zone: String },
    #[error(
        "zone {zone} holds {held} of {voters} voters; without it {left} are left and a majority \
         is {majority}, so losing that zone stops the cluster"
    )]
    Unbalanced { zone: String, held: usize, voters: usize, left: usize, majority: usize },
}

/// The name of the topology whose voters are in these zones, one item a voter.
pub fn redundancy<'a>(zones: impl IntoIterator<Item = &'a str>) -> Result<Redundancy, ZoneError> {
    let spread = Spread::of(zones)?;
    Ok(if spread.zones == 1 {
        Redundancy::Local
    } else if spread.left() >= spread.majority() {
        Redundancy::Zone
    } else {
        Redundancy::Degraded
    })
}

/// Refuses voters whose zones do not give the redundancy wanted. One zone passes as LRS.
pub fn check<'a>(
    zones: impl IntoIterator<Item = &'a str>,
    wanted: Wanted,
) -> Result<(), ZoneError> {
    let spread = Spread::of(zones)?;
    if wanted == Wanted::Lrs || spread.left() >= spread.majority() {
        return Ok(());
    }
    let (left, majority) = (spread.left(), spread.majority());
    let Spread { voters, zones, largest: zone, held } = spread;
    Err(if zones == 1 {
        ZoneError::OneZone { voters, zone }
    } else {
        ZoneError::Unbalanced { zone, held, voters, left, majority }
    })
}

/// Whether the voters, each with its zone and whether it takes part now, go on after the loss of
/// any one zone more.
pub fn survives<'a>(voters: impl IntoIterator<Item = (&'a str, bool)>) -> bool {
    let mut zones: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (zone, takes_part) in voters {
        let (all, there) = zones.entry(zone).or_default();
        *all += 1;
        *there += usize::from(takes_part);
    }
    let all: usize = zones.values().map(|(all, _)| all).sum();
    let there: usize = zones.values().map(|(_, there)| there).sum();
    all > 0 && zones.values().all(|(_, lost)| there - lost > all / 2)
}

/// How voters are spread over zones.
struct Spread {
    voters: usize,
    zones: usize,
    largest: String,
    held: usize,
}

impl Spread {
    fn of<'a>(zones: impl IntoIterator<Item = &'a str>) -> Result<Spread, ZoneError> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for zone in zones {
            *counts.entry(zone).or_default() += 1;
        }
        let (largest, held) =
            counts.iter().max_by_key(|(_, held)| **held).ok_or(ZoneError::Empty)?;
        Ok(Spread {
            voters: counts.values().sum(),
            zones: counts.len(),
            largest: (*largest).to_owned(),
            held: *held,
        })
    }

    fn left(&self) -> usize {
        self.voters - self.held
    }

    fn majority(&self) -> usize {
        self.voters / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_rule_by_table() {
        let table: &[(&[&str], Redundancy)] = &[
            (&["a"], Redundancy::Local),
            (&["a", "a", "a"], Redundancy::Local),
            (&["a", "b"], Redundancy::Degraded),
            (&["a", "a", "b"], Redundancy::Degraded),
            (&["a", "b", "c"], Redundancy::Zone),
            (&["a", "b", "c", "d"], Redundancy::Zone),
            (&["a", "a", "b", "c"], Redundancy::Degraded),
            (&["a", "a", "b", "b"], Redundancy::Degraded),
            (&["a", "a", "b", "b", "c"], Redundancy::Zone),
            (&["a", "a", "a", "b", "c"], Redundancy::Degraded),
            (&["a", "a", "b", "b", "c", "c"], Redundancy::Zone),
            (&["a", "a", "a", "b", "b", "b", "c"], Redundancy::Zone),
        ];
        for (zones, expected) in table {
            let found = redundancy(zones.iter().copied()).unwrap();
            assert_eq!(found, *expected, "{zones:?}");
            let passes = check(zones.iter().copied(), Wanted::Zrs).is_ok();
            assert_eq!(passes, *expected == Redundancy::Zone, "{zones:?}");
            assert!(check(zones.iter().copied(), Wanted::Lrs).is_ok(), "{zones:?}");
        }
    }

    #[test]
    fn a_set_that_passes_keeps_a_majority_whichever_zone_is_lost() {
        for code in 0..3_usize.pow(7) {
            let zones: Vec<&str> =
                (0..7).map(|voter| ["a", "b", "c"][code / 3_usize.pow(voter) % 3]).collect();
            let survives = ["a", "b", "c"]
                .iter()
                .all(|lost| 2 * zones.iter().filter(|zone| *zone != lost).count() > zones.len());
            assert_eq!(check(zones.iter().copied(), Wanted::Zrs).is_ok(), survives, "{zones:?}");
        }
    }

    #[test]
    fn a_voter_that_is_gone_counts_against_the_zone_that_may_still_go() {
        let table: &[(&[(&str, bool)], bool)] = &[
            (&[("a", true), ("b", true), ("c", true)], true),
            (&[("a", true), ("b", true), ("c", false)], false),
            (&[("a", true), ("b", true)], false),
            (&[("a", true), ("a", true), ("a", true)], false),
            (&[("a", true), ("a", true), ("b", true), ("b", true), ("c", true)], true),
            (&[("a", true), ("a", true), ("b", true), ("b", true), ("c", false)], false),
            (&[("a", true), ("b", true), ("c", true), ("d", true), ("e", false)], true),
            (&[], false),
        ];
        for (voters, expected) in table {
            assert_eq!(survives(voters.iter().copied()), *expected, "{voters:?}");
        }
        // With everybody there it is the zone rule.
        for zones in [&["a", "b", "c"][..], &["a", "a", "b"], &["a"], &["a", "a", "b", "b", "c"]] {
            let all = zones.iter().map(|zone| (*zone, true));
            assert_eq!(survives(all), check(zones.iter().copied(), Wanted::Zrs).is_ok());
        }
    }

    #[test]
    fn a_refusal_names_the_zone_and_the_numbers() {
        let error = check(["a", "a", "b"], Wanted::Zrs).unwrap_err();
        assert_eq!(
            error.to_string(),
            "zone a holds 2 of 3 voters; without it 1 are left and a majority is 2, so losing \
             that zone stops the cluster"
        );
        assert!(check(["a"], Wanted::Zrs).unwrap_err().to_string().contains("lrs by name"));
        assert_eq!(check([], Wanted::Lrs), Err(ZoneError::Empty));
    }
}
