//! [`Contender`]: one of those that are compared, running.

use std::time::Duration;

use crate::compare::drive::Order;
use crate::groups::cpu_time;
use crate::lap::Lap;
use crate::process::Failure;

/// One of those that are compared. It runs until it is dropped, and has nothing to do but in its turns.
pub(super) trait Contender {
    /// Lets its clients do as they are ordered, and tells what came of it.
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure>;

    /// Fsyncs of the logs of all its nodes until now, where they can be counted.
    fn fsyncs(&mut self) -> Result<Option<u64>, Failure>;

    /// CPU time until now of all its processes, and of this one.
    fn cpu_time(&mut self) -> Result<Duration, Failure> {
        Ok(cpu_time())
    }
}
