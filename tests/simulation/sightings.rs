//! Writes down what each node of a pair of regions is, whenever it has applied something.

use std::sync::Arc;

use zoneq::consensus::group::Group;
use zoneq::queue::authority::Authority;

use crate::history::{Cluster, SharedHistory, Sighted};
use crate::network::now_us;

/// Runs until the group ends.
pub async fn observe((node, cluster): (u64, Cluster), group: Group, history: SharedHistory) {
    let mut applied = group.applied();
    let mut last: Option<Arc<Authority>> = None;
    while applied.changed().await.is_ok() {
        applied.borrow_and_update();
        let seen = {
            let store = group.store().read();
            let state = store.state();
            match (store.applied(), state.authority()) {
                (Some(at), Some(authority)) => {
                    let same = last.as_ref().filter(|known| ***known == *authority);
                    let authority = same.map_or_else(|| Arc::new(authority.clone()), Arc::clone);
                    let (log_time, digest) = (state.log_time().0, Some(state.digest().0));
                    Some((at.index, log_time, digest, authority))
                }
                _ => None,
            }
        };
        let (Some((index, log_time, digest, authority)), Some(at)) = (seen, now_us()) else {
            continue;
        };
        let is = |it: &Authority| (it.role.clone(), it.epoch.clone());
        if last.as_deref().is_none_or(|known| is(known) != is(&authority)) {
            let (role, epoch) = is(&authority);
            let what = format_args!("host {node} is {role:?} in {epoch:?} at {index}");
            history.lock().event(at, what);
        }
        last = Some(Arc::clone(&authority));
        let sighted = Sighted { at, cluster, node, index, log_time, digest, authority };
        history.lock().pair.sighted.push(sighted);
    }
}
