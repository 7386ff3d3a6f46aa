//! Owns the comparison of the replicas' states: which state most voters have, and that all are told.
//!
//! Every replica notes the hash of its state at the same indexes of the log (checkpoints). The leader asks
//! the other voters for theirs, takes the latest hash that a majority of the voters noted for one index,
//! and puts it into the log as `CompareState`. Whoever noted another one for that index stops when it
//! applies the command, the leader like any other.
//!
//! So a replica stops only where a majority of the voters noted something else, and that majority goes on:
//! neither a leader whose state is wrong nor the word of one peer can stop the others. What is compared is
//! in the log, and the same for all.
//!
//! Where voters differ and none of their states has a majority nobody can tell who is right: nobody is
//! stopped, the leader's log says so, and nothing later is compared by this process until that index is
//! decided. For who gets a snapshot from the leader meanwhile has the leader's state, and is no witness. (A
//! snapshot always carries the state of its sender, right or wrong: what a majority of the voters got that
//! way before anybody compared is right by this rule.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use quorate_engine::NodeId;
use quorate_loop::{Member, Node};
use quorate_statemachine::{
    CHECKPOINT_EVERY, CHECKPOINTS_MAX, Checkpoint, Command, Metadata, StateHash,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::desk::{accepted, propose};
use crate::wire::{
    CheckpointWire, CheckpointsResponse, Empty, Request, RequestKind, Response, ResponseKind,
};

/// How long a voter is waited for. It answers from memory; whoever is slower is asked at the next look.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// Where voters differ, those that lag are asked again so often, and after such a pause, before it counts: what
/// they note is remembered for a few thousand commands only.
const ROUNDS: u32 = 10;
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// What was compared by one node, while it led.
pub(crate) struct Comparison {
    node: Node<Metadata>,
    /// The index that was compared last.
    compared: u64,
    /// The index for which voters differ, while none of their states has a majority.
    disputed: Option<u64>,
}

/// What the voters' checkpoints say together.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A majority noted this one; none later, or nothing that is disputed before it.
    Agreed(Checkpoint),
    /// For this index the voters noted different ones, and none has a majority.
    Disputed(u64),
    /// Too few have noted anything for one index.
    Unknown,
}

impl Comparison {
    pub(crate) fn new(node: Node<Metadata>) -> Self {
        Self { node, compared: 0, disputed: None }
    }

    /// Compares what is not compared yet. What fails is made up for by the next look.
    pub(crate) async fn look(&mut self) {
        if self.node.image().applied / CHECKPOINT_EVERY == self.compared / CHECKPOINT_EVERY {
            return;
        }
        for round in 1..=ROUNDS {
            let Some((voters, notes)) = self.gather().await else { return };
            match verdict(voters, &notes, self.disputed) {
                Verdict::Agreed(checkpoint) => return self.compare(checkpoint).await,
                Verdict::Disputed(index) if self.disputed.is_none() => match round {
                    ROUNDS => self.dispute(index, voters),
                    _ => sleep(ROUND_PAUSE).await,
                },
                Verdict::Disputed(_) | Verdict::Unknown => return,
            }
        }
    }

