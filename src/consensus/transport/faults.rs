//! Faults of the wire, switched on by name: a node cut from some of its peers.
//!
//! A cut is a black hole, as a lost zone is: nothing is refused and nothing answered, so what
//! was sent hangs until its deadline. It works in both directions at once: calls to a cut peer
//! do not leave, and calls from one are not answered.
//!
//! Refuses to cut anything unless the node was started with faults enabled.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// The cut peers of one node. A clone is the same set.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    cut: Option<Arc<watch::Sender<BTreeSet<u64>>>>,
}

/// This node was started without faults.
#[derive(Debug, thiserror::Error)]
#[error("this node was started without --enable-faults, so no peer can be cut off")]
pub struct FaultsDisabled;

impl Faults {
    /// No faults, now or later.
    #[must_use]
    pub fn disabled() -> Faults {
        Faults { cut: None }
    }

    /// No faults yet; peers may be cut.
    #[must_use]
    pub fn enabled() -> Faults {
        Faults { cut: Some(Arc::new(watch::Sender::new(BTreeSet::new()))) }
    }

    /// Cuts exactly these peers, and heals all others.
    pub fn set_cut(&self, peers: BTreeSet<u64>) -> Result<(), FaultsDisabled> {
        let cut = self.cut.as_ref().ok_or(FaultsDisabled)?;
        cut.send_replace(peers);
        Ok(())
    }

    /// The peers cut now; none when faults are disabled.
    #[must_use]
    pub fn cut(&self) -> BTreeSet<u64> {
        self.cut.as_ref().map(|cut| cut.borrow().clone()).unwrap_or_default()
    }

    #[must_use]
    pub fn is_cut(&self, peer: u64) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.borrow().contains(&peer))
    }

    /// Returns once the peer is cut; at once when it is, never when faults are disabled.
    pub async fn until_cut(&self, peer: u64) {
        self.until(|cut| cut.contains(&peer)).await;
    }

    /// Returns once the peer is not cut.
    pub async fn until_healed(&self, peer: u64) {
        if self.cut.is_some() {
            self.until(|cut| !cut.contains(&peer)).await;
        }
    }

    async fn until(&self, reached: impl Fn(&BTreeSet<u64>) -> bool) {
        let Some(cut) = &self.cut else { return std::future::pending().await };
        let mut changes = cut.subscribe();
        if changes.wait_for(|cut| reached(cut)).await.is_err() {
            // The sender is held by `self`, so this is not reached.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn disabled_faults_cut_nobody() {
        let faults = Faults::disabled();
        assert!(faults.set_cut(BTreeSet::from([2])).is_err());
        assert!(!faults.is_cut(2));
        assert!(faults.until_cut(2).now_or_never().is_none());
    }

    #[test]
    fn a_cut_lasts_until_the_next_set() {
        let faults = Faults::enabled();
        faults.set_cut(BTreeSet::from([2, 3])).unwrap();
        assert!(faults.is_cut(2) && faults.is_cut(3) && !faults.is_cut(4));
        assert!(faults.until_cut(2).now_or_never().is_some());
        assert!(faults.until_healed(2).now_or_never().is_none());
        faults.set_cut(BTreeSet::from([3])).unwrap();
        assert!(!faults.is_cut(2));
        assert!(faults.until_healed(2).now_or_never().is_some());
    }
}
