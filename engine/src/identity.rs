//! The identity of a directory: which cluster, node and formatting it is.
//!
//! A directory is formatted once, explicitly. [`format()`] writes the file `identity`;
//! [`Formatted::open`] reads it, takes the lock, and is the only way to an
//! [`Engine`](crate::Engine).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use thiserror::Error;

use crate::address;
use crate::damage::{Damage, REPLACE_NODE};
use crate::directory::{self, IDENTITY, IDENTITY_TEMPORARY, LOCK, LOG, Lock, WITNESS};
use crate::frame;
use crate::ids::{ClusterId, DirectoryId, NodeId};
use crate::witness;

const KIND: [u8; 4] = *b"QIDN";
const VERSION: u16 = 1;
/// Identity files beyond this are not ours: it holds hundreds of voters with room to spare.
const IDENTITY_BYTES_MAX: u64 = 1 << 20;
/// Initial voters beyond this are a mistake: every one of them must be reached once at genesis.
const VOTERS_MAX: usize = 101;

/// An initial voter: a node, and the address at which its peers reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// The node.
    pub node_id: NodeId,
    /// `HOST:PORT` of its Raft listener.
    pub addr: String,
}

/// How a directory comes to be part of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Founding {
    /// As one of these initial voters, which found the cluster together.
    Voters(Vec<Voter>),
    /// By joining a cluster that exists, at one of these addresses (`HOST:PORT`).
    Join(Vec<String>),
}

/// Who a directory is. Written once, by [`format()`], and never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node_id: NodeId,
    /// This formatting of this directory.
    pub directory_id: DirectoryId,
    /// How it comes into the cluster.
    pub founding: Founding,
}

