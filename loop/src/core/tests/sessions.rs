//! Client sessions over cores: what is proposed again and again is applied once, whatever happens.

use std::collections::BTreeSet;

use quorate_statemachine::{CommandId, SessionError};

use super::*;
use crate::core::ready::UNCOMMITTED_ENTRIES_MAX;
use crate::proposal::SessionStep;

#[test]
fn trap_R12_what_has_no_bytes_is_bounded_too() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    let first = net.peer(leader).core.status().last_index;
    for caller in 0..=UNCOMMITTED_ENTRIES_MAX {
        let proposal = SessionStep::Open.into();
        net.peer(leader).core.step(Input::Propose { proposal, caller });
    }
    net.turn(leader);
    assert_eq!(net.peer(leader).answers, vec![]);
    let more = UNCOMMITTED_ENTRIES_MAX + 1;
    net.step(leader, Input::Propose { proposal: SessionStep::Open.into(), caller: more });
    assert_eq!(net.peer(leader).answers, vec![(more, Err(ProposeError::Overloaded))]);
    assert_eq!(net.peer(leader).core.status().last_index, first + more);
}

/// A client, which hears of its commands through whichever node it asks.
#[derive(Debug, Default)]
struct Client {
    session: Option<u64>,
    last: u64,
    unfinished: BTreeSet<u64>,
}

impl Client {
    /// One more try of a command of its, or the first try of a new one.
    fn try_of(&mut self, which: usize) -> SessionStep {
        let Some(session) = self.session else { return SessionStep::Open };
        let sequence = match self.unfinished.iter().nth(which) {
            Some(sequence) => *sequence,
            None => {
                self.last += 1;
                self.unfinished.insert(self.last);
                self.last
            }
        };
        let lowest_unfinished = *self.unfinished.first().unwrap();
        SessionStep::Command(CommandId { session, sequence, lowest_unfinished })
    }
}

/// Clients, and what they have asked for and were told.
#[derive(Default)]
struct Clients {
    clients: Vec<Client>,
    /// By the number of the proposal: whose, and what.
    asked: BTreeMap<u64, (usize, SessionStep)>,
    told: BTreeMap<(u64, u64), u64>,
    next: u64,
}

impl Clients {
    fn propose(&mut self, net: &mut Net, n: u64, client: usize, which: usize) {
        let step = self.clients[client].try_of(which);
        self.next += 1;
        self.asked.insert(self.next, (client, step));
        let proposal = match step {
            // The same bytes on every try.
            SessionStep::Command(CommandId { session, sequence, .. }) => {
                let command = [session.to_le_bytes(), sequence.to_le_bytes()].concat();
                Proposal { command: command.into(), session: Some(step) }
            }
            step => step.into(),
        };
        net.step(n, Input::Propose { proposal, caller: self.next });
    }

    /// Takes in what callers were told since.
    fn hear(&mut self, net: &mut Net) {
        for (caller, answer) in net.peers.values_mut().flat_map(|peer| peer.answers.drain(..)) {
            let Some((client, step)) = self.asked.remove(&caller) else {
                panic!("proposal {caller} was answered twice");
            };
            let client = &mut self.clients[client];
            match (step, answer) {
                (SessionStep::Open, Ok(index)) => {
                    client.session.get_or_insert(index);
                }
                (SessionStep::Command(id), Ok(index)) => {
                    let first = *self.told.entry((id.session, id.sequence)).or_insert(index);
                    assert_eq!(first, index, "{id:?} was told two outcomes");
                    client.unfinished.remove(&id.sequence);
                }
                // A late try of what it has heard of already.
                (SessionStep::Command(id), Err(ProposeError::Session(SessionError::Finished))) => {
                    assert!(self.told.contains_key(&(id.session, id.sequence)), "{id:?}");
                }
                (_, Err(ProposeError::Session(error))) => panic!("{step:?}: {error}"),
                (_, Err(_)) => {}
                (SessionStep::Close(_), Ok(_)) => panic!("nobody closes one"),
            }
        }
    }

    fn is_done(&self) -> bool {
        self.clients.iter().all(|client| client.session.is_some() && client.unfinished.is_empty())
    }
}

#[test]
fn a_command_that_two_leaders_took_is_applied_once() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let old = net.elect();
    net.step(old, Input::Propose { proposal: SessionStep::Open.into(), caller: 1 });
    net.settle();
    let (_, Ok(session)) = net.peer(old).answers.pop().unwrap() else { panic!() };
    let id = CommandId { session, sequence: 1, lowest_unfinished: 1 };
    let command = Bytes::from_static(b"once");
    let proposal = Proposal { command, session: Some(SessionStep::Command(id)) };
    // A majority has it, and the leader does not live to hear of that.
    net.step(old, Input::Propose { proposal: proposal.clone(), caller: 2 });
    net.sync(old);
    let follower = old % 3 + 1;
    assert!(net.deliver(old, follower));
    net.sync(follower);
    net.kill(old);
    let new = net.elect();
    net.step(new, Input::Propose { proposal: proposal.clone(), caller: 3 });
    net.settle();
    let first = net.ran[&(session, 1)];
    assert_eq!(net.peer(new).answers, vec![(3, Ok(first))]);
    let entries = net.peer(new).applied.iter().filter(|(_, command)| command == &proposal.command);
    let entries: Vec<u64> = entries.map(|(at, _)| at.index).collect();
    assert_eq!((entries.len(), entries[0]), (2, first), "it is in the log twice");
    // Whoever was away does as the others did; also from a snapshot, which has the log no more.
    net.start(old);
    net.tick_all(20);
    assert_eq!(net.peers[&old].sessions, net.peers[&new].sessions);
    for n in 1..=3 {
        net.take_snapshot(n);
    }
    net.settle();
    for n in 1..=3 {
        net.kill(n);
        net.start(n);
    }
    let leader = net.elect();
    net.step(leader, Input::Propose { proposal, caller: 4 });
    net.settle();
    assert_eq!(net.peer(leader).answers, vec![(4, Ok(first))]);
}

