//! What a proposal costs a CPU on its way, piece by piece, without disk, network or threads: for whoever
//! changes one of the pieces. How fast the whole is, the program `quorate-benches` tells.
//!
//! ```sh
//! cargo bench -p quorate-benches --features micro
//! ```

// What fails ends the measurement.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_engine::{GroupId, LogId};
use quorate_loop::{Committed, Members, PeerMessage, Replica, SessionStep, fuzz};
use quorate_statemachine::{ClientSessions, CommandId};
use raft::eraftpb::{Entry, Message, MessageType};

#[path = "../src/groups/count.rs"]
mod count;

use count::{Count, Unwatched};

/// Of 128 bytes, as everywhere in these benchmarks.
static COMMAND: [u8; 128] = [2; 128];

/// Entries that a busy leader sends in one message, and one.
const ENTRIES: [u64; 3] = [1, 64, 1_024];

/// Sessions in use, each with its window half full.
const SESSIONS: u64 = 128;
const UNFINISHED: u64 = 32;

/// A message with so many entries.
fn append(entries: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.term) = (1, 2, 3);
    let entry = |at: u64| Entry {
        index: at + 1,
        term: 3,
        data: Bytes::from_static(&COMMAND),
        ..Entry::default()
    };
    message.entries = (0..entries).map(entry).collect::<Vec<_>>().into();
    message
}

/// By what the fuzzer uses: `encode` ends with a copy, `decode` encodes and decodes once more what it has
/// decoded, and compares.
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for entries in ENTRIES {
        let message = PeerMessage::Raft(append(entries));
        group.throughput(Throughput::Elements(entries));
        group.bench_with_input(
            BenchmarkId::new("encode", entries),
            &message,
            |bencher, message| {
                let fresh = || message.clone();
                bencher.iter_batched(
                    fresh,
                    |it| fuzz::frame_of(it).unwrap(),
                    BatchSize::SmallInput,
                );
            },
        );
        let bytes = fuzz::frame_of(message).unwrap();
        group.bench_with_input(BenchmarkId::new("decode", entries), &bytes, |bencher, bytes| {
            bencher.iter(|| {
                let arrival = fuzz::arrive(black_box(bytes));
                assert_eq!((arrival.frames, &arrival.wrong, &arrival.refused), (1, &None, &None));
                arrival
            });
        });
    }
    group.finish();
}

/// The next command of one of the sessions, which take turns.
struct Commands {
    sessions: Vec<u64>,
    next: u64,
}

impl Commands {
    fn next(&mut self) -> CommandId {
        let at = self.next % SESSIONS;
        let sequence = self.next / SESSIONS + 1;
        self.next += 1;
        let lowest_unfinished = sequence.saturating_sub(UNFINISHED).max(1);
        CommandId { session: self.sessions[at as usize], sequence, lowest_unfinished }
    }
}

fn sessions(criterion: &mut Criterion) {
    let mut table = ClientSessions::default();
    let mut commands = Commands { sessions: (1..=SESSIONS).collect(), next: 0 };
    commands.sessions.iter().for_each(|&session| table.open(session));
    let outcome = Bytes::from_static(&[7; 16]);
    let mut index = SESSIONS;
    criterion.bench_function("session/admit and keep", |bencher| {
        bencher.iter(|| {
            index += 1;
            let id = commands.next();
            table.admit(index, &id).unwrap();
            table.keep(index, &id, outcome.clone());
        });
    });
}

/// Entries as the loop hands them over; the state machine of the group counts them.
fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for in_session in [false, true] {
        let first = GroupId::new(1).unwrap();
        let mut replica = Replica::<Count>::founding(first, Members::default().into());
        let mut index = replica.applied().index;
        let mut commands = Commands { sessions: Vec::new(), next: 0 };
        let mut changes = Unwatched;
        let mut run = |session, command| {
            index += 1;
            let at = LogId { index, term: 1 };
            let caller = None::<()>;
            let entry = Committed { at, command, session, caller, members: None, catalogue: None };
            replica.apply(&entry, &mut changes).unwrap().unwrap().index
        };
        if in_session {
            let open = |_| run(Some(SessionStep::Open), Bytes::new());
            commands.sessions = (0..SESSIONS).map(open).collect();
        }
        let what = if in_session { "in a session" } else { "of no session" };
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                let step = in_session.then(|| SessionStep::Command(commands.next()));
                run(step, Bytes::from_static(&COMMAND))
            });
        });
    }
    group.finish();
}

criterion_group!(hot_path, frames, sessions, apply);
criterion_main!(hot_path);