/// Why a directory was not formatted. Nothing was changed, unless the error is [`Self::Io`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The list of voters (or of addresses to join) is empty.
    #[error("the list of initial voters or of addresses to join is empty: name at least one")]
    NobodyNamed,
    /// There are more initial voters than can be founded with.
    #[error("{count} initial voters are more than {max}: found with fewer, and let others join")]
    TooManyVoters {
        /// How many were given.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// This node is not one of the voters.
    #[error(
        "node {node_id} is not among the initial voters: add it to the list, or format it to join"
    )]
    NodeNotVoter {
        /// This node.
        node_id: NodeId,
    },
    /// A node is named twice.
    #[error("node {node_id} is named twice among the initial voters: give every node its own id")]
    DoubledNode {
        /// The doubled node.
        node_id: NodeId,
    },
    /// An address is named twice.
    #[error("address {addr} is named twice: every node listens on its own")]
    DoubledAddress {
        /// The doubled address.
        addr: String,
    },
    /// An address is not `HOST:PORT`.
    #[error("address {addr:?} is not HOST:PORT: {reason}")]
    Address {
        /// The address.
        addr: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The directory was formatted before.
    #[error(
        "{} is formatted already: start the node, or choose another directory",
        dir.display()
    )]
    AlreadyFormatted {
        /// The directory.
        dir: PathBuf,
    },
    /// There is something else in the directory.
    #[error(
        "{} is not empty, it holds {found:?}: choose an empty directory, nothing is ever overwritten",
        dir.display()
    )]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// The name of one thing in it.
        found: String,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another process: stop it first", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A file operation failed.
    #[error("{}: {source}: check that the disk is writable and has room", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Why a directory is not usable as a formatted one. Nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The directory was never formatted.
    #[error("{} is not formatted: run `quorate format` for it first", dir.display())]
    NotFormatted {
        /// The directory.
        dir: PathBuf,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another process: stop it first", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The identity is not what was written.
    #[error("{0}")]
    Damaged(Damage),
    /// A file operation failed.
    #[error("{}: {source}: check the disk and the permissions", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

#[derive(Clone, PartialEq, Message)]
struct IdentityBody {
    #[prost(bytes = "vec", tag = "1")]
    cluster_id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    node_id: u64,
    #[prost(bytes = "vec", tag = "3")]
    directory_id: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    voters: Vec<VoterBody>,
    #[prost(string, repeated, tag = "5")]
    join: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct VoterBody {
    #[prost(uint64, tag = "1")]
    node_id: u64,
    #[prost(string, tag = "2")]
    addr: String,
}

impl Founding {
    fn check(&self, node_id: NodeId) -> Result<(), FormatError> {
        let addrs: Vec<&String> = match self {
            Self::Voters(voters) => {
                if voters.len() > VOTERS_MAX {
                    let count = voters.len();
                    return Err(FormatError::TooManyVoters { count, max: VOTERS_MAX });
                }
                let mut nodes = BTreeSet::new();
                if let Some(doubled) = voters.iter().find(|voter| !nodes.insert(voter.node_id)) {
                    return Err(FormatError::DoubledNode { node_id: doubled.node_id });
                }
                if !voters.is_empty() && !nodes.contains(&node_id) {
                    return Err(FormatError::NodeNotVoter { node_id });
                }
                voters.iter().map(|voter| &voter.addr).collect()
            }
            Self::Join(addrs) => addrs.iter().collect(),
        };
        if addrs.is_empty() {
            return Err(FormatError::NobodyNamed);
        }
        let mut seen = BTreeSet::new();
        for addr in addrs {
            address::check(addr)
                .map_err(|reason| FormatError::Address { addr: addr.clone(), reason })?;
            if !seen.insert(addr.to_ascii_lowercase()) {
                return Err(FormatError::DoubledAddress { addr: addr.clone() });
            }
        }
        Ok(())
    }
}

impl Identity {
    /// Reads and verifies the identity of `dir`, and changes nothing.
    pub(crate) fn read(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(IDENTITY);
        let damaged =
            |what: String| IdentityError::Damaged(Damage::of_file(&path, what, REPLACE_NODE));
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > IDENTITY_BYTES_MAX => {
                return Err(damaged(format!("it is {} bytes long, which none is", meta.len())));
            }
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                // An interrupted format leaves a witness, and never a log.
                if dir.join(LOG).exists() {
                    return Err(damaged("it is missing, and there is a log".to_owned()));
                }
                return Err(IdentityError::NotFormatted { dir: dir.to_owned() });
            }
            Err(source) => return Err(IdentityError::Io { path, source }),
        }
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(IdentityError::Io { path, source }),
        };
        Self::decode(&bytes).map_err(|error| {
            IdentityError::Damaged(Damage::of_frame(&path, "the identity", &error))
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (voters, join) = match &self.founding {
            Founding::Voters(voters) => (voters.as_slice(), Vec::new()),
            Founding::Join(addrs) => (&[][..], addrs.clone()),
        };
        let body = IdentityBody {
            cluster_id: self.cluster_id.as_bytes().to_vec(),
            node_id: self.node_id.get(),
            directory_id: self.directory_id.as_bytes().to_vec(),
            voters: voters
                .iter()
                .map(|voter| VoterBody { node_id: voter.node_id.get(), addr: voter.addr.clone() })
                .collect(),
            join,
        };
        frame::seal_message(KIND, VERSION, &body)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, frame::FrameError> {
        let bad = |what: &str| frame::FrameError::Body(what.to_owned());
        let body = IdentityBody::decode(frame::unseal(KIND, VERSION, bytes)?)
            .map_err(|error| frame::FrameError::Body(error.to_string()))?;
        let uuid = |bytes: Vec<u8>| <[u8; 16]>::try_from(bytes).map_err(|_| bad("an id's length"));
        let voters = body
            .voters
            .into_iter()
            .map(|voter| {
                let node_id = NodeId::new(voter.node_id).ok_or_else(|| bad("voter 0"))?;
                Ok(Voter { node_id, addr: voter.addr })
            })
            .collect::<Result<Vec<_>, frame::FrameError>>()?;
        let node_id = NodeId::new(body.node_id).ok_or_else(|| bad("node 0"))?;
        let founding =
            if voters.is_empty() { Founding::Join(body.join) } else { Founding::Voters(voters) };
        founding.check(node_id).map_err(|error| frame::FrameError::Body(error.to_string()))?;
        Ok(Self {
            cluster_id: ClusterId::from_bytes(uuid(body.cluster_id)?),
            node_id,
            directory_id: DirectoryId::from_bytes(uuid(body.directory_id)?),
            founding,
        })
    }
}

/// Makes `dir` the directory of node `node_id` in cluster `cluster_id`: creates it if it does not
/// exist, gives it a random directory id, and makes all of it durable before it returns.
///
/// A crash in between leaves a directory that can be formatted again. Blocks on the disk.
///
/// # Errors
///
/// [`FormatError`]: a founding that is not valid, a directory that is not empty, or a failing
/// disk.
pub fn format(
    dir: &Path,
    cluster_id: ClusterId,
    node_id: NodeId,
    founding: Founding,
) -> Result<Identity, FormatError> {
    founding.check(node_id)?;
    let io_at = |path: &Path| {
        let path = path.to_owned();
        move |source| FormatError::Io { path, source }
    };
    directory::create_dir_durable(dir).map_err(io_at(dir))?;
    // Before the lock file is made: a refused directory stays as it was.
    refuse_content(dir)?;
    let lock = Lock::take(dir)
        .map_err(io_at(&dir.join(LOCK)))?
        .ok_or_else(|| FormatError::InUse { dir: dir.to_owned() })?;
    // Again under the lock: of two formats at once, one wins and the other is refused.
    refuse_content(dir)?;
    let directory_id = DirectoryId::random();
    let identity = Identity { cluster_id, node_id, directory_id, founding };
    write_identity(dir, &identity).map_err(|(path, source)| FormatError::Io { path, source })?;
    let parent = directory::parent_of(dir);
    directory::sync_dir(&parent).map_err(io_at(&parent))?;
    drop(lock);
    Ok(identity)
}

/// Writes witness and identity, in this order: from the moment that the directory is formatted, a
/// witness that is missing has been lost.
pub(crate) fn write_identity(dir: &Path, identity: &Identity) -> Result<(), (PathBuf, io::Error)> {
    let witness = dir.join(WITNESS);
    write_durable(&witness, &witness::fresh(identity.directory_id))
        .map_err(|error| (witness, error))?;
    let temporary = dir.join(IDENTITY_TEMPORARY);
    write_durable(&temporary, &identity.encode()).map_err(|error| (temporary.clone(), error))?;
    let path = dir.join(IDENTITY);
    // The witness's name before the identity's.
    directory::sync_dir(dir).map_err(|error| (dir.to_owned(), error))?;
    std::fs::rename(&temporary, &path).map_err(|error| (path, error))?;
    directory::sync_dir(dir).map_err(|error| (dir.to_owned(), error))
}

fn write_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Refuses a directory with anything in it but what an interrupted format leaves, and the folder
/// that a fresh ext4 file system has at its root.
fn refuse_content(dir: &Path) -> Result<(), FormatError> {
    let io_at = |source| FormatError::Io { path: dir.to_owned(), source };
    if dir.join(IDENTITY).exists() {
        return Err(FormatError::AlreadyFormatted { dir: dir.to_owned() });
    }
    for entry in std::fs::read_dir(dir).map_err(io_at)? {
        let name = entry.map_err(io_at)?.file_name();
        let is_leftover = [LOCK, WITNESS, IDENTITY_TEMPORARY].iter().any(|known| name == *known);
        if !is_leftover && name != "lost+found" {
            let found = name.to_string_lossy().into_owned();
            return Err(FormatError::NotEmpty { dir: dir.to_owned(), found });
        }
    }
    Ok(())
}

/// A formatted directory, verified and locked: "formatted before open" as a type.
///
/// The lock is held for as long as this value, or the engine made of it, lives.
#[derive(Debug)]
pub struct Formatted {
    pub(crate) dir: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) lock: Lock,
}

impl Formatted {
    /// Reads and verifies the identity of `dir` and takes its lock, without waiting. Blocks on
    /// the disk.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]: not formatted, in use, damaged, or a failing disk.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let dir = dir.into();
        // Read before the lock is taken: a directory that is not ours gets no LOCK file from us.
        let identity = Identity::read(&dir)?;
        let lock = match Lock::take(&dir) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(IdentityError::InUse { dir }),
            Err(source) => return Err(IdentityError::Io { path: dir.join(LOCK), source }),
        };
        Ok(Self { dir, identity, lock })
    }

    /// Who the directory is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(node: u64, addr: &str) -> Voter {
        Voter { node_id: NodeId::new(node).unwrap(), addr: addr.to_owned() }
    }

    fn three() -> Founding {
        Founding::Voters(vec![voter(1, "a:9001"), voter(2, "b:9001"), voter(3, "c:9001")])
    }

    fn node(number: u64) -> NodeId {
        NodeId::new(number).unwrap()
    }

    #[test]
    fn a_directory_is_what_it_was_formatted_as() {
        for founding in [three(), Founding::Join(vec!["[::1]:9001".into(), "b:2".into()])] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("deep/data");
            let cluster = ClusterId::random();
            let identity = format(&dir, cluster, node(2), founding.clone()).unwrap();
            assert_eq!((identity.cluster_id, identity.node_id), (cluster, node(2)));
            assert_eq!(identity.founding, founding);
            let formatted = Formatted::open(&dir).unwrap();
            assert_eq!(formatted.identity(), &identity);
            assert_eq!(formatted.dir(), dir);
        }
    }

    #[test]
    fn a_founding_that_is_not_valid_changes_nothing() {
        let cases = [
            (Founding::Voters(vec![]), "name at least one"),
            (Founding::Join(vec![]), "name at least one"),
            (Founding::Voters(vec![voter(1, "a:1"), voter(1, "b:1")]), "named twice"),
            (Founding::Voters(vec![voter(1, "a:1"), voter(2, "A:1")]), "named twice"),
            (Founding::Voters(vec![voter(2, "a:1")]), "not among the initial voters"),
            (Founding::Voters(vec![voter(1, "a")]), "not HOST:PORT"),
            (Founding::Join(vec!["a:0".into()]), "not HOST:PORT"),
            (
                Founding::Voters((1..=102).map(|i| voter(i, &format!("a:{i}"))).collect()),
                "more than 101",
            ),
        ];
        for (founding, text) in cases {
            let parent = tempfile::tempdir().unwrap();
            let dir = parent.path().join("data");
            let error = format(&dir, ClusterId::random(), node(1), founding).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert!(!dir.exists());
        }
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine"), b"precious").unwrap();
        let error = format(dir.path(), ClusterId::random(), node(1), three()).unwrap_err();
        assert!(matches!(&error, FormatError::NotEmpty { found, .. } if found == "mine"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::remove_file(dir.path().join("mine")).unwrap();
        // What an interrupted format leaves is no obstacle.
        std::fs::write(dir.path().join(IDENTITY_TEMPORARY), b"half").unwrap();
        let first = format(dir.path(), ClusterId::random(), node(1), three()).unwrap();
        let error = format(dir.path(), ClusterId::random(), node(1), three()).unwrap_err();
        assert!(matches!(error, FormatError::AlreadyFormatted { .. }), "{error}");
        assert_eq!(Formatted::open(dir.path()).unwrap().identity, first);
    }

    #[test]
    fn a_directory_that_was_not_formatted_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("nowhere")] {
            let error = Formatted::open(path).unwrap_err();
            assert!(matches!(error, IdentityError::NotFormatted { .. }), "{error}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        format(dir.path(), ClusterId::random(), node(1), three()).unwrap();
        let held = Formatted::open(dir.path()).unwrap();
        let error = Formatted::open(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::InUse { .. }), "{error}");
        drop(held);
        Formatted::open(dir.path()).unwrap();
    }

    #[test]
    fn every_flipped_byte_of_the_identity_is_found() {
        let dir = tempfile::tempdir().unwrap();
        format(dir.path(), ClusterId::random(), node(1), three()).unwrap();
        let path = dir.path().join(IDENTITY);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            let error = Formatted::open(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged(_)), "byte {at}: {error}");
        }
        std::fs::write(&path, &bytes).unwrap();
        Formatted::open(dir.path()).unwrap();
    }
}
