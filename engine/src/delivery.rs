//! Entries on their way from the disk to Raft, and the size limit that Raft sets.

use protobuf::Message as _;
use raft::eraftpb::Entry;
use raft::util::NO_LIMIT;

/// Contiguous entries that the reader fetched, until Raft asks for them again.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Never empty.
    entries: Vec<Entry>,
}

impl Delivery {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        assert!(!entries.is_empty(), "an empty delivery is none");
        Self { entries }
    }

    /// Index of the first entry.
    pub(crate) fn low(&self) -> u64 {
        self.entries[0].index
    }

    /// The index after the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.low() + self.entries.len() as u64
    }

    /// The entries from `index`, which is among them, on.
    pub(crate) fn from(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(index - self.low()).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip)
    }
}

/// Raft's rule of size: at least one entry, then as long as the sum of encoded sizes stays
/// within the limit; without a limit, all (trap R08).
#[derive(Debug)]
pub(crate) struct Limit {
    bytes: u64,
    bytes_max: u64,
    count: usize,
}

impl Limit {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes: 0, bytes_max, count: 0 }
    }

    /// Whether one more entry still fits; counts it.
    pub(crate) fn admits(&mut self, entry: &Entry) -> bool {
        self.bytes = self.bytes.saturating_add(encoded_len(entry));
        self.count += 1;
        self.count == 1 || !self.is_reached()
    }

    /// Whether the limit is exceeded, so that nothing more fits.
    pub(crate) fn is_reached(&self) -> bool {
        self.bytes_max != NO_LIMIT && self.bytes > self.bytes_max
    }

    /// Bytes until the limit is exceeded.
    pub(crate) fn bytes_left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes)
    }

    /// Those of `entries` below `high` that fit.
    pub(crate) fn take<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Entry>,
        high: u64,
    ) -> Vec<Entry> {
        entries.take_while(|entry| entry.index < high && self.admits(entry)).cloned().collect()
    }
}

/// Bytes of an entry's encoding. As protobuf computes it, which takes ten times as long, and every entry is
/// counted several times on its way.
fn encoded_len(entry: &Entry) -> u64 {
    if entry.get_unknown_fields().fields.is_some() {
        return u64::from(entry.compute_size());
    }
    // Field numbers are small: a tag has one byte. What is 0 or empty is not written.
    let varint = |number: u64| u64::from((number | 1).ilog2()) / 7 + 1;
    let number = |number: u64| if number == 0 { 0 } else { 1 + varint(number) };
    let bytes = |len: usize| if len == 0 { 0 } else { 1 + varint(len as u64) + len as u64 };
    number(entry.get_entry_type() as u64)
        + number(entry.term)
        + number(entry.index)
        + bytes(entry.data.len())
        + bytes(entry.context.len())
        + number(u64::from(entry.sync_log))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::UnknownFields;
    use raft::eraftpb::EntryType;

    #[test]
    fn an_entry_is_as_long_as_its_encoding() {
        let numbers: Vec<u64> = (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit]).collect();
        let lengths = [0, 1, 127, 128, 16_383, 16_384, 1 << 21];
        let kinds =
            [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
        for (at, number) in numbers.into_iter().chain([u64::MAX]).enumerate() {
            let mut entry = Entry { index: number, term: number >> 1, ..Entry::default() };
            entry.data = vec![7; lengths[at % 7]].into();
            entry.context = vec![7; lengths[at % 5]].into();
            entry.set_entry_type(kinds[at % 3]);
            entry.sync_log = at % 2 == 1;
            assert_eq!(encoded_len(&entry), entry.write_to_bytes().unwrap().len() as u64);
            // Of a later version.
            let mut unknown = UnknownFields::new();
            unknown.add_varint(15, number);
            entry.mut_unknown_fields().clone_from(&unknown);
            assert_eq!(encoded_len(&entry), entry.write_to_bytes().unwrap().len() as u64);
        }
    }

    #[test]
    fn the_limit_is_that_of_raft() {
        let entries: Vec<Entry> = (1..=6)
            .map(|index| {
                let mut entry = Entry::default();
                (entry.index, entry.term) = (index, 1);
                entry.data = vec![0; 10 * index as usize].into();
                entry
            })
            .collect();
        for bytes_max in (0..300).chain([NO_LIMIT - 1, NO_LIMIT]) {
            let mut expected = entries.clone();
            raft::util::limit_size(&mut expected, Some(bytes_max));
            let found = Limit::new(bytes_max).take(entries.iter(), 7);
            assert_eq!(found, expected, "limit {bytes_max}");
        }
        assert_eq!(Limit::new(NO_LIMIT).take(entries.iter(), 4).len(), 3);
    }
}
