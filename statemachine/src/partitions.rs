//! [`Partitions`]: those of one topic, in blocks that images share.

use std::sync::Arc;

use imbl::Vector;

use crate::partition::Partition;

/// Partitions of a block. A change copies one block and the list of blocks: long blocks make the
/// first dear and short ones the second, where every block is a cache miss.
const BLOCK_LEN: usize = 8;

/// The partitions of a topic by number, from 0. A clone is O(1) and shares the blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Partitions {
    /// Each of [`BLOCK_LEN`], but the last of one to as many.
    blocks: Vector<Arc<[Partition]>>,
}

impl Partitions {
    pub(crate) fn len(&self) -> usize {
        let last = self.blocks.last().map_or(0, |block| block.len());
        self.blocks.len().saturating_sub(1) * BLOCK_LEN + last
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Partition> {
        self.blocks.get(number / BLOCK_LEN)?.get(number % BLOCK_LEN)
    }

    pub(crate) fn get_mut(&mut self, number: usize) -> Option<&mut Partition> {
        let block = self.blocks.get_mut(number / BLOCK_LEN)?;
        Arc::make_mut(block).get_mut(number % BLOCK_LEN)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.blocks.iter().flat_map(|block| block.iter())
    }
}

impl Extend<Partition> for Partitions {
    fn extend<I: IntoIterator<Item = Partition>>(&mut self, partitions: I) {
        // A last block that is not full is made anew, with what else fits into it.
        let begun = match self.blocks.last() {
            Some(block) if block.len() < BLOCK_LEN => self.blocks.pop_back(),
            _ => None,
        };
        let begun: Vec<Partition> = begun.iter().flat_map(|block| block.iter().cloned()).collect();
        let mut partitions = begun.into_iter().chain(partitions);
        loop {
            let block: Arc<[Partition]> = partitions.by_ref().take(BLOCK_LEN).collect();
            if block.is_empty() {
                break;
            }
            self.blocks.push_back(block);
        }
    }
}

impl FromIterator<Partition> for Partitions {
    fn from_iter<I: IntoIterator<Item = Partition>>(partitions: I) -> Self {
        let mut all = Self::default();
        all.extend(partitions);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PartitionEpoch;
    use crate::testing::ids;

    /// So many, each with its number as epoch, beginning with `first`.
    fn numbered(first: usize, count: usize) -> Vec<Partition> {
        (first..first + count)
            .map(|number| Partition {
                partition_epoch: PartitionEpoch(u32::try_from(number).expect("few")),
                ..Partition::created(ids(&[1]), ids(&[1]))
            })
            .collect()
    }

    #[test]
    fn however_they_were_added_they_are_the_same() {
        for count in 0..=3 * BLOCK_LEN {
            let all = numbered(0, count);
            let at_once: Partitions = all.iter().cloned().collect();
            assert_eq!((at_once.len(), at_once.is_empty()), (count, count == 0));
            assert!(at_once.iter().eq(&all));
            for (number, partition) in all.iter().enumerate() {
                assert_eq!(at_once.get(number), Some(partition));
            }
            assert_eq!(at_once.get(count), None);
            for first in 0..=count {
                let mut grown: Partitions = numbered(0, first).into_iter().collect();
                grown.extend(numbered(first, count - first));
                assert_eq!(grown, at_once, "{first} and then to {count}");
            }
        }
    }

    #[test]
    fn a_change_is_not_seen_in_an_earlier_copy() {
        let mut partitions: Partitions = numbered(0, BLOCK_LEN + 1).into_iter().collect();
        let before = partitions.clone();
        for number in [0, BLOCK_LEN] {
            partitions.get_mut(number).expect("there").partition_epoch = PartitionEpoch(99);
        }
        assert_eq!(partitions.get_mut(BLOCK_LEN + 1), None);
        assert!(before.iter().eq(&numbered(0, BLOCK_LEN + 1)));
        let changed = partitions.iter().filter(|it| it.partition_epoch == PartitionEpoch(99));
        assert_eq!(changed.count(), 2);
    }
}
