//! The entries that both stores are given.

use bytes::Bytes;
use raft::eraftpb::Entry;

use crate::engine::PAYLOAD_BYTES;

/// The term of every entry.
pub(crate) const TERM: u64 = 1;

/// `count` entries from index `first` on. Each owns its data, as one that came from a client does.
pub(crate) fn entries(first: u64, count: u64) -> Vec<Entry> {
    (first..first + count).map(entry).collect()
}

fn entry(index: u64) -> Entry {
    let mut data = vec![0; PAYLOAD_BYTES];
    // No two alike, and nothing that a file system could compress away.
    let mut state = index;
    for chunk in data.chunks_mut(8) {
        state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ index;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    let data = Bytes::from(data);
    Entry { index, term: TERM, data, ..Entry::default() }
}
