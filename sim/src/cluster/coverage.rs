//! [`Coverage`]: what happened, how often, and what together.

use std::collections::BTreeMap;

use serde::Serialize;

use super::queue::Micros;

/// A fault, or something else that comes at an awkward moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A process is killed between two operations of its disk.
    Kill,
    /// A process is killed at an operation of its disk.
    KillInWrite,
    /// The power fails: what was not synced is lost in part, reordered or torn.
    PowerLoss,
    /// A process is killed while it opens its directory.
    CrashInOpen,
    /// A process stands still, and goes on.
    Pause,
    /// Many ticks come at once.
    ClockJump,
    /// Some nodes are cut off from the others.
    Partition,
    /// A link is cut in one direction.
    OneWay,
    /// Two nodes do not reach each other, and all others do.
    Partial,
    /// Messages take long.
    Delay,
    /// Messages are lost.
    Loss,
    /// Messages come twice.
    Duplicate,
    /// Messages overtake others.
    Reorder,
    /// Syncs take long.
    SlowDisk,
    /// There is no room on the disk.
    FullDisk,
    /// A sync fails.
    SyncError,
    /// A read fails.
    ReadError,
    /// The state machine is slow.
    SlowApply,
    /// A snapshot is taken at an awkward moment, and the log ends there.
    Snapshot,
    /// The transfer of a snapshot breaks off.
    TransferCut,
    /// Leadership is handed over.
    HandOver,
    /// The members change.
    Members,
    /// A node is taken for gone that is not.
    FalseAlarm,
    /// A client proposes a command on two nodes.
    Retry,
    /// Many proposals come at once.
    Burst,
    /// A node's disk is replaced by an empty one.
    Wipe,
    /// A bit of a disk flips.
    BitRot,
    /// A broker's process is killed, or its machine loses its power.
    BrokerDeath,
    /// A broker shuts down in order.
    BrokerShutdown,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 29] = [
        Event::Kill,
        Event::KillInWrite,
        Event::PowerLoss,
        Event::CrashInOpen,
        Event::Pause,
        Event::ClockJump,
        Event::Partition,
        Event::OneWay,
        Event::Partial,
        Event::Delay,
        Event::Loss,
        Event::Duplicate,
        Event::Reorder,
        Event::SlowDisk,
        Event::FullDisk,
        Event::SyncError,
        Event::ReadError,
        Event::SlowApply,
        Event::Snapshot,
        Event::TransferCut,
        Event::HandOver,
        Event::Members,
        Event::FalseAlarm,
        Event::Retry,
        Event::Burst,
        Event::Wipe,
        Event::BitRot,
        Event::BrokerDeath,
        Event::BrokerShutdown,
    ];
}

/// A way back that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Path {
    /// A process started from a log.
    Restart,
    /// And found what was being written when it ended.
    UnacknowledgedSurvived,
    /// A process found its group damaged.
    FoundDamage,
    /// A replica was restored from a snapshot of a peer.
    Install,
    /// The transfer of a snapshot was gone on with.
    TransferResumed,
    /// A process ended because its disk failed.
    FatalDisk,
    /// Entries were read from the disk for a follower.
    Fetch,
    /// A full disk had room again.
    RoomAgain,
    /// A leader was elected.
    Election,
    /// A node was let in in the place of the member that it was.
    Replaced,
    /// A command was found applied already.
    FoundApplied,
    /// The log's files were removed.
    Compaction,
    /// A broker was fenced.
    BrokerFenced,
    /// A broker shut down in order, to the end.
    BrokerStopped,
    /// An ISR has fewer members.
    IsrShrunk,
    /// An ISR has more members.
    IsrGrown,
    /// A partition has a leader again, from its ELR.
    ElectedFromElr,
    /// A partition has a leader again, which may lack records: somebody asked for that.
    ElectedUncleanly,
    /// A follower cut off what its leader does not have.
    Truncated,
}

