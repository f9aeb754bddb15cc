//! Lines of the audit about changes that are no commands: those of the members, and a clock that
//! is accepted.
//!
//! Law: that such a change begins is in the audit before it is made, for its own entry says nothing
//! of who asked; how it ended is there afterwards, unless leadership went meanwhile.

use std::fmt::Display;
use std::future::Future;

use super::Pair;
use crate::geo::error::PairError;
use crate::queue::authority::command::RegionVerb;
use crate::queue::limits::AUDIT_NOTE;

impl Pair {
    /// Writes a line into the audit.
    ///
    /// # Errors
    /// *Not now* on a node that does not lead; what it is about must not be done then.
    pub async fn note(&self, who: &str, mut what: String) -> Result<(), PairError> {
        while what.len() > AUDIT_NOTE {
            what.pop();
        }
        self.propose(RegionVerb::Note { what }, who).await.map(drop)
    }

    /// Makes a change between two lines of the audit. `what` is a sentence's end: `remove node 3`.
    ///
    /// # Errors
    /// The outer ones as [`Pair::note`], with nothing done; the inner ones are the change's.
    pub async fn audited<T, E: Display>(
        &self,
        who: &str,
        what: String,
        change: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, PairError> {
        self.note(who, format!("begin to {what}")).await?;
        let made = change.await;
        self.note_end(who, what, made.as_ref().err()).await;
        Ok(made)
    }

    /// Says how a change ended that began. Where that cannot be written, its beginning is there.
    pub async fn note_end(&self, who: &str, what: String, error: Option<&impl Display>) {
        let ended = error.map_or_else(|| what.clone(), |why| format!("fail to {what}: {why}"));
        if let Err(error) = self.note(who, ended).await {
            tracing::warn!(%error, what, "the audit does not say how a change ended");
        }
    }
}
