//! [`Client`]s: who propose, read, try again, and count.

use bytes::Bytes;
use quorate_loop::{
    CommandId, Committed, Done, Input, Proposal, ProposeError, ReadError, SessionError, SessionStep,
};
use quorate_statemachine::{Outcome, StateMachine as _};

use super::brokers::Told;
use super::coverage::{Event, Path};
use super::queue::Micros;
use super::safety::Asked;
use super::simulated::{Answer, answer_of};
use super::world::{Happening, World};

/// What a client waits before it tries again.
const PAUSE: u64 = 100_000;

/// A client: one command or read at a time.
#[derive(Default)]
pub(super) struct Client {
    /// Its session, while it has one.
    session: Option<u64>,
    /// The sequence of its last command.
    sequence: u64,
    task: Option<Task>,
    /// Tells its tasks apart: an answer may be to an earlier one.
    tasks: u64,
    /// Whether its turn will come.
    has_turn: bool,
    /// What it was told of, in all.
    pub(super) told: u64,
}

/// What a client is at.
#[derive(Debug, Clone)]
enum Task {
    Open,
    /// A command in its session, and what it was promised at its first try.
    Command {
        command: Bytes,
        first: Option<Asked>,
    },
    /// A command of no session, which is not tried again.
    Once {
        command: Bytes,
    },
    Read,
}

impl Client {
    /// Whether it waits for nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.task.is_none()
    }

    fn proposal(&self) -> Option<Proposal> {
        match self.task.as_ref()? {
            Task::Open => Some(SessionStep::Open.into()),
            Task::Once { command } => Some(command.clone().into()),
            Task::Command { command, .. } => {
                let (session, sequence) = (self.session?, self.sequence);
                let id = CommandId { session, sequence, lowest_unfinished: sequence };
                let session = Some(SessionStep::Command(id));
                Some(Proposal { command: command.clone(), session })
            }
            Task::Read => None,
        }
    }
}

impl World {
    /// A client's turn: it begins something, or tries again.
    pub(super) fn client_acts(&mut self, number: usize) {
        self.clients[number].has_turn = false;
        if self.clients[number].is_idle() {
            if self.is_calm && self.clients[number].told > self.told_before_calm[number] {
                return;
            }
            let command = self.workload.command(&self.newest_image());
            let client = &mut self.clients[number];
            client.tasks += 1;
            client.task = Some(match self.random.below(10) {
                _ if client.session.is_none() => Task::Open,
                0..=2 => Task::Read,
                3 => Task::Once { command },
                _ => {
                    client.sequence += 1;
                    Task::Command { command, first: None }
                }
            });
        }
        let running = self.running();
        if running.is_empty() {
            return self.client_later(number, PAUSE);
        }
        let node = running[self.random.below(running.len() as u64) as usize];
        self.ask(number, node);
        let other = running[self.random.below(running.len() as u64) as usize];
        let retries = self.plan.events.contains(&Event::Retry) && !self.is_calm;
        if retries && self.random.chance(10) && self.clients[number].proposal().is_some() {
            let is_command = matches!(self.clients[number].task, Some(Task::Command { .. }));
            if is_command {
                self.happened(Event::Retry, 0, || format!("client {number} asks node {other} too"));
                self.ask(number, other);
            }
        }
    }

    /// A client's turn comes so much later, if it does not come anyway.
    pub(super) fn client_later(&mut self, number: usize, pause: Micros) {
        if !std::mem::replace(&mut self.clients[number].has_turn, true) {
            self.queue.after(pause, Happening::Client(number));
        }
    }

    fn ask(&mut self, number: usize, node: u64) {
        self.next_caller += 1;
        let caller = self.next_caller;
        let first = match &self.clients[number].task {
            Some(Task::Command { first, .. }) => *first,
            _ => None,
        };
        let asked = self.safety.asked(node, caller, first);
        if let Some(Task::Command { first, .. }) = &mut self.clients[number].task {
            first.get_or_insert(asked);
        }
        self.callers.insert(caller, (number, self.clients[number].tasks));
        let input = match self.clients[number].proposal() {
            Some(proposal) => Input::Propose { proposal, caller },
            None => Input::Read { caller },
        };
        self.step(node, input);
    }

    /// Many proposals come at once, of nobody who waits.
    pub(super) fn burst(&mut self, node: u64, count: u64) {
        for _ in 0..count {
            let command = self.workload.command(&self.newest_image());
            self.next_caller += 1;
            let caller = self.next_caller;
            self.safety.asked(node, caller, None);
            self.step_quietly(node, Input::Propose { proposal: command.into(), caller });
        }
        self.turn(node);
    }