impl Path {
    /// All of them.
    pub const ALL: [Path; 19] = [
        Path::Restart,
        Path::UnacknowledgedSurvived,
        Path::FoundDamage,
        Path::Install,
        Path::TransferResumed,
        Path::FatalDisk,
        Path::Fetch,
        Path::RoomAgain,
        Path::Election,
        Path::Replaced,
        Path::FoundApplied,
        Path::Compaction,
        Path::BrokerFenced,
        Path::BrokerStopped,
        Path::IsrShrunk,
        Path::IsrGrown,
        Path::ElectedFromElr,
        Path::ElectedUncleanly,
        Path::Truncated,
    ];
}

/// Counts.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Coverage {
    /// How often each event happened.
    pub events: BTreeMap<Event, u64>,
    /// How often the second of a pair happened while the first was in force, or soon after it.
    #[serde(skip)]
    pub pairs: BTreeMap<(Event, Event), u64>,
    /// How often each way back was taken.
    pub paths: BTreeMap<Path, u64>,
    /// Until when each event is in force.
    #[serde(skip)]
    in_force: BTreeMap<Event, Micros>,
}

impl Coverage {
    /// Something happens at `now`, and is in force until `until`.
    pub(super) fn happened(&mut self, event: Event, now: Micros, until: Micros) {
        *self.events.entry(event).or_default() += 1;
        self.in_force.retain(|_, until| *until >= now);
        for &other in self.in_force.keys() {
            *self.pairs.entry((other.min(event), other.max(event))).or_default() += 1;
        }
        let end = self.in_force.entry(event).or_default();
        *end = until.max(*end);
    }

    pub(super) fn went(&mut self, path: Path) {
        *self.paths.entry(path).or_default() += 1;
    }

    /// Adds what another run saw.
    pub(super) fn add(&mut self, other: &Coverage) {
        let sum = |(key, count): (&Event, &u64)| *self.events.entry(*key).or_default() += count;
        other.events.iter().for_each(sum);
        let sum = |(key, count): (&(Event, Event), &u64)| {
            *self.pairs.entry(*key).or_default() += count;
        };
        other.pairs.iter().for_each(sum);
        let sum = |(key, count): (&Path, &u64)| *self.paths.entry(*key).or_default() += count;
        other.paths.iter().for_each(sum);
    }

    /// How often the rarest event and the rarest pair of two different events happened.
    pub fn least(&self) -> (u64, u64) {
        let count = |event: &Event| self.events.get(event).copied().unwrap_or(0);
        let pairs = Event::ALL.iter().enumerate().flat_map(|(number, first)| {
            Event::ALL[number + 1..].iter().map(move |second| (*first, *second))
        });
        let pair = |pair: (Event, Event)| self.pairs.get(&pair).copied().unwrap_or(0);
        (Event::ALL.iter().map(count).min().unwrap_or(0), pairs.map(pair).min().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_two_events_of_which_one_is_in_force() {
        let mut coverage = Coverage::default();
        coverage.happened(Event::Pause, 0, 10);
        coverage.happened(Event::Kill, 5, 7);
        coverage.happened(Event::Loss, 9, 20);
        coverage.happened(Event::Kill, 11, 12);
        let pairs: Vec<_> = coverage.pairs.iter().map(|(pair, count)| (*pair, *count)).collect();
        let pair = [
            ((Event::Kill, Event::Pause), 1),
            ((Event::Kill, Event::Loss), 1),
            ((Event::Pause, Event::Loss), 1),
        ];
        assert_eq!(pairs, pair);
        assert_eq!(coverage.events[&Event::Kill], 2);
        assert_eq!(coverage.least(), (0, 0));
        let mut all = Coverage::default();
        all.add(&coverage);
        all.add(&coverage);
        assert_eq!((all.events[&Event::Kill], all.pairs[&pair[0].0]), (4, 2));
    }

    #[test]
    fn every_event_is_listed_once() {
        let mut all = Event::ALL.to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), Event::ALL.len());
        assert!(Event::ALL.is_sorted());
    }
}
