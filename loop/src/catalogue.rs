//! [`Catalogue`]: which groups there are beside group 1, and who founded each.
//!
//! It is part of the replicated state of group 1, beside the members of that group: changed by entries
//! of its log (see [`crate::catalogue_change`]), carried in its snapshots (see [`crate::head`]), the
//! same on every node as of the same index. Nodes do what it says (see [`crate::reconcile`]).
//!
//! **An id is for one group, ever.** Ids ascend: a new group's is above all that were there before,
//! so that an id below [`Catalogue::next_group_id`] that names no group is that of one that was
//! removed, or was passed over. So a node that was away tells from the catalogue alone what became of a
//! group that it still has, and what it once voted in one is never taken for a vote in another.
//!
//! **The founders are data directories**, those of the members of group 1 when the group was created,
//! written out in the entry: whoever reads it begins the group with the same bytes, whatever has
//! become of group 1's membership since.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prost::Message as _;
use quorate_engine::GroupId;

use crate::catalogue_change::{CatalogueChange, CatalogueError};
use crate::members::{Binding, Member, MemberWire, Members, MembersError};

/// The metadata quorum is group 1. It is founded with the cluster, and not in the catalogue.
pub const FIRST_GROUP: GroupId = match GroupId::new(1) {
    Some(group) => group,
    None => panic!("1 is the number of a group"),
};

/// Groups that there may be at a time: far more than a node can beat for, and few enough that the
/// catalogue fits into the head of a snapshot many times.
const GROUPS_MAX: usize = 100_000;

/// Which groups there are beside group 1, as of one index of its log. Clones share what they have in
/// common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    groups: OrdMap<GroupId, Arc<Members>>,
    next_group_id: u64,
    index: u64,
}

impl Default for Catalogue {
    /// Before any group was created.
    fn default() -> Self {
        Catalogue { groups: OrdMap::new(), next_group_id: FIRST_GROUP.get() + 1, index: 0 }
    }
}

/// What became of a group between two catalogues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    Created(GroupId),
    Removed(GroupId),
}

#[derive(Clone, PartialEq, prost::Message)]
struct CatalogueWire {
    #[prost(uint64, tag = "1")]
    next_group_id: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    /// Every founder once.
    #[prost(message, repeated, tag = "3")]
    members: Vec<MemberWire>,
    #[prost(message, repeated, tag = "4")]
    runs: Vec<RunWire>,
}

/// Groups with ids that follow each other, and with the same founders.
#[derive(Clone, PartialEq, prost::Message)]
struct RunWire {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(uint64, tag = "2")]
    count: u64,
    /// Places in the list of all founders.
    #[prost(uint32, repeated, tag = "3")]
    founders: Vec<u32>,
}

impl Catalogue {
    /// Who founded a group, all of them voters: the table it began with, not the one it has by now.
    /// `None` where there is no such group.
    pub fn founders(&self, group: GroupId) -> Option<&Arc<Members>> {
        self.groups.get(&group)
    }

    /// Whether there is such a group beside group 1.
    pub fn contains(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// Whether no group can have this id any more: it was removed, or passed over.
    pub fn is_spent(&self, group: GroupId) -> bool {
        group != FIRST_GROUP && group.get() < self.next_group_id && !self.contains(group)
    }

    /// The groups with their founders, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = (GroupId, &Arc<Members>)> {
        self.groups.iter().map(|(group, founders)| (*group, founders))
    }

    /// How many groups there are beside group 1.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is only group 1.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The lowest id that a new group may have: all that were ever given are below it.
    pub fn next_group_id(&self) -> u64 {
        self.next_group_id
    }

    /// The index in the log of group 1 of the entry that changed the catalogue last; 0 if none has.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The catalogue after `change`, committed at `index`. The same on every node.
    ///
    /// # Errors
    ///
    /// Why the change cannot follow this catalogue: then it is void, all of it.
    pub(crate) fn changed(
        &self,
        change: &CatalogueChange,
        index: u64,
    ) -> Result<Catalogue, CatalogueError> {
        let mut next = Catalogue { index, ..self.clone() };
        match change {
            CatalogueChange::Create { groups, founders } => {
                if self.len() + groups.len() > GROUPS_MAX {
                    return Err(CatalogueError::TooMany { max: GROUPS_MAX });
                }
                for group in groups {
                    if *group == FIRST_GROUP || next.contains(*group) {
                        return Err(CatalogueError::Exists(*group));
                    }
                    if group.get() < next.next_group_id {
                        let next = next.next_group_id;
                        return Err(CatalogueError::Spent { group: *group, next });
                    }
                    let above = group.get().checked_add(1);
                    next.next_group_id = above.ok_or(CatalogueError::Unsound)?;
                    next.groups.insert(*group, founders.clone());
                }
            }
            CatalogueChange::Remove { groups } => {
                for group in groups {
                    if *group == FIRST_GROUP {
                        return Err(CatalogueError::First);
                    }
                    if next.groups.remove(group).is_none() {
                        return Err(CatalogueError::NoGroup(*group));
                    }
                }
            }
        }
        Ok(next)
    }

