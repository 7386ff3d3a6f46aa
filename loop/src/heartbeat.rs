//! [`Heartbeat`]: what a leader says to each follower several times a second, and its answer, in a
//! form of which thousands fit into a frame.
//!
//! Every group beats on the same ticks of its node. So what all groups have to say to a peer by then
//! is one frame, one write to its socket, and one event for its loop; each group still beats for
//! itself.
//!
//! On the wire a heartbeat is group, from, to, term and commit index as varints, and its context with
//! the length before it as another.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};
use quorate_engine::GroupId;
use raft::eraftpb::{Message, MessageType};

/// Heartbeats in one frame; more make another.
pub(crate) const HEARTBEATS_PER_FRAME: usize = 16_384;

/// Bytes that one holds in memory, roughly, its context with it: what a queue of them is bounded by.
pub(crate) const HEARTBEAT_BYTES: usize = 96;

/// Bytes of a context: a read is known by a number.
const CONTEXT_BYTES_MAX: usize = 8;

/// A `MsgHeartbeat`, or a `MsgHeartbeatResponse`, of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    pub(crate) group: GroupId,
    from: u64,
    to: u64,
    term: u64,
    commit: u64,
    /// Of the linearizable read that it confirms; empty without one.
    context: Bytes,
}

impl Heartbeat {
    /// What `message` says, if it is all that can be said so.
    pub(crate) fn of(group: GroupId, message: &Message) -> Option<Self> {
        let is_plain = message.log_term == 0
            && message.index == 0
            && message.commit_term == 0
            && !message.reject
            && message.reject_hint == 0
            && message.request_snapshot == 0
            && message.priority == 0
            && message.deprecated_priority == 0
            && message.entries.is_empty()
            && message.context.len() <= CONTEXT_BYTES_MAX
            && !message.has_snapshot();
        is_plain.then(|| Heartbeat {
            group,
            from: message.from,
            to: message.to,
            term: message.term,
            commit: message.commit,
            context: message.context.clone(),
        })
    }

    /// Whether `answer` is that of the member which this one was for, in its term.
    pub(crate) fn is_answered_by(&self, answer: &Heartbeat) -> bool {
        (self.group, self.to, self.term) == (answer.group, answer.from, answer.term)
    }

    /// The message of this `kind` that says it.
    pub(crate) fn into_message(self, kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to) = (self.from, self.to);
        (message.term, message.commit) = (self.term, self.commit);
        message.context = self.context;
        message
    }
}

/// Appends the heartbeats of a frame.
pub(crate) fn put(beats: &[Heartbeat], out: &mut BytesMut) {
    for beat in beats {
        for number in [beat.group.get(), beat.from, beat.to, beat.term, beat.commit] {
            encode_varint(number, out);
        }
        encode_varint(beat.context.len() as u64, out);
        out.put_slice(&beat.context);
    }
}

/// The heartbeats of a frame, to its end; `None` if they are not those that [`put`] makes.
pub(crate) fn get(mut body: Bytes) -> Option<Vec<Heartbeat>> {
    let mut beats = Vec::new();
    while body.has_remaining() {
        if beats.len() == HEARTBEATS_PER_FRAME {
            return None;
        }
        let mut number = || decode_varint(&mut body).ok();
        let group = GroupId::new(number()?)?;
        let (from, to, term, commit) = (number()?, number()?, number()?, number()?);
        let length = usize::try_from(number()?).ok().filter(|length| *length <= body.len())?;
        if length > CONTEXT_BYTES_MAX {
            return None;
        }
        // Copied, so that one of them does not hold the bytes of all.
        let context = Bytes::copy_from_slice(&body.split_to(length));
        beats.push(Heartbeat { group, from, to, term, commit, context });
    }
    Some(beats)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u64) -> GroupId {
        GroupId::new(number).unwrap()
    }

    fn message(kind: MessageType, context: &'static [u8]) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to, message.term, message.commit) = (1, 300, 70_000, u64::MAX);
        message.context = Bytes::from_static(context);
        message
    }

    #[test]
    fn what_is_put_is_got_and_says_the_same() {
        let kinds = [MessageType::MsgHeartbeat, MessageType::MsgHeartbeatResponse];
        for kind in kinds {
            let messages = [message(kind, b""), message(kind, b"12345678")];
            let beats: Vec<_> = messages
                .iter()
                .zip(1..)
                .map(|(message, number)| Heartbeat::of(group(number), message).unwrap())
                .collect();
            let mut bytes = BytesMut::new();
            put(&beats, &mut bytes);
            let got = get(bytes.freeze()).unwrap();
            assert_eq!(got, beats);
            let back: Vec<_> = got.into_iter().map(|beat| beat.into_message(kind)).collect();
            assert_eq!(back, messages);
        }
    }

    #[test]
    fn what_says_more_is_no_heartbeat() {
        let plain = message(MessageType::MsgHeartbeatResponse, b"");
        for change in [
            |m: &mut Message| m.index = 1,
            |m: &mut Message| m.reject = true,
            |m: &mut Message| m.request_snapshot = 1,
            |m: &mut Message| m.priority = 1,
            |m: &mut Message| m.log_term = 1,
            |m: &mut Message| m.mut_snapshot().mut_metadata().index = 1,
        ] {
            let mut more = plain.clone();
            change(&mut more);
            assert_eq!(Heartbeat::of(group(1), &more), None, "{more:?}");
        }
    }

    #[test]
    fn what_is_cut_or_too_much_is_refused() {
        let beat =
            Heartbeat::of(group(9), &message(MessageType::MsgHeartbeat, b"context")).unwrap();
        let mut bytes = BytesMut::new();
        put(std::slice::from_ref(&beat), &mut bytes);
        let bytes = bytes.freeze();
        for end in 1..bytes.len() {
            assert_eq!(get(bytes.slice(..end)), None, "{end} bytes");
        }
        // Group 0 is the engine's own.
        assert_eq!(get(Bytes::from_static(&[0; 6])), None);
        let mut many = BytesMut::new();
        put(&vec![beat; HEARTBEATS_PER_FRAME + 1], &mut many);
        assert_eq!(get(many.freeze()), None);
    }
}
