//! Quorate in three processes, and its clients in one of these: the leader's, or another's.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::compare::contender::Contender;
use crate::compare::drive::Order;
use crate::fleet::{Fleet, VOTERS};
use crate::groups::cpu_time;
use crate::lap::Lap;
use crate::process::Failure;
use crate::trio::{NODES, Trio};

/// Where the clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the process of the node that leads.
    Embedded,
    /// In that of another: each operation goes to the leader over TCP, and is answered when the node
    /// where it was asked for has applied it too.
    Elsewhere,
}

/// Clients of three processes whose state machine counts and hashes.
pub(super) struct RemoteOpaque {
    pub(super) fleet: Rc<RefCell<Fleet>>,
    pub(super) place: Place,
}

/// Clients of three quorum nodes, that alter partitions.
pub(super) struct RemoteAltering {
    pub(super) trio: Rc<RefCell<Trio>>,
    pub(super) place: Place,
}

/// Starts processes whose state machine counts and hashes.
pub(super) fn start_fleet(dir: &Path, is_parallel: bool) -> Result<Rc<RefCell<Fleet>>, Failure> {
    let more = is_parallel.then(|| "--parallel".to_owned());
    Ok(Rc::new(RefCell::new(Fleet::start(dir, more.as_slice())?)))
}

/// Starts quorum nodes, with so many partitions.
pub(super) fn start_trio(dir: &Path, partitions: u32) -> Result<Rc<RefCell<Trio>>, Failure> {
    let mut trio = Trio::start(dir)?;
    trio.leader()?;
    trio.ask_all("serve")?;
    trio.ask(NODES[0], &format!("partitions {partitions}"))?;
    Ok(Rc::new(RefCell::new(trio)))
}

impl Contender for RemoteOpaque {
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure> {
        let fleet = &mut *self.fleet.borrow_mut();
        let leader = fleet.leader()?;
        let at = match self.place {
            Place::Embedded => leader,
            Place::Elsewhere => (leader + 1) % VOTERS as usize,
        };
        let lap = fleet.ask(at, &format!("turn {}", serde_json::to_string(order)?))?;
        // What a majority has is acknowledged; the third node's fsyncs belong to it too.
        (0..VOTERS as usize).try_for_each(|at| fleet.catch_up(at, leader))?;
        Ok(lap)
    }

    fn fsyncs(&mut self) -> Result<Option<u64>, Failure> {
        let fleet = &mut *self.fleet.borrow_mut();
        let reports = (0..VOTERS as usize).map(|at| fleet.report(at));
        Ok(Some(reports.map(|report| Ok(report?.log_fsyncs)).sum::<Result<u64, Failure>>()?))
    }

    fn cpu_time(&mut self) -> Result<Duration, Failure> {
        Ok(cpu_time() + self.fleet.borrow().cpu_time()?)
    }
}

impl Contender for RemoteAltering {
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure> {
        let trio = &mut *self.trio.borrow_mut();
        let leader = trio.leader()?;
        let at = match self.place {
            Place::Embedded => leader,
            Place::Elsewhere => NODES[(leader % VOTERS) as usize],
        };
        let lap = trio.ask(at, &format!("turn {}", serde_json::to_string(order)?))?;
        trio.ask_all("barrier")?;
        Ok(serde_json::from_str(&lap)?)
    }

    fn fsyncs(&mut self) -> Result<Option<u64>, Failure> {
        let counts = self.trio.borrow_mut().ask_all("fsyncs")?;
        Ok(Some(counts.values().map(|count| count.parse::<u64>()).sum::<Result<u64, _>>()?))
    }

    fn cpu_time(&mut self) -> Result<Duration, Failure> {
        let trio = self.trio.borrow();
        let nodes = trio.members.values().map(|member| member.cpu_time());
        Ok(cpu_time() + nodes.sum::<Result<Duration, _>>()?)
    }
}
