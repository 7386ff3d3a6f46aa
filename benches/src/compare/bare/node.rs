//! [`Node`]: one node of the bare loop, and on the leader all clients.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_engine::EngineConfig;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use raft_engine::{Command, Engine, LogBatch};
use slog::{Discard, Logger, o};

use crate::compare::bare::NODES;
use crate::compare::drive::Order;
use crate::engine::counted::CountedDisk;
use crate::engine::theirs::{self, EntryExt};
use crate::lap::{Lap, Tally};
use crate::process::Failure;

/// The one group, and where its hard state is.
const GROUP: u64 = 1;
const HARD_STATE: &[u8] = b"hard-state";

const TICK: Duration = Duration::from_millis(100);

/// Applied entries that are kept, and those beyond them after which the log is compacted.
const TAIL: u64 = 10_000;
const COMPACT: u64 = 100_000;

/// As our own loop has it.
const APPEND_BYTES_MAX: u64 = 1 << 20;
const APPEND_INFLIGHT_MAX: usize = 256;

/// What arrives at a node.
pub(super) enum Event {
    /// From another.
    Message(Message),
    /// The leader is to take a turn, and to tell what came of it.
    Turn(Order, Sender<Lap>),
    /// It is over.
    Stop,
}

/// One node.
pub(super) struct Node {
    raft: RawNode<MemStorage>,
    engine: Engine<CountedDisk>,
    inbox: Receiver<Event>,
    others: Vec<Sender<Event>>,
    applied: u64,
    compacted: u64,
    turn: Option<Turn>,
}

/// All clients, in their turn.
struct Turn {
    order: Order,
    payload: Bytes,
    tally: Tally,
    begin: Instant,
    end: Instant,
    begun: u64,
    /// When each was due that is under way, the eldest first: they are applied in that order.
    due: VecDeque<Instant>,
    told: Sender<Lap>,
}

