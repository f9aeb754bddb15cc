//! The replicated rules version: which meaning `apply` gives to a command.
//!
//! Law: `apply` branches on the version in the state, never on the binary's own. An entry raises
//! it, and is proposed only when every node knows the new version. It is never lowered.
//!
//! Nothing is released yet, so version 1 still grows: what is added has tags of its own, and a
//! default that means, and hashes as, what was so before it. From the first release on a new
//! meaning is a new version.

use super::error::Rejection;

/// The version a new state begins with.
pub const FIRST: u32 = 1;
/// The newest version this build can apply.
pub const KNOWN: u32 = 1;

/// The version after a wish for `asked`; refuses what this build does not know.
///
/// # Errors
/// [`Rejection::UnknownRules`] when `asked` is newer than [`KNOWN`].
pub fn raise(current: u32, asked: u32) -> Result<u32, Rejection> {
    if asked > KNOWN {
        return Err(Rejection::UnknownRules { asked, known: KNOWN });
    }
    Ok(current.max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_raised_to_what_is_known_and_never_lowered() {
        assert_eq!(raise(1, KNOWN), Ok(KNOWN));
        assert_eq!(raise(KNOWN, 0), Ok(KNOWN));
        let refused = Rejection::UnknownRules { asked: KNOWN + 1, known: KNOWN };
        assert_eq!(raise(1, KNOWN + 1), Err(refused));
    }
}
