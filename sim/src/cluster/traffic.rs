//! What nodes say to each other, in virtual time.

use quorate_engine::LogId;
use quorate_loop::{Envelope, Input, PeerMessage};
use raft::eraftpb::Message;

use super::coverage::{Event, Path};
use super::process::Received;
use super::world::{Happening, World};
use super::{SimError, node_id};

impl World {
    pub(super) fn deliver(&mut self, from: u64, to: u64, message: PeerMessage) {
        if self.network.is_cut(from, to) {
            return;
        }
        let kind = match &message {
            PeerMessage::Raft(message) => message.get_msg_type() as u64,
            _ => 100,
        };
        self.trace.saw(self.queue.now(), &[1, from, to, kind], || {
            format!("{from} -> {to}: {}", told(&message))
        });
        self.step(to, Input::Peer { from: node_id(from), message });
    }

    pub(super) fn send(&mut self, from: u64, envelope: Envelope) {
        let to = envelope.to.get();
        if let (PeerMessage::Raft(message), Some(host)) = (&envelope.message, self.hosts.get(&from))
        {
            self.safety.left(from, &host.durable, message);
        }
        let now = self.queue.now();
        let fate = self.network.send(from, to, now);
        if fate.arrivals.is_empty() && self.network.is_cut(from, to) && self.random.chance(20) {
            // A transport that finds its connection broken says so.
            self.step_quietly(from, Input::Undelivered(envelope));
            return;
        }
        for arrival in fate.arrivals {
            let message = envelope.message.clone();
            self.queue.at(arrival, Happening::Deliver { from, to, message });
        }
    }

    pub(super) fn send_snapshot(&mut self, from: u64, envelope: Envelope) {
        let (to, PeerMessage::Raft(message)) = (envelope.to.get(), envelope.message) else {
            return;
        };
        let delay = 1_000 + self.random.below(50_000);
        self.queue.after(delay, Happening::Transferred { from, to, message });
    }

    pub(super) fn transferred(
        &mut self,
        from: u64,
        to: u64,
        message: Message,
    ) -> Result<(), SimError> {
        let meta = message.get_snapshot().get_metadata();
        let id = LogId { index: meta.index, term: meta.term };
        let breaks = !self.is_calm && self.plan.events.contains(&Event::TransferCut);
        let breaks = breaks && self.random.chance(40);
        let is_cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        let mut received = false;
        let file = match self.process(from).map(|process| process.snapshot(id)) {
            None => return Ok(()),
            Some(Ok(file)) => file,
            Some(Err(error)) => return self.disk_failed(from, &error.to_string()),
        };
        let target = self.process(to);
        if let (Some((bytes, digest)), Some(target), false) = (file, target, is_cut) {
            let until = breaks.then_some(bytes.len() / 2);
            let result = target.receive(id, &bytes, digest, until);
            match result {
                Ok(Received::InPart) => {
                    self.happened(Event::TransferCut, 0, || {
                        format!("snapshot {id} breaks off between {from} and {to}")
                    });
                }
                Ok(how) => {
                    if how == Received::Resumed {
                        self.coverage.went(Path::TransferResumed);
                    }
                    received = true;
                }
                // A full disk, or one that fails: then the log fails, too.
                Err(_) => {}
            }
        }
        if received && let Some(target) = self.process(to) {
            let (members, catalogue) = match target.head(id) {
                Ok(head) => head,
                Err(error) => {
                    self.disk_failed(to, &error.to_string())?;
                    self.step(from, Input::SnapshotSent { to: node_id(to), received: false });
                    return Ok(());
                }
            };
            let from = node_id(from);
            self.step(to, Input::SnapshotReceived { from, message, members, catalogue });
        }
        self.step(from, Input::SnapshotSent { to: node_id(to), received });
        Ok(())
    }
}

/// A message in a few words.
fn told(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Raft(message) => {
            let entries = message.entries.len();
            format!(
                "{:?} term {} index {} commit {}{}{}",
                message.get_msg_type(),
                message.term,
                message.index,
                message.commit,
                if entries > 0 { format!(" +{entries}") } else { String::new() },
                if message.reject { " rejected" } else { "" },
            )
        }
        other => format!("{other:?}").chars().take(80).collect(),
    }
}
