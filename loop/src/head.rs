//! [`Head`]: what a snapshot says of its group, beside the state of the state machine.
//!
//! It stands in the head of the file: the ConfState in a field of its own, which the engine reads too,
//! and a message of our own with the members and the catalogue. Their fields do not overlap, so each
//! reads the message as if it were its own; one without a catalogue is an older one, or not of group 1.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{GroupId, LogId, SnapshotMeta};

use crate::catalogue::Catalogue;
use crate::members::{Members, MembersError};

/// What a group is at one position, beside the state of its state machine.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) group: GroupId,
    pub(crate) id: LogId,
    pub(crate) members: Arc<Members>,
    /// Of every group but the first, empty.
    pub(crate) catalogue: Catalogue,
}

/// The part of the message that is not the members'.
#[derive(Clone, PartialEq, prost::Message)]
struct CatalogueField {
    #[prost(bytes = "bytes", optional, tag = "8")]
    catalogue: Option<Bytes>,
}

impl Head {
    /// That of a group that waits for its first snapshot.
    pub(crate) fn none(group: GroupId) -> Self {
        Head {
            group,
            id: LogId::default(),
            members: Arc::default(),
            catalogue: Catalogue::default(),
        }
    }

    /// What the head of a snapshot file says.
    ///
    /// # Errors
    ///
    /// When its table of members, or its catalogue, cannot be read.
    pub(crate) fn of(meta: &SnapshotMeta) -> Result<Self, MembersError> {
        let SnapshotMeta { group, id, conf_state, members } = meta;
        let field = CatalogueField::decode(members.clone());
        let field = field.map_err(|error| MembersError::new(error.to_string()))?;
        let catalogue = field.catalogue.map(|bytes| Catalogue::decode(&bytes)).transpose()?;
        Ok(Head {
            group: *group,
            id: *id,
            members: Arc::new(Members::decode(members, conf_state.clone())?),
            catalogue: catalogue.unwrap_or_default(),
        })
    }

    /// The head of a snapshot file.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        let mut members = self.members.encode();
        if self.catalogue != Catalogue::default() {
            let catalogue = Some(self.catalogue.encode().into());
            let field = CatalogueField { catalogue }.encode_to_vec();
            members = [&members[..], &field].concat().into();
        }
        let conf_state = self.members.conf_state().clone();
        SnapshotMeta { group: self.group, id: self.id, conf_state, members }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::{founders, id, ids};
    use crate::catalogue_change::CatalogueChange;

    #[test]
    fn the_catalogue_stands_beside_the_members_and_old_snapshots_have_none() {
        let members = founders([1, 2, 3]);
        let groups = ids([2, 3, 9]);
        let change = CatalogueChange::Create { groups, founders: members.clone() };
        let catalogue = Catalogue::default().changed(&change, 12).unwrap();
        let position = LogId { index: 20, term: 3 };
        let head = Head { group: id(1), id: position, members, catalogue };
        let meta = head.meta();
        let read = Head::of(&meta).unwrap();
        assert_eq!((&read.members, &read.catalogue), (&head.members, &head.catalogue));
        // Whoever reads the members alone, reads the same.
        let members = Members::decode(&meta.members, meta.conf_state.clone()).unwrap();
        assert_eq!(members, *head.members);
        let old = SnapshotMeta { members: head.members.encode(), ..meta.clone() };
        assert_eq!(Head::of(&old).unwrap().catalogue, Catalogue::default());
        let field = CatalogueField { catalogue: Some(Bytes::from_static(&[0xff; 3])) };
        let bad = [&old.members[..], &field.encode_to_vec()].concat().into();
        assert!(Head::of(&SnapshotMeta { members: bad, ..meta }).is_err());
    }
}
