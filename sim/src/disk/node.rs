//! One file apart from its names: what is seen, what a sync made durable, and what happened since.

use std::io;

use bytes::Bytes;

use super::content::Content;
use super::survival::Toss;

/// Bytes that a disk writes as a whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// A change that no sync has made durable yet.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    Write {
        offset: u64,
        data: Bytes,
    },
    SetLen(u64),
    /// Of an allocation, which only makes a file longer.
    Extend(u64),
}

impl Change {
    fn apply(&self, content: &mut Content) -> io::Result<()> {
        match self {
            Self::Write { offset, data } => content.write_at(*offset, data),
            Self::SetLen(len) => content.set_len(*len),
            Self::Extend(len) => content.extend_to(*len),
        }
    }
}

/// A file apart from its names.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Node {
    visible: Content,
    durable: Content,
    unsynced: Vec<Change>,
}

impl Node {
    /// What a reader sees.
    pub(crate) fn visible(&self) -> &Content {
        &self.visible
    }

    /// Whether everything that is seen is durable.
    pub(crate) fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        change.apply(&mut self.visible)?;
        self.unsynced.push(change);
        Ok(())
    }

    /// Writes at `offset`.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.change(Change::Write { offset, data: Bytes::copy_from_slice(data) })
    }

    /// Sets the length.
    pub(crate) fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    /// Makes it at least `len` long.
    pub(crate) fn extend_to(&mut self, len: u64) -> io::Result<()> {
        if len <= self.visible.len() {
            return Ok(());
        }
        self.change(Change::Extend(len))
    }

    /// Makes what is seen durable.
    pub(crate) fn sync(&mut self) {
        self.durable = self.visible.clone();
        self.unsynced.clear();
    }

    /// Changes what is durable and what is seen alike: damage at rest. What was unsynced is made
    /// durable before.
    pub(crate) fn alter(
        &mut self,
        alter: impl FnOnce(&mut Content) -> io::Result<()>,
    ) -> io::Result<()> {
        alter(&mut self.visible)?;
        self.sync();
        Ok(())
    }

    /// What a power loss leaves: the durable content, and of the changes since those that `toss`
    /// lets survive, in their order.
    pub(crate) fn after_power_loss(&self, toss: &mut Toss) -> Self {
        let mut content = self.durable.clone();
        for change in &self.unsynced {
            // A change that was applied once fits the limits: it cannot fail again.
            let _ = match change {
                Change::Write { offset, data } if toss.survives() => {
                    write_torn(&mut content, *offset, data, toss)
                }
                change if toss.survives() => change.apply(&mut content),
                _ => Ok(()),
            };
        }
        Self { visible: content.clone(), durable: content, unsynced: Vec::new() }
    }
}

/// Writes what is left of a surviving write: all of it, a beginning, or some of its sectors.
fn write_torn(content: &mut Content, offset: u64, data: &[u8], toss: &mut Toss) -> io::Result<()> {
    if let Some(cut) = toss.cut(data.len()) {
        return content.write_at(offset, &data[..cut]);
    }
    if !toss.is_scattered() {
        return content.write_at(offset, data);
    }
    let end = offset + data.len() as u64;
    if toss.survives() {
        // The length is kept elsewhere than the data, and may be there before them.
        content.extend_to(end)?;
    }
    let mut at = offset;
    while at < end {
        let next = (at / SECTOR_BYTES + 1).saturating_mul(SECTOR_BYTES).min(end);
        if toss.survives() {
            let range = (at - offset) as usize..(next - offset) as usize;
            content.write_at(at, &data[range])?;
        }
        at = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::survival::Survival;
    use super::*;

    fn left(node: &Node, survival: Survival) -> Vec<u8> {
        node.after_power_loss(&mut survival.toss()).visible().to_vec()
    }

    #[test]
    fn a_sync_makes_durable_what_is_seen() {
        let mut node = Node::default();
        node.write(0, b"abc").unwrap();
        assert_eq!(left(&node, Survival::LoseAll), b"");
        assert_eq!(left(&node, Survival::KeepAll), b"abc");
        node.sync();
        node.write(1, b"XY").unwrap();
        node.extend_to(5).unwrap();
        node.set_len(2).unwrap();
        assert_eq!(left(&node, Survival::LoseAll), b"abc");
        assert_eq!(left(&node, Survival::KeepAll), b"aX");
    }

    #[test]
    fn changes_are_lost_apart_from_each_other() {
        let mut node = Node::default();
        node.write(0, b"a").unwrap();
        node.write(1, b"b").unwrap();
        let found: std::collections::BTreeSet<_> =
            (0..400).map(|seed| left(&node, Survival::Random(seed))).collect();
        for expected in [&b""[..], b"a", b"\0b", b"ab"] {
            assert!(found.contains(expected), "{expected:?} in {found:?}");
        }
    }

    #[test]
    fn a_surviving_write_may_be_cut_or_lack_sectors() {
        let mut node = Node::default();
        node.write(0, &[0; 2048]).unwrap();
        node.sync();
        node.write(100, &[7; 1800]).unwrap();
        let (mut cut, mut scattered) = (0, 0);
        for seed in 0..1000 {
            let left = left(&node, Survival::Random(seed));
            assert_eq!(left.len(), 2048);
            let runs = left.chunk_by(|a, b| a == b).count();
            let first = left[100] == 7;
            let until = left.iter().rposition(|byte| *byte == 7).map_or(0, |at| at + 1);
            if first && runs == 3 && until < 1900 && until % 512 != 0 {
                cut += 1;
            }
            if runs > 3 {
                scattered += 1;
                // Only whole sectors are missing.
                assert!((512..1536).all(|at| left[at] == left[at / 512 * 512]));
            }
        }
        assert!(cut > 20 && scattered > 20, "{cut} cut, {scattered} scattered");
    }
}