    /// What is different in `newer`, by ascending id. What both share is passed over.
    pub(crate) fn differences(&self, newer: &Catalogue) -> Vec<Difference> {
        let different = |item: DiffItem<'_, '_, GroupId, Arc<Members>>| match item {
            DiffItem::Add(group, _) => Some(Difference::Created(*group)),
            DiffItem::Remove(group, _) => Some(Difference::Removed(*group)),
            // An id is for one group, so founders never change.
            DiffItem::Update { .. } => None,
        };
        self.groups.diff(&newer.groups).filter_map(different).collect()
    }

    /// Encodes the catalogue; equal catalogues give equal bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut places: BTreeMap<(u64, Binding, &str), u32> = BTreeMap::new();
        let mut wire = CatalogueWire {
            next_group_id: self.next_group_id,
            index: self.index,
            ..CatalogueWire::default()
        };
        let mut last: Option<&Arc<Members>> = None;
        for (group, founders) in &self.groups {
            if let (Some(run), Some(last)) = (wire.runs.last_mut(), last)
                && run.first + run.count == group.get()
                && founders == last
            {
                run.count += 1;
                continue;
            }
            last = Some(founders);
            let place = |member| place_of(member, &mut places, &mut wire.members);
            let founders = founders.iter().map(place).collect();
            wire.runs.push(RunWire { first: group.get(), count: 1, founders });
        }
        wire.encode_to_vec()
    }

    /// Decodes what [`Catalogue::encode`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are no catalogue.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Catalogue, MembersError> {
        let wire = CatalogueWire::decode(bytes).map_err(|e| MembersError::new(e.to_string()))?;
        let wrong = |what: &str| MembersError::new(format!("catalogue: {what}"));
        let members: Vec<Member> =
            wire.members.iter().map(MemberWire::member).collect::<Result<_, _>>()?;
        let mut tables: BTreeMap<&[u32], Arc<Members>> = BTreeMap::new();
        let mut catalogue = Catalogue {
            groups: OrdMap::new(),
            next_group_id: wire.next_group_id,
            index: wire.index,
        };
        let mut next = FIRST_GROUP.get() + 1;
        for run in &wire.runs {
            let end = run.first.checked_add(run.count).ok_or_else(|| wrong("ids overflow"))?;
            if run.first < next || run.count == 0 || end > wire.next_group_id {
                return Err(wrong("ids do not ascend"));
            }
            if run.count > (GROUPS_MAX - catalogue.len()) as u64 {
                return Err(wrong("there are too many groups"));
            }
            let founders = match tables.get(run.founders.as_slice()) {
                Some(founders) => founders.clone(),
                None => {
                    let founder = |place: &u32| members.get(*place as usize).cloned();
                    let founders = run.founders.iter().map(founder).collect::<Option<Vec<_>>>();
                    let founders = founders.ok_or_else(|| wrong("a founder is not listed"))?;
                    let table = Arc::new(Members::of_founders(founders)?);
                    tables.insert(&run.founders, table.clone());
                    table
                }
            };
            for group in (run.first..end).filter_map(GroupId::new) {
                catalogue.groups.insert(group, founders.clone());
            }
            next = end;
        }
        match next <= catalogue.next_group_id {
            true => Ok(catalogue),
            false => Err(wrong("the next id is one that was given")),
        }
    }
}