    /// How many voters there are, and what those that answer noted behind what was compared. `None` while some
    /// are about to take the places of others.
    async fn gather(&self) -> Option<(usize, Vec<Vec<Checkpoint>>)> {
        let later = |noted: &[Checkpoint]| -> Vec<Checkpoint> {
            noted.iter().filter(|noted| noted.index > self.compared).copied().collect()
        };
        let members = self.node.status().members;
        if members.is_joint() {
            return None;
        }
        let is_voter = |member: &&Member| members.is_voter(member.member_id);
        let voters: BTreeSet<NodeId> =
            members.iter().filter(is_voter).map(Member::node_id).collect();
        let mut notes = vec![later(self.node.image().image.checkpoints())];
        let mut asked = JoinSet::new();
        for voter in voters.iter().filter(|voter| **voter != self.node.identity().node_id) {
            asked.spawn(timeout(ANSWER_PATIENCE, ask(self.node.clone(), *voter)));
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Ok(Some(noted))) = answer {
                notes.push(later(&noted));
            }
        }
        Some((voters.len(), notes))
    }

    async fn compare(&mut self, checkpoint: Checkpoint) {
        if accepted(&propose(&self.node, &Command::CompareState(checkpoint)).await) {
            self.compared = checkpoint.index;
            self.disputed = self.disputed.filter(|index| *index > checkpoint.index);
        }
    }

    fn dispute(&mut self, index: u64, voters: usize) {
        self.disputed = Some(index);
        tracing::error!(
            index,
            voters,
            "the voters' states differ behind this index, and no majority has the same: nobody can tell \
             which is right; keep all data directories, start the voters that are down, and report this"
        );
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

/// What the checkpoints of so many voters say, of which those that answered noted these, and differed for
/// the index `disputed` before.
fn verdict(voters: usize, notes: &[Vec<Checkpoint>], disputed: Option<u64>) -> Verdict {
    // By index and algorithm: how many noted each hash. A voter counts once, whatever it says.
    let mut counts: BTreeMap<(u64, u32), BTreeMap<StateHash, usize>> = BTreeMap::new();
    for noted in notes {
        let own: BTreeMap<_, _> =
            noted.iter().map(|noted| ((noted.index, noted.algorithm), noted.hash)).collect();
        for (at, hash) in own {
            *counts.entry(at).or_default().entry(hash).or_default() += 1;
        }
    }
    let of_majority = |hashes: &BTreeMap<StateHash, usize>| {
        hashes.iter().find(|(_, count)| **count > voters / 2).map(|(hash, _)| *hash)
    };
    let is_decided = |index: u64| {
        counts.iter().any(|((at, _), hashes)| *at == index && of_majority(hashes).is_some())
    };
    let known = disputed.filter(|index| !is_decided(*index));
    let found = counts.iter().find(|(_, it)| it.len() > 1 && of_majority(it).is_none());
    let found = found.map(|((index, _), _)| *index);
    let first = known.into_iter().chain(found).min();
    let before = counts.iter().rev().filter(|((at, _), _)| first.is_none_or(|first| *at < first));
    let agreed = before.filter_map(|((index, algorithm), hashes)| {
        let (index, algorithm) = (*index, *algorithm);
        of_majority(hashes).map(|hash| Checkpoint { algorithm, index, hash })
    });
    match (agreed.into_iter().next(), first) {
        (Some(checkpoint), _) => Verdict::Agreed(checkpoint),
        (None, Some(index)) => Verdict::Disputed(index),
        (None, None) => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, hash: u128) -> Checkpoint {
        Checkpoint { algorithm: 0, index, hash: StateHash::new(hash) }
    }

    fn first(voters: usize, notes: &[Vec<Checkpoint>]) -> Verdict {
        verdict(voters, notes, None)
    }

    #[test]
    fn what_a_majority_of_all_voters_noted_last_is_what_is_compared() {
        let two = vec![at(1_024, 1), at(2_048, 2)];
        assert_eq!(first(1, std::slice::from_ref(&two)), Verdict::Agreed(at(2_048, 2)));
        let one_of_two = first(2, std::slice::from_ref(&two));
        assert_eq!(one_of_two, Verdict::Unknown, "one of two is no majority");
        assert_eq!(first(3, &[two.clone(), two.clone()]), Verdict::Agreed(at(2_048, 2)));
        // One has not come as far, one is not there.
        let behind = vec![at(1_024, 1)];
        assert_eq!(first(3, &[two.clone(), behind.clone()]), Verdict::Agreed(at(1_024, 1)));
        assert_eq!(first(5, &[two.clone(), behind]), Verdict::Unknown);
        assert_eq!(first(3, &[two.clone(), vec![]]), Verdict::Unknown);
        // Who leads may have noted nothing since it was started.
        assert_eq!(first(3, &[vec![], two.clone(), two]), Verdict::Agreed(at(2_048, 2)));
    }

    #[test]
    fn neither_the_leader_nor_a_single_voter_decides_alone() {
        let (right, wrong) = (vec![at(1_024, 1)], vec![at(1_024, 9)]);
        let agreed = Verdict::Agreed(at(1_024, 1));
        assert_eq!(first(3, &[wrong.clone(), right.clone(), right.clone()]), agreed);
        assert_eq!(first(3, &[right.clone(), wrong.clone(), right.clone()]), agreed);
        assert_eq!(first(2, &[right.clone(), wrong.clone()]), Verdict::Disputed(1_024));
        // Said three times it is still one voter's word.
        let thrice = vec![at(1_024, 9), at(1_024, 9), at(1_024, 9)];
        assert_eq!(first(3, &[right.clone(), thrice]), Verdict::Disputed(1_024));
        // What is computed otherwise says nothing.
        let other = vec![Checkpoint { algorithm: 1, ..at(1_024, 1) }];
        assert_eq!(first(3, &[right, other]), Verdict::Unknown);
    }

    #[test]
    fn an_earlier_index_on_which_most_agree_finds_who_differs_later() {
        let notes = [
            vec![at(1_024, 1), at(2_048, 2)],
            vec![at(1_024, 9), at(2_048, 8)],
            vec![at(1_024, 1)],
        ];
        assert_eq!(first(3, &notes), Verdict::Agreed(at(1_024, 1)));
    }

    /// Voter 3 is away while 1, which leads, and 2 differ, and comes back with a snapshot of 1. To see it fail:
    /// take the latest index on which most agree, whatever was before it.
    #[test]
    fn who_got_the_state_of_the_leader_is_no_witness_against_the_others() {
        let (one, two) = (vec![at(1_024, 9)], vec![at(1_024, 1)]);
        assert_eq!(first(3, &[one, two]), Verdict::Disputed(1_024));
        let one = vec![at(1_024, 9), at(2_048, 8)];
        let two = vec![at(1_024, 1), at(2_048, 2)];
        let three = vec![at(2_048, 8)];
        let notes = [one, two.clone(), three.clone()];
        assert_eq!(verdict(3, &notes, None), Verdict::Disputed(1_024));
        // Nobody remembers what each had by then but the one that asks.
        let notes = [three.clone(), vec![at(2_048, 2)], three];
        assert_eq!(verdict(3, &notes, Some(1_024)), Verdict::Disputed(1_024));
        // Had it come back with its own, it would decide.
        let notes = [vec![at(1_024, 9)], two, vec![at(1_024, 1)]];
        assert_eq!(verdict(3, &notes, Some(1_024)), Verdict::Agreed(at(1_024, 1)));
    }
}
