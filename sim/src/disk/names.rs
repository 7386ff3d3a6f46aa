//! Names of files: what is seen, what is durable, and what happened in between.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::survival::Toss;

/// A file, whatever it is called.
pub(crate) type NodeId = u64;

/// A change of names that is not durable yet. Each speaks of one file, so that it does nothing to
/// another that has taken the name since.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    Create { path: PathBuf, node: NodeId },
    Remove { path: PathBuf, node: NodeId },
    Rename { from: PathBuf, to: PathBuf, node: NodeId },
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, NodeId>) {
        match self {
            Self::Create { path, node } => {
                names.insert(path.clone(), *node);
            }
            Self::Remove { path, node } => remove(names, path, *node),
            Self::Rename { from, to, node } => {
                remove(names, from, *node);
                names.insert(to.clone(), *node);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Create { path, .. } | Self::Remove { path, .. } => path.parent() == Some(dir),
            Self::Rename { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn node(&self) -> NodeId {
        match self {
            Self::Create { node, .. } | Self::Remove { node, .. } | Self::Rename { node, .. } => {
                *node
            }
        }
    }
}

fn remove(names: &mut BTreeMap<PathBuf, NodeId>, path: &Path, node: NodeId) {
    if names.get(path) == Some(&node) {
        names.remove(path);
    }
}

/// The names of a disk, relative to its root.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Names {
    visible: BTreeMap<PathBuf, NodeId>,
    durable: BTreeMap<PathBuf, NodeId>,
    pending: Vec<Change>,
}

impl Names {
    /// The file that has this name.
    pub(crate) fn get(&self, path: &Path) -> Option<NodeId> {
        self.visible.get(path).copied()
    }

    /// All names that are seen, with their files, in order.
    pub(crate) fn visible(&self) -> impl Iterator<Item = (&PathBuf, NodeId)> {
        self.visible.iter().map(|(path, node)| (path, *node))
    }

    /// Whether everything that is seen is durable.
    pub(crate) fn is_synced(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether a file may still be reached, now or after a power loss.
    pub(crate) fn may_reach(&self, node: NodeId) -> bool {
        self.visible.values().chain(self.durable.values()).any(|id| *id == node)
            || self.pending.iter().any(|change| change.node() == node)
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.visible);
        self.pending.push(change);
    }

    pub(crate) fn create(&mut self, path: PathBuf, node: NodeId) {
        self.change(Change::Create { path, node });
    }

    pub(crate) fn remove(&mut self, path: PathBuf, node: NodeId) {
        self.change(Change::Remove { path, node });
    }

    pub(crate) fn rename(&mut self, from: PathBuf, to: PathBuf, node: NodeId) {
        self.change(Change::Rename { from, to, node });
    }

    /// Makes the creation of a file's name durable.
    pub(crate) fn sync_creation(&mut self, node: NodeId) {
        let is_creation =
            |change: &Change| matches!(change, Change::Create { .. }) && change.node() == node;
        let Some(at) = self.pending.iter().position(is_creation) else { return };
        let later = self.pending.split_off(at + 1);
        let Some(creation) = self.pending.pop() else { return };
        if let Change::Create { path: taken, .. } = &creation {
            // What had this name before must not come back under it.
            self.pending.retain_mut(|change| match change {
                Change::Create { path, .. } => path != taken,
                Change::Rename { from, to, node } if to == taken => {
                    *change = Change::Remove { path: from.clone(), node: *node };
                    true
                }
                _ => true,
            });
        }
        self.pending.extend(later);
        creation.apply(&mut self.durable);
    }

    /// Makes the names in `dir` durable.
    pub(crate) fn sync_dir(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let is_here = change.is_in(dir);
            if is_here {
                change.apply(durable);
            }
            !is_here
        });
    }

    /// Exchanges what two names stand for: damage at rest. All names are durable before.
    pub(crate) fn swap(&mut self, first: &Path, second: &Path) {
        let (a, b) = (self.get(first), self.get(second));
        if let (Some(a), Some(b)) = (a, b) {
            self.visible.insert(first.to_owned(), b);
            self.visible.insert(second.to_owned(), a);
        }
        self.settle();
    }

    /// Takes a name away: damage at rest. All names are durable before.
    pub(crate) fn take(&mut self, path: &Path) {
        self.visible.remove(path);
        self.settle();
    }

    fn settle(&mut self) {
        self.durable = self.visible.clone();
        self.pending.clear();
    }

    /// What a power loss leaves: the durable names, and of the changes since those that `toss`
    /// lets survive, in their order.
    pub(crate) fn after_power_loss(&self, toss: &mut Toss) -> BTreeMap<PathBuf, NodeId> {
        let mut names = self.durable.clone();
        for change in &self.pending {
            if toss.survives() {
                change.apply(&mut names);
            }
        }
        names
    }

    /// Names that are all durable.
    pub(crate) fn durable(names: BTreeMap<PathBuf, NodeId>) -> Self {
        Self { visible: names.clone(), durable: names, pending: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::survival::Survival;
    use super::*;

    fn left(names: &Names, survival: Survival) -> Vec<(String, NodeId)> {
        let left = names.after_power_loss(&mut survival.toss());
        left.into_iter().map(|(path, node)| (path.display().to_string(), node)).collect()
    }

    fn path(text: &str) -> PathBuf {
        PathBuf::from(text)
    }

    #[test]
    fn a_name_is_durable_after_its_directory_is() {
        let mut names = Names::default();
        names.create(path("d/a"), 1);
        names.create(path("e/b"), 2);
        assert_eq!(left(&names, Survival::LoseAll), []);
        names.sync_dir(Path::new("d"));
        assert_eq!(left(&names, Survival::LoseAll), [("d/a".to_owned(), 1)]);
        names.rename(path("d/a"), path("d/c"), 1);
        names.remove(path("e/b"), 2);
        assert_eq!(left(&names, Survival::LoseAll), [("d/a".to_owned(), 1)]);
        assert_eq!(left(&names, Survival::KeepAll), [("d/c".to_owned(), 1)]);
        let found: std::collections::BTreeSet<_> =
            (0..100).map(|seed| left(&names, Survival::Random(seed))).collect();
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn a_removal_does_not_reach_the_next_file_of_that_name() {
        let mut names = Names::default();
        names.create(path("a"), 1);
        names.sync_dir(Path::new(""));
        names.create(path("t"), 2);
        names.rename(path("t"), path("b"), 2);
        names.remove(path("a"), 1);
        names.remove(path("b"), 2);
        names.create(path("a"), 3);
        names.create(path("b"), 4);
        names.sync_creation(3);
        names.sync_creation(4);
        for survival in [Survival::LoseAll, Survival::KeepAll] {
            let left = left(&names, survival);
            assert_eq!(left, [("a".to_owned(), 3), ("b".to_owned(), 4)]);
        }
    }
}
