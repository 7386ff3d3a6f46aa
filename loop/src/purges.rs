//! [`Purges`]: when the log's files must be looked through.

/// When the log's files must be looked through, beside after every snapshot: whenever they have
/// grown by a quarter of what they may take.
#[derive(Debug)]
pub(crate) struct Purges {
    threshold: u64,
    purged_at: u64,
}

impl Purges {
    /// Files may take `threshold` bytes altogether.
    pub(crate) fn new(threshold: u64) -> Self {
        Purges { threshold, purged_at: threshold - threshold / 4 }
    }

    /// Whether they must be, now that they take `disk_bytes`.
    pub(crate) fn is_due(&mut self, disk_bytes: u64) -> bool {
        let least = self.threshold - self.threshold / 4;
        self.purged_at = self.purged_at.min(disk_bytes).max(least);
        let is_due = disk_bytes >= self.purged_at + self.threshold / 4;
        if is_due {
            self.purged_at = disk_bytes;
        }
        is_due
    }
}
