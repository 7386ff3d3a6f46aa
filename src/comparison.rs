//! Owns the comparison of the replicas' states: which state most voters have, and that all are told.
//!
//! Every replica notes the hash of its state at the same indexes of the log (checkpoints). The leader asks
//! the other voters for theirs, takes the latest hash that a majority of the voters noted for one index,
//! and puts it into the log as `CompareState`. Whoever noted another one for that index stops when it
//! applies the command, the leader like any other.
//!
//! So a replica stops only where a majority of the voters noted something else, and that majority goes on:
//! neither a leader whose state is wrong nor the word of one peer can stop the others. What is compared is
//! in the log, and the same for all. Without a majority nobody is stopped, for nobody can tell who is
//! right; that is said in the log of the leader.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use quorate_engine::NodeId;
use quorate_loop::Node;
use quorate_statemachine::{
    CHECKPOINTS_MAX, Checkpoint, Command, Metadata, MetadataImage, StateHash,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::desk::{accepted, propose};
use crate::wire::{
    CheckpointWire, CheckpointsResponse, Empty, Request, RequestKind, Response, ResponseKind,
};

/// How long a voter is waited for. It answers from memory; whoever is slower is asked at the next look.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// What was compared by one node, while it led.
pub(crate) struct Comparison {
    node: Node<Metadata>,
    /// The index that was compared last.
    compared: u64,
    /// The last index of which it was said that no majority agrees.
    told: u64,
}

/// What the voters' checkpoints say together.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A majority noted this one, and there is none later.
    Agreed(Checkpoint),
    /// For this index the voters noted different ones, and none can have so many any more.
    Split(u64),
    /// Too few have noted anything for one index.
    Unknown,
}

impl Comparison {
    pub(crate) fn new(node: Node<Metadata>) -> Self {
        Self { node, compared: 0, told: 0 }
    }

    /// Compares what is not compared yet, if this node leads. What fails is made up for by the next look.
    pub(crate) async fn look(&mut self, image: &MetadataImage) {
        let later = |noted: &[Checkpoint]| -> Vec<Checkpoint> {
            noted.iter().filter(|noted| noted.index > self.compared).copied().collect()
        };
        let own = later(image.checkpoints());
        if own.is_empty() {
            return;
        }
        let members = self.node.status().members;
        let voters: Vec<NodeId> = members
            .iter()
            .filter(|member| members.is_voter(member.member_id))
            .map(|member| member.node_id())
            .collect();
        let mut notes = vec![own];
        let mut asked = JoinSet::new();
        for voter in voters.iter().filter(|voter| **voter != self.node.identity().node_id) {
            asked.spawn(timeout(ANSWER_PATIENCE, ask(self.node.clone(), *voter)));
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Ok(Some(noted))) = answer {
                notes.push(later(&noted));
            }
        }
        match verdict(voters.len(), &notes) {
            Verdict::Agreed(checkpoint) => {
                let command = Command::CompareState(checkpoint);
                if accepted(&propose(&self.node, &command).await) {
                    self.compared = checkpoint.index;
                }
            }
            Verdict::Split(index) if index > self.told => {
                self.told = index;
                tracing::error!(
                    index,
                    voters = voters.len(),
                    "the voters' states differ, and no majority has the same: nobody can tell which is \
                     right; keep all data directories, and restart the nodes one by one"
                );
            }
            Verdict::Split(_) | Verdict::Unknown => {}
        }
    }
}

/// What another node noted; `None` where it does not say.
async fn ask(node: Node<Metadata>, voter: NodeId) -> Option<Vec<Checkpoint>> {
    let request = Request::from(RequestKind::Checkpoints(Empty {})).encode_to_vec();
    let answer = node.call(voter, request.into()).await.ok()?;
    match Response::decode(answer).ok()?.kind? {
        ResponseKind::Checkpoints(response) => {
            let noted = response.noted.iter().take(CHECKPOINTS_MAX);
            noted.map(CheckpointWire::to_checkpoint).collect()
        }
        _ => None,
    }
}

