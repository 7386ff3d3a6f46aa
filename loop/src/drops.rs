//! Why messages are dropped and connections closed, by names that metrics show.

use crate::frame::{FrameError, RefusalCode};
use crate::transport::{HandshakeError, TransferError};

/// Declares causes, each with its name in metrics.
macro_rules! causes {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$meta:meta])* $cause:ident = $label:literal,)* }
    ) => {
        $(#[$about])*
        #[non_exhaustive]
        pub enum $name {
            $($(#[$meta])* $cause,)*
        }

        impl $name {
            /// Every cause, in the order in which they are declared.
            pub const ALL: &'static [$name] = &[$($name::$cause,)*];

            /// Its name in metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$cause => $label,)*
                }
            }
        }
    };
}

causes! {
    /// Why a message between two nodes was dropped, while the connection stayed.
    ///
    /// Dropping is harmless: Raft sends again whatever mattered. Only [`DropCause::LostLog`] and
    /// [`DropCause::FarTerm`] say something about this node itself.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
    DropCause {
        /// It came for another member than this node.
        #[error("it is addressed to another member")]
        NotForUs = "not_for_us",
        /// It came in the name of a member that its peer is not.
        #[error("its sender is not the peer that the connection belongs to")]
        ForgedSender = "forged_sender",
        /// It is of a kind that raft-rs uses inside a node.
        #[error("peers may not send this type")]
        LocalType = "local_type",
        /// It counts for a quorum, and came from a node that is no member.
        #[error("it comes from a node that is no member")]
        NotMember = "not_member",
        /// Its term is none that a group can come to.
        #[error("its term is zero or absurd")]
        BadTerm = "bad_term",
        /// The sender is, or pretends to be, further ahead than one message may bring this node. It
        /// goes there in steps: refused for ever, a peer that was made to jump could never be heard
        /// again.
        #[error("its term is too far ahead: this node follows in steps")]
        FarTerm = "far_term",
        /// Its entries are no part of a log.
        #[error("its entries do not follow one another, or change the membership")]
        BadEntries = "bad_entries",
        /// No leader says so.
        #[error("it contradicts what is committed")]
        Conflict = "conflict",
        /// It would be counted for entries that do not exist.
        #[error("it acknowledges entries that this node never had")]
        BeyondLog = "beyond_log",
        /// Nobody can have answered yet.
        #[error("it answers a vote request that was not sent yet")]
        NotAsked = "not_asked",
        /// Its snapshot cannot be one.
        #[error("its snapshot names no position, or no membership that can be")]
        BadSnapshot = "bad_snapshot",
        /// A leader knows that this node once held more than it holds now.
        #[error(
            "the leader counts on entries that this node no longer has: the log was lost or rolled back"
        )]
        LostLog = "lost_log",
        /// A snapshot came as a message; its file has a connection of its own.
        #[error("a snapshot without its file")]
        NoFile = "no_file",
        /// The members in the snapshot's file are not those that were announced.
        #[error("its file is of another membership")]
        OtherMembership = "other_membership",
        /// The disk is full or slow, and as much waits for it as may.
        #[error("there is no place for more entries")]
        NoRoom = "no_room",
        /// A vote was asked of a node that has nothing yet.
        #[error("this node waits for its first snapshot")]
        Blank = "blank",
        /// As many requests of the application run as may. Of all causes the one whose sender is told.
        #[error("too many requests of peers run already")]
        Busy = "busy",
        /// As much waits for the peer's connection as may (`peer_queue_max`).
        #[error("the queue to the peer is full")]
        QueueFull = "queue_full",
        /// The peer is not connected.
        #[error("the peer is not connected")]
        Disconnected = "disconnected",
    }
}

causes! {
    /// Why a connection that this node accepted was closed, or not begun.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    CloseCause {
        /// A frame longer than any may be there.
        Oversized = "oversized",
        /// A frame whose CRC is wrong.
        BadCrc = "bad_crc",
        /// A frame of a kind that this version does not know.
        UnknownKind = "unknown_kind",
        /// A frame that cannot be decoded.
        Malformed = "malformed",
        /// A frame that does not belong there.
        Unexpected = "unexpected",
        /// The peer is of another cluster.
        WrongCluster = "wrong_cluster",
        /// The peer speaks another version of the protocol.
        WrongProtocol = "wrong_protocol",
        /// The peer wanted another node than this one.
        WrongNode = "wrong_node",
        /// The peer is no member, and not on its way to be one.
        UnknownNode = "unknown_node",
        /// The peer has another data directory than the member that it says it is.
        ReplacedDirectory = "replaced_directory",
        /// The peer was removed from the cluster.
        Removed = "removed",
        /// The peer's certificate is not taken, or there is none.
        BadCertificate = "bad_certificate",
        /// The peer was refused for another reason, which its log tells.
        Refused = "refused",
        /// The peer was mute for too long.
        Silent = "silent",
        /// As many transfers are under way as may, or a newer one took over.
        Busy = "busy",
        /// A snapshot's file is not what was announced, or could not be written.
        BadFile = "bad_file",
        /// The connection broke, or its peer has gone.
        Broken = "broken",
    }
}

impl From<&FrameError> for CloseCause {
    fn from(error: &FrameError) -> Self {
        match error {
            FrameError::TooLong(_) => CloseCause::Oversized,
            FrameError::Crc { .. } => CloseCause::BadCrc,
            FrameError::UnknownKind(_) => CloseCause::UnknownKind,
            FrameError::Malformed { .. } => CloseCause::Malformed,
            FrameError::Unexpected => CloseCause::Unexpected,
            FrameError::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                CloseCause::Silent
            }
            FrameError::Io(_) => CloseCause::Broken,
        }
    }
}

impl From<&HandshakeError> for CloseCause {
    fn from(error: &HandshakeError) -> Self {
        match error {
            HandshakeError::Refused(refusal) | HandshakeError::RefusedByPeer(refusal) => {
                match RefusalCode::try_from(refusal.code).unwrap_or_default() {
                    RefusalCode::WrongCluster => CloseCause::WrongCluster,
                    RefusalCode::WrongProtocol => CloseCause::WrongProtocol,
                    RefusalCode::UnknownNode => CloseCause::UnknownNode,
                    RefusalCode::ReplacedDirectory => CloseCause::ReplacedDirectory,
                    RefusalCode::WrongNode => CloseCause::WrongNode,
                    RefusalCode::Busy => CloseCause::Busy,
                    RefusalCode::Removed => CloseCause::Removed,
                    RefusalCode::Other => CloseCause::Refused,
                }
            }
            HandshakeError::TimedOut => CloseCause::Silent,
            HandshakeError::Protocol => CloseCause::Unexpected,
            HandshakeError::Tls(_) | HandshakeError::Plaintext(_) => CloseCause::BadCertificate,
            HandshakeError::NobodyListens(_) => CloseCause::Broken,
            HandshakeError::Frame(error) => CloseCause::from(error),
        }
    }
}

impl From<&TransferError> for CloseCause {
    fn from(error: &TransferError) -> Self {
        match error {
            TransferError::Handshake(error) => CloseCause::from(error),
            TransferError::Frame(error) => CloseCause::from(error),
            TransferError::Snapshot(_) | TransferError::Read(_) | TransferError::DiskHangs => {
                CloseCause::BadFile
            }
            TransferError::Silent => CloseCause::Silent,
            TransferError::Superseded | TransferError::NoTurn | TransferError::Refused(_) => {
                CloseCause::Busy
            }
            TransferError::Protocol => CloseCause::Unexpected,
        }
    }
}
