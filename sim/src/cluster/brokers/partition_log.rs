//! [`PartitionLog`]: what a broker's disk holds of one partition.

/// A record: which one it is, and in which leader epoch it was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) struct Record {
    pub(in crate::cluster) epoch: u32,
    pub(in crate::cluster) id: u64,
}

/// The records, and behind each the hash of all up to it: equal hashes, equal logs.
#[derive(Debug, Clone, Default)]
pub(in crate::cluster) struct PartitionLog {
    records: Vec<Record>,
    chain: Vec<u64>,
    /// How many of them no power loss takes.
    flushed: usize,
    /// The high watermark, as far as it is known here.
    high: usize,
}

impl PartitionLog {
    pub(in crate::cluster) fn end(&self) -> usize {
        self.records.len()
    }

    pub(in crate::cluster) fn flushed(&self) -> usize {
        self.flushed
    }

    pub(in crate::cluster) fn high(&self) -> usize {
        self.high
    }

    /// The high watermark is there, or where the log ends if that is earlier; it never goes back.
    pub(in crate::cluster) fn raise(&mut self, high: usize) {
        self.high = self.high.max(high.min(self.end()));
    }

    pub(in crate::cluster) fn append(&mut self, record: Record) {
        let before = self.chain.last().copied().unwrap_or(0xcbf2_9ce4_8422_2325);
        let mixed = (before ^ record.id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        self.chain.push((mixed ^ u64::from(record.epoch)).wrapping_mul(0xbf58_476d_1ce4_e5b9));
        self.records.push(record);
    }

    /// Up to `most` records from an offset on.
    pub(in crate::cluster) fn read(&self, from: usize, most: usize) -> Vec<Record> {
        self.records.iter().skip(from).take(most).copied().collect()
    }

    pub(in crate::cluster) fn last_epoch(&self) -> Option<u32> {
        self.records.last().map(|record| record.epoch)
    }

    /// The highest epoch up to `epoch` that has records here, and where they end (KIP-320).
    pub(in crate::cluster) fn end_of(&self, epoch: Option<u32>) -> (Option<u32>, usize) {
        let end = match epoch {
            Some(epoch) => self.records.partition_point(|record| record.epoch <= epoch),
            None => 0,
        };
        (self.records[..end].last().map(|record| record.epoch), end)
    }

    pub(in crate::cluster) fn truncate(&mut self, end: usize) {
        self.records.truncate(end);
        self.chain.truncate(end);
        self.flushed = self.flushed.min(self.end());
        self.high = self.high.min(self.end());
    }

    pub(in crate::cluster) fn flush(&mut self) {
        self.flushed = self.end();
    }

    /// The hash of the records before an offset that is in the log, if there are any.
    pub(in crate::cluster) fn hash_before(&self, offset: usize) -> Option<u64> {
        self.chain.get(offset.checked_sub(1)?).copied()
    }

    /// The hashes between two offsets, each of all up to there.
    pub(in crate::cluster) fn chain(&self) -> &[u64] {
        &self.chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(records: &[(u32, u64)]) -> PartitionLog {
        let mut log = PartitionLog::default();
        records.iter().for_each(|&(epoch, id)| log.append(Record { epoch, id }));
        log
    }

    #[test]
    fn a_log_tells_where_epochs_end() {
        let log = log(&[(1, 7), (1, 8), (4, 9)]);
        let ends = [None, Some(0), Some(1), Some(3), Some(9)].map(|epoch| log.end_of(epoch));
        assert_eq!(ends, [(None, 0), (None, 0), (Some(1), 2), (Some(1), 2), (Some(4), 3)]);
    }

    #[test]
    fn another_record_anywhere_is_another_hash_from_there_on() {
        let (one, other) = (log(&[(1, 7), (1, 8), (1, 9)]), log(&[(1, 7), (2, 8), (2, 9)]));
        assert_eq!(one.hash_before(1), other.hash_before(1));
        assert_ne!(one.hash_before(2), other.hash_before(2));
        assert_ne!(one.hash_before(3), other.hash_before(3));
        assert_eq!((one.hash_before(0), one.hash_before(4)), (None, None));
    }

    #[test]
    fn what_is_cut_off_is_neither_flushed_nor_below_the_high_watermark() {
        let mut log = log(&[(1, 7), (1, 8), (1, 9)]);
        log.flush();
        log.raise(9);
        assert_eq!((log.flushed(), log.high()), (3, 3));
        log.truncate(1);
        assert_eq!((log.end(), log.flushed(), log.high()), (1, 1, 1));
    }
}
