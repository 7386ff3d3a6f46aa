//! Recent entries in memory: one budget for all groups, one contiguous window a group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft::eraftpb::Entry;

/// The memory that the cached entries of all groups of one engine share.
///
/// A group that grows makes room among its own entries only; so what is not pinned never exceeds
/// the budget, without one group touching another.
#[derive(Debug, Clone)]
pub struct CacheBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    bytes_max: u64,
    used: AtomicU64,
}

impl CacheBudget {
    /// A budget of `bytes_max` bytes, nothing of it used.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Budget { bytes_max, used: AtomicU64::new(0) }))
    }

    /// Bytes that entries hold now, pinned ones included.
    pub fn used_bytes(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.used_bytes() > self.0.bytes_max
    }
}

/// The newest entries of one group: contiguous, and ending at the log's last index.
#[derive(Debug)]
pub(crate) struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: u64,
    budget: CacheBudget,
}

/// What an entry costs: its payload, and the structure around it.
fn cost(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + size_of::<Entry>()) as u64
}

impl EntryCache {
    pub(crate) fn new(budget: CacheBudget) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, budget }
    }

    /// Index of the first cached entry; `None` when there is none.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, entries: usize) {
        self.entries.reserve(entries);
    }

    /// Entries for which there is room.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Adds the entry after the last one.
    pub(crate) fn push(&mut self, entry: Entry) {
        if let Some(last) = self.entries.back() {
            assert_eq!(last.index + 1, entry.index, "the cache has no holes");
        }
        self.grow(cost(&entry));
        self.entries.push_back(entry);
    }

    /// Drops `index` and all beyond.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.shrink(cost(&entry));
            }
        }
    }

    /// Drops all up to and including `index`.
    pub(crate) fn drop_to(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.pop_front();
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.shrink(self.bytes);
        self.entries = VecDeque::new();
    }

    /// Makes room, oldest first, among the entries at or below `unpinned`.
    pub(crate) fn trim(&mut self, unpinned: u64) {
        while self.budget.is_exceeded()
            && self.entries.front().is_some_and(|entry| entry.index <= unpinned)
        {
            self.pop_front();
        }
        // A burst must not keep its room for ever; 64 slots are not worth the copying, but those of
        // many quiet groups add up.
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        } else if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// The cached entries from `low`, which is cached, on.
    pub(crate) fn from(&self, low: u64) -> impl DoubleEndedIterator<Item = &Entry> {
        let first = self.first_index().unwrap_or(low);
        let skip = usize::try_from(low.saturating_sub(first)).unwrap_or(usize::MAX);
        self.entries.range(skip.min(self.entries.len())..)
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.shrink(cost(&entry));
        }
    }

    fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.budget.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn shrink(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for EntryCache {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, 1);
        entry.data = vec![0; 100].into();
        entry
    }

    fn indexes(cache: &EntryCache, low: u64) -> Vec<u64> {
        cache.from(low).map(|entry| entry.index).collect()
    }

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let one = cost(&entry(1));
        let budget = CacheBudget::new(3 * one);
        let (mut a, mut b) = (EntryCache::new(budget.clone()), EntryCache::new(budget.clone()));
        for index in 1..=3 {
            a.push(entry(index));
        }
        a.trim(u64::MAX);
        assert_eq!(indexes(&a, 1), [1, 2, 3]);
        b.push(entry(9));
        b.trim(8);
        assert_eq!(indexes(&b, 9), [9], "pinned entries stay, whatever they cost");
        a.push(entry(4));
        a.trim(4);
        assert_eq!(indexes(&a, 3), [3, 4]);
        assert_eq!(budget.used_bytes(), 3 * one);
        drop(a);
        assert_eq!(budget.used_bytes(), one);
        b.clear();
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_suffix_and_a_prefix_are_dropped() {
        let mut cache = EntryCache::new(CacheBudget::new(u64::MAX));
        (5..=9).for_each(|index| cache.push(entry(index)));
        cache.truncate_from(8);
        cache.drop_to(5);
        assert_eq!((cache.first_index(), indexes(&cache, 6)), (Some(6), vec![6, 7]));
        cache.truncate_from(1);
        assert_eq!((cache.first_index(), cache.bytes), (None, 0));
    }
}
