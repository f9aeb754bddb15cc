//! The way to another redundancy, from what this node knows as the leader.

use std::time::Duration;

use super::super::machine::Machine;
use super::super::membership::MembershipError;
use super::super::redundancy::{Course, plan};
use super::super::zones::Wanted;
use super::Group;

impl Group {
    /// Works out who shall vote so that the cluster has a redundancy; nothing is done before the
    /// course is followed. Of LRS `zone` is that of the voters; without it the leader's.
    ///
    /// # Errors
    /// On a node that does not lead, and where the members at hand do not allow it.
    pub fn redundancy(
        &self,
        wanted: Wanted,
        zone: Option<&str>,
        within: Duration,
    ) -> Result<Course<Machine>, MembershipError> {
        let leadership = *self.inner.leadership.borrow();
        if !leadership.is_me {
            return Err(MembershipError::NotLeader(leadership.leader));
        }
        let membership = self.members();
        let plan = plan(membership.members(), self.node(), &self.answering(), wanted, zone)?;
        Ok(Course::new(membership, plan, within))
    }
}
