//! [`Brokers`]: a short list of brokers, which as a rule needs no allocation of its own.

use std::fmt::{self, Debug};
use std::ops::Deref;

use serde::{Serialize, Serializer};

use crate::ids::BrokerId;

/// The longest list that is kept in place: the usual replication factor.
const INLINE_MAX: usize = 3;

/// A list of brokers that does not grow; reads as a slice.
///
/// A partition has five of these, most of them empty. A million boxed slices in each image cost an
/// allocation and a cache miss each, so up to three brokers stand in the list itself.
#[derive(Clone)]
pub struct Brokers(Repr);

#[derive(Clone)]
enum Repr {
    Inline {
        len: u8,
        ids: [BrokerId; INLINE_MAX],
    },
    /// Boxed twice, so that a rare long list does not make the others larger.
    Boxed(Box<Box<[BrokerId]>>),
}

const _: () = assert!(size_of::<Brokers>() == 16, "five of these are most of a partition");

impl Deref for Brokers {
    type Target = [BrokerId];

    fn deref(&self) -> &[BrokerId] {
        match &self.0 {
            Repr::Inline { len, ids } => &ids[..usize::from(*len)],
            Repr::Boxed(ids) => ids,
        }
    }
}

impl FromIterator<BrokerId> for Brokers {
    fn from_iter<I: IntoIterator<Item = BrokerId>>(brokers: I) -> Self {
        let mut brokers = brokers.into_iter();
        let mut ids = [BrokerId::default(); INLINE_MAX];
        let mut len = 0u8;
        for slot in &mut ids {
            let Some(id) = brokers.next() else { return Self(Repr::Inline { len, ids }) };
            *slot = id;
            len += 1;
        }
        match brokers.next() {
            None => Self(Repr::Inline { len, ids }),
            Some(id) => {
                let all = ids.into_iter().chain([id]).chain(brokers);
                Self(Repr::Boxed(Box::new(all.collect())))
            }
        }
    }
}

impl Default for Brokers {
    fn default() -> Self {
        Self(Repr::Inline { len: 0, ids: [BrokerId::default(); INLINE_MAX] })
    }
}

impl From<&[BrokerId]> for Brokers {
    fn from(brokers: &[BrokerId]) -> Self {
        brokers.iter().copied().collect()
    }
}

impl From<Vec<BrokerId>> for Brokers {
    fn from(brokers: Vec<BrokerId>) -> Self {
        brokers.into_iter().collect()
    }
}

impl<const N: usize> From<[BrokerId; N]> for Brokers {
    fn from(brokers: [BrokerId; N]) -> Self {
        brokers.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Brokers {
    type Item = &'a BrokerId;
    type IntoIter = std::slice::Iter<'a, BrokerId>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Brokers {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Brokers {}

impl Debug for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&**self, f)
    }
}

impl Serialize for Brokers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_the_same_in_place_and_boxed() {
        for len in 0..=INLINE_MAX as u32 + 2 {
            let ids: Vec<BrokerId> = (1..=len).map(BrokerId).collect();
            let brokers = Brokers::from(&ids[..]);
            assert_eq!(*brokers, *ids);
            assert_eq!(brokers, Brokers::from(ids.clone()));
            assert_eq!(brokers, brokers.clone());
            assert_ne!(brokers, ids.iter().copied().chain([BrokerId(9)]).collect());
            assert_eq!(format!("{brokers:?}"), format!("{ids:?}"));
            assert_eq!(
                serde_json::to_value(&brokers).expect("numbers"),
                serde_json::to_value(&ids).expect("numbers")
            );
            let boxed = matches!(brokers.0, Repr::Boxed(_));
            assert_eq!(boxed, ids.len() > INLINE_MAX);
        }
        assert_eq!(Brokers::default(), Brokers::from([]));
    }
}
