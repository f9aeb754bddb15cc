//! The header `zoneq-epoch`: the highest epoch of a pair of regions that the sender knows.
//!
//! Its text is `NUMBER REGION LINEAGE`, with one space between: the number of the epoch, decimal
//! and without leading zeros, from 1; the region that it is of, 1 to 63 of `a-z`, `0-9` and `-`;
//! the lineage of the pair, 32 lower-case hexadecimal digits, not all zero.
//!
//! Laws: an epoch has one text, and two texts that differ are two epochs; what is not of this form
//! is no epoch, and counts as not said. Reading allocates nothing.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt;

/// The name of the header, of requests and of answers.
pub const HEADER: &str = "zoneq-epoch";

/// The most letters that the name of a region has.
const REGION: usize = 63;
/// The digits of a lineage.
const LINEAGE: usize = 32;

/// An epoch of a pair of regions, as callers and nodes tell each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KnownEpoch {
    number: u64,
    lineage: u128,
    /// Zeros behind its letters.
    region: [u8; REGION],
}

impl KnownEpoch {
    /// `None` for what has no text: number or lineage 0, or a name that no region can have.
    #[must_use]
    pub fn new(number: u64, region: &str, lineage: u128) -> Option<KnownEpoch> {
        KnownEpoch::of(number, region.as_bytes(), lineage)
    }

    fn of(number: u64, name: &[u8], lineage: u128) -> Option<KnownEpoch> {
        let is_letter = |it: &u8| it.is_ascii_lowercase() || it.is_ascii_digit() || *it == b'-';
        if number == 0 || lineage == 0 || name.is_empty() || !name.iter().all(is_letter) {
            return None;
        }
        let mut region = [0; REGION];
        region.get_mut(..name.len())?.copy_from_slice(name);
        Some(KnownEpoch { number, lineage, region })
    }

    /// What a header says; `None` where it is no epoch.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<KnownEpoch> {
        let mut parts = text.split(|byte| *byte == b' ');
        let (number, region, lineage) = (parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |it: &u8| it.is_ascii_digit() || (b'a'..=b'f').contains(it);
        let plain = number.first() != Some(&b'0') && number.iter().all(u8::is_ascii_digit);
        let whole = lineage.len() == LINEAGE && lineage.iter().all(is_hex);
        if parts.next().is_some() || !plain || !whole {
            return None;
        }
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        let lineage = u128::from_str_radix(std::str::from_utf8(lineage).ok()?, 16).ok()?;
        KnownEpoch::of(number, region, lineage)
    }

    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    #[must_use]
    pub fn lineage(&self) -> u128 {
        self.lineage
    }

    #[must_use]
    pub fn region(&self) -> &str {
        let letters = self.region.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(letters).unwrap_or_default()
    }

    /// Whether it is a later one of the same pair.
    #[must_use]
    pub fn is_above(&self, other: &KnownEpoch) -> bool {
        self.lineage == other.lineage && self.number > other.number
    }
}

impl fmt::Display for KnownEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:032x}", self.number, self.region(), self.lineage)
    }
}

impl fmt::Debug for KnownEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownEpoch({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_written_and_read_as_one_text() {
        let epoch = KnownEpoch::new(3, "east-1", 0xab).expect("an epoch");
        let text = "3 east-1 000000000000000000000000000000ab";
        assert_eq!(epoch.to_string(), text);
        assert_eq!(KnownEpoch::read(text.as_bytes()), Some(epoch));
        assert_eq!((epoch.number(), epoch.region(), epoch.lineage()), (3, "east-1", 0xab));
        let longest = KnownEpoch::new(u64::MAX, &"z".repeat(63), u128::MAX).expect("an epoch");
        assert_eq!(KnownEpoch::read(longest.to_string().as_bytes()), Some(longest));
        assert_eq!(longest.region().len(), 63);
    }

    #[test]
    fn what_is_not_of_the_form_is_no_epoch() {
        let lineage = "000000000000000000000000000000ab";
        let good = format!("3 east {lineage}");
        assert!(KnownEpoch::read(good.as_bytes()).is_some());
        for bad in [
            String::new(),
            "3 east".to_owned(),
            format!("0 east {lineage}"),
            format!("03 east {lineage}"),
            format!("+3 east {lineage}"),
            format!("-3 east {lineage}"),
            format!("18446744073709551616 east {lineage}"),
            format!(" east {lineage}"),
            format!("3  {lineage}"),
            format!("3 East {lineage}"),
            format!("3 ea\0st {lineage}"),
            format!("3 {} {lineage}", "z".repeat(64)),
            format!("3 east {}", lineage.to_uppercase()),
            format!("3 east +{}", &lineage[1..]),
            format!("3 east {}", "0".repeat(32)),
            format!("3 east 0{lineage}"),
            format!("3 east {lineage} "),
            format!("3 east {lineage} 4"),
            format!(" {good}"),
        ] {
            assert_eq!(KnownEpoch::read(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(KnownEpoch::read(b"3 \xffast 000000000000000000000000000000ab"), None);
    }

    #[test]
    fn an_epoch_is_above_lower_numbers_of_its_own_lineage_only() {
        let of = |number, lineage| KnownEpoch::new(number, "west", lineage).expect("an epoch");
        assert!(of(3, 7).is_above(&of(2, 7)));
        assert!(!of(2, 7).is_above(&of(2, 7)));
        assert!(!of(3, 8).is_above(&of(2, 7)), "another pair");
    }
}