/// The answer of this node to another one.
pub(crate) fn answer(node: &Node<Metadata>) -> Response {
    let published = node.image();
    let noted = published.image.checkpoints().iter().map(CheckpointWire::of).collect();
    ResponseKind::Checkpoints(CheckpointsResponse { noted }).into()
}

/// What the checkpoints of so many voters say, of which those that answered noted these.
fn verdict(voters: usize, notes: &[Vec<Checkpoint>]) -> Verdict {
    // By index and algorithm: how many noted each hash. A voter counts once, whatever it says.
    let mut counts: BTreeMap<(u64, u32), BTreeMap<StateHash, usize>> = BTreeMap::new();
    for noted in notes {
        let own: BTreeMap<_, _> =
            noted.iter().map(|noted| ((noted.index, noted.algorithm), noted.hash)).collect();
        for (at, hash) in own {
            *counts.entry(at).or_default().entry(hash).or_default() += 1;
        }
    }
    for ((index, algorithm), hashes) in counts.iter().rev() {
        if let Some((hash, _)) = hashes.iter().find(|(_, count)| **count > voters / 2) {
            return Verdict::Agreed(Checkpoint {
                algorithm: *algorithm,
                index: *index,
                hash: *hash,
            });
        }
    }
    let is_split = |hashes: &BTreeMap<StateHash, usize>| {
        let silent = voters.saturating_sub(hashes.values().sum());
        hashes.values().all(|count| count + silent <= voters / 2)
    };
    match counts.iter().rev().find(|(_, hashes)| is_split(hashes)) {
        Some(((index, _), _)) => Verdict::Split(*index),
        None => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, hash: u128) -> Checkpoint {
        Checkpoint { algorithm: 0, index, hash: StateHash::new(hash) }
    }

    #[test]
    fn what_a_majority_of_all_voters_noted_last_is_what_is_compared() {
        let two = vec![at(1_024, 1), at(2_048, 2)];
        assert_eq!(verdict(1, &[two.clone()]), Verdict::Agreed(at(2_048, 2)));
        assert_eq!(verdict(2, &[two.clone()]), Verdict::Unknown, "one of two is no majority");
        assert_eq!(verdict(3, &[two.clone(), two.clone()]), Verdict::Agreed(at(2_048, 2)));
        // One has not come as far, one is not there.
        let behind = vec![at(1_024, 1)];
        assert_eq!(verdict(3, &[two.clone(), behind.clone()]), Verdict::Agreed(at(1_024, 1)));
        assert_eq!(verdict(5, &[two.clone(), behind]), Verdict::Unknown);
        assert_eq!(verdict(3, &[two, vec![]]), Verdict::Unknown);
    }

    #[test]
    fn neither_the_leader_nor_a_single_voter_decides_alone() {
        let (right, wrong) = (vec![at(1_024, 1)], vec![at(1_024, 9)]);
        let agreed = Verdict::Agreed(at(1_024, 1));
        assert_eq!(verdict(3, &[wrong.clone(), right.clone(), right.clone()]), agreed);
        assert_eq!(verdict(3, &[right.clone(), wrong.clone(), right.clone()]), agreed);
        assert_eq!(verdict(2, &[right.clone(), wrong.clone()]), Verdict::Split(1_024));
        // Said three times it is still one voter's word.
        let thrice = vec![at(1_024, 9), at(1_024, 9), at(1_024, 9)];
        assert_eq!(verdict(3, &[right.clone(), thrice]), Verdict::Unknown, "one is silent yet");
        let third = vec![at(1_024, 5)];
        assert_eq!(verdict(3, &[right.clone(), wrong, third]), Verdict::Split(1_024));
        // What is computed otherwise says nothing.
        let other = vec![Checkpoint { algorithm: 1, ..at(1_024, 1) }];
        assert_eq!(verdict(3, &[right, other]), Verdict::Unknown);
    }

    #[test]
    fn an_earlier_index_on_which_most_agree_finds_who_differs_later() {
        let notes = [
            vec![at(1_024, 1), at(2_048, 2)],
            vec![at(1_024, 9), at(2_048, 8)],
            vec![at(1_024, 1)],
        ];
        assert_eq!(verdict(3, &notes), Verdict::Agreed(at(1_024, 1)));
    }
}