/// The place of a founder in the list of all of them.
fn place_of<'a>(
    member: &'a Member,
    places: &mut BTreeMap<(u64, Binding, &'a str), u32>,
    members: &mut Vec<MemberWire>,
) -> u32 {
    let key = (member.member_id, member.binding, member.addr.as_str());
    *places.entry(key).or_insert_with(|| {
        members.push(MemberWire::from(member));
        // The list is bounded by the groups and the founders of each.
        members.len() as u32 - 1
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use quorate_engine::{DirectoryId, NodeId};

    use super::*;

    pub(crate) fn id(number: u64) -> GroupId {
        GroupId::new(number).unwrap()
    }

    pub(crate) fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<GroupId> {
        numbers.into_iter().map(id).collect()
    }

    pub(crate) fn founders(nodes: impl IntoIterator<Item = u64>) -> Arc<Members> {
        Arc::new(Members::founding(nodes.into_iter().map(|n| {
            let node = NodeId::new(n).unwrap();
            (node, DirectoryId::from_bytes([n as u8; 16]), format!("127.0.0.1:{n}"))
        })))
    }

    fn create(groups: impl IntoIterator<Item = u64>, nodes: [u64; 3]) -> CatalogueChange {
        CatalogueChange::Create { groups: ids(groups), founders: founders(nodes) }
    }

    fn remove(groups: impl IntoIterator<Item = u64>) -> CatalogueChange {
        CatalogueChange::Remove { groups: ids(groups) }
    }

    /// Three sets of founders, and holes in the ids.
    fn some() -> Catalogue {
        let mut catalogue = Catalogue::default();
        let changes = [
            create(2..=9, [1, 2, 3]),
            create([12, 20], [2, 3, 4]),
            remove([4]),
            create([21], [1, 2, 3]),
        ];
        for (index, change) in (7..).zip(&changes) {
            catalogue = catalogue.changed(change, index).unwrap();
        }
        catalogue
    }

    #[test]
    fn what_is_encoded_is_decoded_and_shares_its_founders() {
        for catalogue in [Catalogue::default(), some()] {
            let decoded = Catalogue::decode(&catalogue.encode()).unwrap();
            assert_eq!(decoded, catalogue);
            assert_eq!(decoded.encode(), catalogue.encode());
        }
        let decoded = Catalogue::decode(&some().encode()).unwrap();
        assert_eq!((decoded.len(), decoded.next_group_id(), decoded.index()), (10, 22, 10));
        let table = |number| decoded.founders(id(number)).unwrap();
        assert!(Arc::ptr_eq(table(2), table(21)) && !Arc::ptr_eq(table(2), table(12)));
        assert_eq!(*table(20), founders([2, 3, 4]));
        // A run is as long as ten thousand groups.
        let many = Catalogue::default().changed(&create(2..10_002, [1, 2, 3]), 9).unwrap();
        assert!(many.encode().len() < 200, "{} bytes", many.encode().len());
        assert_eq!(Catalogue::decode(&many.encode()).unwrap(), many);
    }

    #[test]
    fn an_id_is_given_once() {
        let catalogue = some();
        let refused = |change| catalogue.changed(&change, 11).unwrap_err();
        assert_eq!(refused(create([5], [1, 2, 3])), CatalogueError::Exists(id(5)));
        assert_eq!(refused(create([1], [1, 2, 3])), CatalogueError::Exists(id(1)));
        for spent in [4, 10, 19] {
            let error = CatalogueError::Spent { group: id(spent), next: 22 };
            assert_eq!(refused(create([spent], [1, 2, 3])), error);
            assert!(catalogue.is_spent(id(spent)));
        }
        assert!(!catalogue.is_spent(id(1)) && !catalogue.is_spent(id(22)));
        assert_eq!(refused(create([u64::MAX], [1, 2, 3])), CatalogueError::Unsound);
        let too_many = create(22..22 + GROUPS_MAX as u64, [1, 2, 3]);
        assert_eq!(refused(too_many), CatalogueError::TooMany { max: GROUPS_MAX });
        // All of a change, or nothing.
        assert_eq!(refused(remove([2, 4])), CatalogueError::NoGroup(id(4)));
        assert_eq!(refused(remove([1])), CatalogueError::First);
        assert!(catalogue.contains(id(2)));
    }

    #[test]
    fn the_differences_are_what_was_created_and_removed() {
        let (older, newer) = (Catalogue::default(), some());
        let created = newer.iter().map(|(group, _)| Difference::Created(group));
        assert_eq!(older.differences(&newer), created.collect::<Vec<_>>());
        let change = create([30, 31], [1, 2, 3]);
        let newest = newer.changed(&remove([2, 20]), 11).unwrap().changed(&change, 12).unwrap();
        assert_eq!(
            newer.differences(&newest),
            [
                Difference::Removed(id(2)),
                Difference::Removed(id(20)),
                Difference::Created(id(30)),
                Difference::Created(id(31)),
            ]
        );
    }

    #[test]
    fn what_is_no_catalogue_is_refused() {
        let members = vec![MemberWire::from(founders([1]).iter().next().unwrap())];
        let run = |first, count, founders| RunWire { first, count, founders };
        let of =
            |runs| CatalogueWire { next_group_id: 9, index: 1, members: members.clone(), runs };
        let sound = of(vec![run(2, 2, vec![0]), run(6, 3, vec![0])]);
        assert_eq!(Catalogue::decode(&sound.encode_to_vec()).unwrap().len(), 5);
        let unsound = [
            of(vec![run(1, 1, vec![0])]),
            of(vec![run(2, 0, vec![0])]),
            of(vec![run(2, 2, vec![0]), run(3, 1, vec![0])]),
            of(vec![run(2, 8, vec![0])]),
            of(vec![run(2, u64::MAX, vec![0])]),
            of(vec![run(2, 1, vec![1])]),
            of(vec![run(2, 1, vec![0, 0])]),
            of(vec![run(2, 1, vec![])]),
            CatalogueWire { next_group_id: u64::MAX, ..of(vec![run(2, 1 << 40, vec![0])]) },
            CatalogueWire { next_group_id: 1, ..of(vec![]) },
        ];
        for wire in unsound {
            assert!(Catalogue::decode(&wire.encode_to_vec()).is_err(), "{wire:?}");
        }
        assert!(Catalogue::decode(&[0xff; 9]).is_err());
    }
}
