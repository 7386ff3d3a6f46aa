//! All files of a disk and their names. Cheap to clone: files are shared until one changes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::names::{Names, NodeId};
use super::node::Node;
use super::survival::Toss;

/// The files and their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volume {
    names: Names,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    next: NodeId,
}

impl Volume {
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// The file of this name.
    pub(crate) fn lookup(&self, path: &Path) -> io::Result<NodeId> {
        self.names.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A file, by its name or a handle.
    pub(crate) fn node(&self, id: NodeId) -> io::Result<&Node> {
        self.nodes.get(&id).map(Arc::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A file that is going to be changed.
    pub(crate) fn node_mut(&mut self, id: NodeId) -> io::Result<&mut Node> {
        self.nodes.get_mut(&id).map(Arc::make_mut).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Creates a file without content.
    pub(crate) fn create(&mut self, path: &Path) -> NodeId {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Arc::default());
        self.names.create(path.to_owned(), id);
        id
    }

    /// Removes a name.
    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<NodeId> {
        let id = self.lookup(path)?;
        self.names.remove(path.to_owned(), id);
        Ok(id)
    }

    /// Gives a file another name, and takes that from whichever file has it.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.lookup(from)?;
        if from != to {
            self.names.rename(from.to_owned(), to.to_owned(), id);
        }
        Ok(())
    }

    /// Makes a file's content and the creation of its name durable.
    pub(crate) fn sync(&mut self, id: NodeId) -> io::Result<()> {
        if !self.node(id)?.is_synced() {
            self.node_mut(id)?.sync();
        }
        self.names.sync_creation(id);
        Ok(())
    }

    pub(crate) fn names_mut(&mut self) -> &mut Names {
        &mut self.names
    }

    /// Bytes of all files that are seen, as long as they are.
    pub(crate) fn used_bytes(&self) -> u64 {
        let lens = self.names.visible().filter_map(|(_, id)| self.node(id).ok());
        lens.map(|node| node.visible().len()).sum()
    }

    /// Forgets the files that neither a name nor `is_open` can reach any more.
    pub(crate) fn collect(&mut self, is_open: impl Fn(NodeId) -> bool) {
        let names = &self.names;
        self.nodes.retain(|id, _| is_open(*id) || names.may_reach(*id));
    }

    /// Whether a power loss could take nothing away.
    pub(crate) fn is_synced(&self) -> bool {
        self.names.is_synced()
            && self.names.visible().all(|(_, id)| self.node(id).is_ok_and(Node::is_synced))
    }

    /// What a power loss leaves.
    pub(crate) fn after_power_loss(&self, toss: &mut Toss) -> Self {
        let mut volume = Self::default();
        let mut names = BTreeMap::new();
        for (path, id) in self.names.after_power_loss(toss) {
            // Two names of one file, which a half-done rename leaves, are two files from now on.
            let Ok(node) = self.node(id) else { continue };
            volume.nodes.insert(volume.next, Arc::new(node.after_power_loss(toss)));
            names.insert(path, volume.next);
            volume.next += 1;
        }
        volume.names = Names::durable(names);
        volume
    }

    /// Names and contents that are seen.
    pub(crate) fn visible(&self) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.names.visible().filter_map(|(path, id)| Some((path, self.node(id).ok()?)))
    }
}

impl PartialEq for Volume {
    fn eq(&self, other: &Self) -> bool {
        // Files that only a handle reaches cannot come back.
        let live = |volume: &Self| -> Vec<_> {
            let nodes = volume.nodes.iter().filter(|(id, _)| volume.names.may_reach(**id));
            nodes.map(|(id, node)| (*id, node.clone())).collect()
        };
        let same = |a: &(NodeId, Arc<Node>), b: &(NodeId, Arc<Node>)| {
            a.0 == b.0 && (Arc::ptr_eq(&a.1, &b.1) || a.1 == b.1)
        };
        let (a, b) = (live(self), live(other));
        self.names == other.names && a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same(a, b))
    }
}