impl Node {
    pub(super) fn open(
        id: u64,
        dir: &Path,
        disk: Arc<CountedDisk>,
        inbox: Receiver<Event>,
        others: Vec<Sender<Event>>,
    ) -> Result<Node, Failure> {
        let path = dir.to_str().ok_or("the path of the store is not UTF-8")?;
        let settings = theirs::config(path, &EngineConfig::default());
        let engine = Engine::open_with_file_system(settings, disk)?;
        let storage =
            MemStorage::new_with_conf_state(ConfState::from((NODES.to_vec(), Vec::new())));
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 2,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPEND_INFLIGHT_MAX,
            ..Config::default()
        };
        let raft = RawNode::new(&config, storage, &Logger::root(Discard, o!()))?;
        Ok(Node { raft, engine, inbox, others, applied: 0, compacted: 0, turn: None })
    }

    /// Runs until it is stopped.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        if self.raft.raft.id == NODES[0] {
            self.raft.campaign()?;
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            let mut event = match self.inbox.recv_timeout(self.patience(next_tick)) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            while let Some(one) = event {
                match one {
                    // What raft-rs does not want any more is dropped, as by every loop.
                    Event::Message(message) => drop(self.raft.step(message)),
                    Event::Turn(order, told) => self.turn = Some(Turn::new(order, told)?),
                    Event::Stop => return Ok(()),
                }
                event = self.inbox.try_recv().ok();
            }
            if Instant::now() >= next_tick {
                self.raft.tick();
                next_tick += TICK;
            }
            loop {
                self.propose()?;
                if !self.raft.has_ready() {
                    break;
                }
                self.handle_ready()?;
            }
            if let Some(turn) = self.turn.take_if(|turn| turn.is_over()) {
                // Nobody asks any more when the measurement was given up.
                let _ = turn.told.send(turn.tally.lap());
            }
        }
    }

    /// How long nothing is to be done.
    fn patience(&self, next_tick: Instant) -> Duration {
        let next = self.turn.as_ref().and_then(Turn::next_due).unwrap_or(next_tick);
        next.min(next_tick).saturating_duration_since(Instant::now())
    }

    /// Proposes for every client that may begin: all of it in one message.
    fn propose(&mut self) -> Result<(), Failure> {
        if self.raft.raft.state != StateRole::Leader {
            return Ok(());
        }
        let Some(turn) = &mut self.turn else { return Ok(()) };
        let entries = turn.begin_all();
        if entries == 0 {
            return Ok(());
        }
        let entry = Entry { data: turn.payload.clone(), ..Entry::default() };
        let mut message = Message { from: self.raft.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = vec![entry; entries].into();
        Ok(self.raft.step(message)?)
    }

    fn handle_ready(&mut self) -> Result<(), Failure> {
        let mut ready = self.raft.ready();
        self.send(ready.take_messages());
        self.apply(&ready.take_committed_entries());
        let mut batch = LogBatch::default();
        if !ready.entries().is_empty() {
            batch.add_entries::<EntryExt>(GROUP, ready.entries())?;
            self.raft.mut_store().wl().append(ready.entries())?;
        }
        if let Some(hard_state) = ready.hs() {
            batch.put_message(GROUP, HARD_STATE.to_vec(), hard_state)?;
            self.raft.mut_store().wl().set_hardstate(hard_state.clone());
        }
        if !batch.is_empty() {
            self.engine.write(&mut batch, ready.must_sync())?;
        }
        self.send(ready.take_persisted_messages());
        let mut light = self.raft.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raft.mut_store().wl().mut_hard_state().commit = commit;
        }
        self.send(light.take_messages());
        self.apply(&light.take_committed_entries());
        self.raft.advance_apply();
        self.compact()
    }

    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            let to = NODES.iter().position(|id| *id == message.to);
            if let Some(to) = to.and_then(|at| self.others.get(at)) {
                // One that has ended takes nothing any more.
                let _ = to.send(Event::Message(message));
            }
        }
    }

    fn apply(&mut self, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        self.applied = last.index;
        let Some(turn) = &mut self.turn else { return };
        let now = Instant::now();
        let is_command = |entry: &&Entry| {
            entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty()
        };
        for due in turn.due.drain(..entries.iter().filter(is_command).count().min(turn.due.len())) {
            turn.tally.acknowledged(now.saturating_duration_since(due));
        }
    }

    fn compact(&mut self) -> Result<(), Failure> {
        let index = self.applied.saturating_sub(TAIL);
        if index < self.compacted + COMPACT {
            return Ok(());
        }
        self.compacted = index;
        self.raft.mut_store().wl().compact(index)?;
        let mut batch = LogBatch::default();
        batch.add_command(GROUP, Command::Compact { index });
        self.engine.write(&mut batch, false)?;
        self.engine.purge_expired_files()?;
        Ok(())
    }
}

impl Turn {
    fn new(order: Order, told: Sender<Lap>) -> Result<Turn, Failure> {
        let begin = Instant::now();
        Ok(Turn {
            order,
            payload: vec![0xa5; order.payload_bytes.max(1)].into(),
            tally: Tally::new()?,
            begin,
            end: begin + order.length(),
            begun: 0,
            due: VecDeque::new(),
            told,
        })
    }

    /// Notes as begun what may begin now, and tells how many that are.
    fn begin_all(&mut self) -> usize {
        let now = Instant::now();
        if now >= self.end {
            return 0;
        }
        let free = (self.order.clients as usize).saturating_sub(self.due.len());
        let Some(rate) = self.order.rate else {
            self.due.extend(std::iter::repeat_n(now, free));
            return free;
        };
        let due = ((now - self.begin).as_secs_f64() * f64::from(rate)) as u64 + 1;
        let count = free.min(usize::try_from(due.saturating_sub(self.begun)).unwrap_or(free));
        for _ in 0..count {
            self.due.push_back(self.due_at(self.begun, rate));
            self.begun += 1;
        }
        count
    }

    fn due_at(&self, number: u64, rate: u32) -> Instant {
        self.begin + Duration::from_secs_f64(number as f64 / f64::from(rate))
    }

    /// When the next operation is due, where that is not when the last is done.
    fn next_due(&self) -> Option<Instant> {
        let rate = self.order.rate?;
        (self.due.len() < self.order.clients as usize).then(|| self.due_at(self.begun, rate))
    }

    fn is_over(&self) -> bool {
        self.due.is_empty() && Instant::now() >= self.end
    }
}