    /// A proposal was applied, or its session's table refused it.
    pub(super) fn applied_for(
        &mut self,
        caller: u64,
        entry: &Committed<u64>,
        answer: Result<Done<Outcome>, SessionError>,
    ) {
        let Some(asked) = self.safety.answered(caller) else { return };
        if let Ok(done) = &answer {
            self.safety.told(asked, done.index, false);
        }
        let applied = match &answer {
            Ok(Done { index, outcome: Some(outcome) }) => Told::Applied(*index, outcome.clone()),
            _ => Told::Unknown,
        };
        if self.answered_for_brokers(caller, applied) {
            return;
        }
        self.answer(caller, answer_of(&answer));
        let Some(number) = self.waits_still(caller) else { return };
        let is_own = self.clients[number].proposal().is_some_and(|proposal| {
            (&proposal.command, proposal.session) == (&entry.command, entry.session)
        });
        if !is_own {
            self.safety.violated(format!("client {number} is told what became of another command"));
        }
        let client = &mut self.clients[number];
        match (&client.task, answer) {
            (Some(Task::Open), Ok(done)) => {
                client.session = Some(done.index);
                client.sequence = 0;
            }
            // The table has forgotten the session: whether the command ran nobody will know.
            (Some(Task::Command { .. }), Err(_)) => client.session = None,
            (Some(_), Ok(_)) => {}
            // Only commands of a session are refused by its table.
            (None, _) | (Some(_), Err(_)) => return,
        }
        self.finished(number);
    }

    /// A proposal ended without being applied here.
    pub(super) fn failed_for(&mut self, caller: u64, error: &ProposeError) {
        self.safety.answered(caller);
        let answer = if error.never_applied() { Told::Never } else { Told::Unknown };
        if self.answered_for_brokers(caller, answer) {
            return;
        }
        self.answer(caller, Answer::Failed(error.clone()));
        let Some(number) = self.waits_still(caller) else { return };
        self.trace.note(self.queue.now(), || format!("client {number}: {error}"));
        self.tries_again(number);
    }

    /// A read has its index.
    pub(super) fn read_for(&mut self, node: u64, caller: u64, index: Result<u64, ReadError>) {
        let asked = self.safety.answered(caller);
        let number = self.waits_still(caller);
        let (Some(asked), Ok(index)) = (asked, index) else {
            self.answer(caller, Answer::Lost);
            number.into_iter().for_each(|number| self.tries_again(number));
            return;
        };
        self.answer(caller, Answer::Read { index });
        let Some(process) = self.process(node) else { return };
        let seen = process.replica.applied().index;
        if seen < index {
            self.safety.violated(format!("node {node} reads {index} and has applied {seen}"));
        }
        self.safety.told(asked, seen, true);
        number.into_iter().for_each(|number| self.finished(number));
    }

    /// The node on which a caller waited has ended.
    pub(super) fn lost(&mut self, caller: u64) {
        if self.answered_for_brokers(caller, Told::Unknown) {
            return;
        }
        self.answer(caller, Answer::Lost);
        if let Some(number) = self.waits_still(caller) {
            self.tries_again(number);
        }
    }

    /// The client of a caller, if it is still at what the caller is for.
    fn waits_still(&mut self, caller: u64) -> Option<usize> {
        let (number, task) = self.callers.remove(&caller)?;
        let client = &self.clients[number];
        (client.task.is_some() && client.tasks == task).then_some(number)
    }

    fn finished(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.task = None;
        client.told += 1;
        let thinking = if self.is_calm { PAUSE } else { self.plan.thinking };
        let pause = self.random.below(2 * thinking + 1);
        self.client_later(number, pause);
    }

    fn tries_again(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if matches!(client.task, Some(Task::Once { .. } | Task::Read)) {
            client.task = None;
        }
        // One turn at a time: another try may still be under way.
        let tasks = self.clients[number].tasks;
        if self.callers.values().all(|other| *other != (number, tasks)) {
            let pause = 1 + self.random.below(PAUSE);
            self.client_later(number, pause);
        }
    }

    /// Whether a command of a session was found applied already.
    pub(super) fn found_applied(&mut self, at: u64, done: &Done<Outcome>) {
        if done.index != at {
            self.coverage.went(Path::FoundApplied);
        }
    }

    /// The image of whoever has applied most.
    pub(super) fn newest_image(&self) -> quorate_statemachine::MetadataImage {
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        let newest = processes.max_by_key(|process| process.replica.applied());
        match newest {
            Some(process) => process.replica.state().image(),
            None => quorate_statemachine::Metadata::new().image(),
        }
    }
}