#[test]
fn who_is_not_in_the_table_is_told_so_wherever_it_asks() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    let id = CommandId { session: 1, sequence: 1, lowest_unfinished: 1 };
    let command = Bytes::from_static(b"never");
    let proposal = Proposal { command, session: Some(SessionStep::Command(id)) };
    for n in 1..=3 {
        net.step(n, Input::Propose { proposal: proposal.clone(), caller: n });
        net.settle();
        let expired = ProposeError::Session(SessionError::Expired);
        assert_eq!(net.peer(n).answers, vec![(n, Err(expired))], "node {n}, leader {leader}");
    }
    assert_eq!(net.ran, BTreeMap::new());
}

#[test]
fn a_step_without_its_command_or_with_one_too_many_is_refused() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    let id = CommandId { session: 1, sequence: 1, lowest_unfinished: 1 };
    let command = Bytes::from_static(b"command");
    let unsound = [
        SessionStep::Command(id).into(),
        Proposal { command: command.clone(), session: Some(SessionStep::Open) },
        Proposal { command, session: Some(SessionStep::Close(1)) },
    ];
    let last = net.peer(leader).core.status().last_index;
    for (request, proposal) in (1..).zip(unsound) {
        net.step(leader, Input::Propose { proposal: proposal.clone(), caller: request });
        let answer = net.peer(leader).answers.pop();
        assert_eq!(answer, Some((request, Err(ProposeError::Unsound))));
        // And of a peer.
        let message = PeerMessage::Propose { request, proposal };
        let peer = node(leader % 3 + 1);
        net.step(leader, Input::Peer { from: peer, message });
        let refused = PeerMessage::Proposed { request, result: Err(Refused::Unsound) };
        assert_eq!(net.waiting(leader), vec![&refused]);
        net.links.clear();
    }
    assert_eq!(net.peer(leader).core.status().last_index, last);
}

/// What a random schedule does next.
#[derive(Debug, Clone)]
enum Step {
    Client { client: usize, on: u64, which: usize },
    Act(Act),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..2usize, 1..=3u64, 0..4usize)
            .prop_map(|(client, on, which)| Step::Client { client, on, which }),
        4 => act().prop_map(Step::Act),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Clients try their commands on any node at any time, some of them many times at once, while ticks,
    /// fsyncs, losses, snapshots and kills come in any order: no command is applied twice, all tries are
    /// told the same, and in the end every command is applied and all tables are equal. (`Net::turn`
    /// asserts at every entry that no node applies a command where another has not.)
    #[test]
    fn whatever_happens_a_command_of_a_session_is_applied_once(
        steps in proptest::collection::vec(step(), 1..400),
    ) {
        let mut net = Net::new(&[1, 2, 3], &[], LoopConfig { tail_entries: 3, ..config() });
        let mut clients = Clients { clients: vec![Client::default(), Client::default()], ..Clients::default() };
        for step in steps {
            match step {
                Step::Client { client, on, which } => clients.propose(&mut net, on, client, which),
                Step::Act(act) => {
                    if let Act::Restart(n) = &act {
                        // Its callers die with it.
                        clients.hear(&mut net);
                        net.kill(*n);
                        net.start(*n);
                    } else {
                        perform(&mut net, act);
                    }
                }
            }
            clients.hear(&mut net);
        }
        for n in (1..=3).cycle().take(300) {
            if clients.is_done() {
                break;
            }
            for client in 0..clients.clients.len() {
                if clients.clients[client].session.is_none() || !clients.clients[client].unfinished.is_empty() {
                    clients.propose(&mut net, n, client, 0);
                }
            }
            net.tick_all(2);
            clients.hear(&mut net);
        }
        prop_assert!(clients.is_done(), "{:?}", clients.clients);
        // Tries that are still on their way.
        net.tick_all(40);
        clients.hear(&mut net);
        for (client, name) in clients.clients.iter().zip(["first", "second"]) {
            for sequence in 1..=client.last {
                let id = (client.session.unwrap(), sequence);
                prop_assert_eq!(net.ran.get(&id), clients.told.get(&id), "{} client, {:?}", name, id);
                prop_assert!(net.ran.contains_key(&id));
            }
        }
        prop_assert_eq!(net.ran.len(), clients.told.len());
        for n in 2..=3 {
            prop_assert_eq!(&net.peers[&n].sessions, &net.peers[&1].sessions, "node {}", n);
        }
    }
}
