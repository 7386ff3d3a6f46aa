//! AlterPartition: how fast leaders' wishes are applied, and what it costs to take an image.

use std::hint::black_box;
use std::time::{Duration, Instant};

use quorate_statemachine::{
    AlterPartition, BrokerId, BrokerSession, Command, Delta, MetadataImage, Outcome, Partition,
    PartitionKey, Recovery,
};

use super::rounds::best;
use super::state::{State, accepted};
use super::{Failure, MetadataArgs, row};
use crate::report::Row;

/// Commands before an image is published: one, and many as a busy log hands them over.
const BATCHES: [usize; 2] = [1, 64];

/// Images of one round: each takes some nanoseconds, which is less than a look at the clock.
const CLONES: u32 = 1_000_000;

/// Measures commands.
pub(super) fn measure(state: &mut State, args: &MetadataArgs) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for batch in BATCHES {
        let encoded = best(args.rounds, |_| {
            round(state, args.commands, |state, wishes| {
                let bytes: Vec<_> = wishes.iter().map(Command::encode).collect();
                apply_all(state, batch, &bytes, |state, bytes, changes| {
                    state.gather(bytes, changes)
                })
            })
        })?;
        let decoded = best(args.rounds, |_| {
            round(state, args.commands, |state, wishes| {
                apply_all(state, batch, wishes, State::gather_decoded)
            })
        })?;
        for (what, took) in [("alter-partition", encoded), ("alter-partition-decoded", decoded)] {
            let mut row = row(what, state.partitions);
            row.batch = Some(batch);
            row.ops_per_s = Some(f64::from(args.commands) / took.as_secs_f64());
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Measures images.
pub(super) fn measure_clone(state: &State, rounds: u32) -> Result<Row, Failure> {
    let took = best(rounds, |_| {
        let begin = Instant::now();
        for _ in 0..CLONES {
            drop(black_box(state.image()));
        }
        Ok(begin.elapsed())
    })?;
    let mut row = row("image-clone", state.partitions);
    row.nanos = Some(took.as_secs_f64() * 1e9 / f64::from(CLONES));
    Ok(row)
}

/// How long so many commands take: again and again one for each partition, if there are few.
fn round(
    state: &mut State,
    commands: u32,
    mut run: impl FnMut(&mut State, &[Command]) -> Result<Duration, Failure>,
) -> Result<Duration, Failure> {
    let mut left = usize::try_from(commands)?;
    let mut took = Duration::ZERO;
    while left > 0 {
        let mut wishes = wishes(state);
        wishes.truncate(left);
        left -= wishes.len();
        took += run(state, &wishes)?;
    }
    Ok(took)
}

/// Applies them as the apply thread does: what they changed is gathered, the image published.
fn apply_all<C>(
    state: &mut State,
    batch: usize,
    commands: &[C],
    apply: impl Fn(&mut State, &C, &mut Delta) -> Result<Outcome, Failure>,
) -> Result<Duration, Failure> {
    let begin = Instant::now();
    for commands in commands.chunks(batch) {
        let mut changes = Delta::default();
        for command in commands {
            accepted(apply(state, command, &mut changes)?)?;
        }
        state.publish();
        black_box(changes);
    }
    Ok(begin.elapsed())
}

/// A wish of each partition's leader, in a random order: that its last follower leaves the ISR, or
/// that all replicas are in it again.
pub(super) fn wishes(state: &mut State) -> Vec<Command> {
    let image = state.image();
    let mut keys: Vec<PartitionKey> = image.partitions().map(|(key, _)| key).collect();
    state.random.shuffle(&mut keys);
    let wishes = keys.into_iter().filter_map(|key| wish(&image, key));
    wishes.map(Command::AlterPartition).collect()
}

/// What the leader of one partition wishes next; `None` while it has none.
pub(crate) fn wish(image: &MetadataImage, key: PartitionKey) -> Option<AlterPartition> {
    let partition = image.partition(key)?;
    let leader = partition.leader?;
    let session = |id: BrokerId| {
        image.broker(id).map(|broker| BrokerSession { broker: id, epoch: broker.epoch })
    };
    Some(AlterPartition {
        sender: session(leader)?,
        partition: key,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        isr: next_isr(partition, leader).into_iter().map(session).collect::<Option<_>>()?,
        recovery: Recovery::Recovered,
    })
}

fn next_isr(partition: &Partition, leader: BrokerId) -> Vec<BrokerId> {
    let mut isr = partition.replicas.to_vec();
    if partition.isr.len() == isr.len()
        && let Some(last) = isr.iter().rposition(|id| *id != leader)
    {
        isr.remove(last);
    }
    isr
}
