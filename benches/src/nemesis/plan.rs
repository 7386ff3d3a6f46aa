//! [`Plan`]: what is done to three nodes, and when: the same for the same seed.

use std::time::Duration;

use clap::ValueEnum;

use crate::random::Random;
use crate::trio::NODES;

/// How long what is done to a node lasts, in milliseconds.
const DOWN_MS: (u64, u64) = (0, 400);
/// Longer than an election timeout, of 1 to 2 s, can be, or not quite.
const STOPPED_MS: (u64, u64) = (1_500, 4_000);
const CUT_MS: (u64, u64) = (300, 3_500);
const SLOW_MS: (u64, u64) = (5, 150);
const DISK_MS: (u64, u64) = (300, 3_000);

/// How long the next step waits, in milliseconds; and after that until somebody is served.
const REST_MS: (u64, u64) = (200, 1_200);
/// How long where it shall meet nodes that have only just begun, and how often that is, in percent.
const HASTE_MS: (u64, u64) = (10, 300);
const HASTE: usize = 25;

/// How often a step stops a node, cuts a link or has a disk fail, where that is not so already, in
/// percent.
const STOPS: usize = 8;
const CUTS: usize = 15;
const DISKS: usize = 6;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL of one, two or all nodes.
    Kill,
    /// SIGSTOP of a node, and SIGCONT later.
    Stop,
    /// Links that carry nothing or are slow, one way or both.
    Cut,
    /// No room on the disk of a node, for a time.
    Full,
    /// Every fsync of a node fails, until it is started again.
    Sync,
}

/// What a link does with what is sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It arrives.
    Open,
    /// It waits until the link is whole again.
    Cut,
    /// It arrives later.
    Slow(Duration),
}

/// Something that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// SIGKILL, to all of them at once.
    Kill(Vec<u64>),
    /// The process is started again.
    Start(u64),
    /// SIGSTOP.
    Stop(u64),
    /// SIGCONT; nothing where the process was killed meanwhile.
    Resume(u64),
    /// There is no room on the disk of the node.
    Fill(u64),
    /// There is again.
    Empty(u64),
    /// Every fsync of the node fails, of which its process ends.
    Break(u64),
    /// No longer, and the process is started again.
    Mend(u64),
    /// Nothing, until somebody is served; where another fault is in force, nothing at all.
    Serve,
    /// What the nodes send to each other on these links, each from and to a node, goes this way now.
    Links(Vec<(u64, u64)>, Way),
}

/// What comes, for as long as it is wanted.
#[derive(Debug)]
pub(crate) struct Plan {
    random: Random,
    faults: Vec<Fault>,
}

impl Plan {
    /// One with these kinds of faults.
    pub(crate) fn new(seed: u32, faults: &[Fault]) -> Plan {
        Plan { random: Random::seeded(u64::from(seed)), faults: faults.to_vec() }
    }

    /// The next acts, each after a pause. Before them and after them all nodes run, and all links are
    /// whole. There are so many kills in them, or other faults where none are wanted.
    pub(crate) fn round(&mut self, count: u32) -> Vec<(Duration, Act)> {
        let mut round = Round::default();
        let mut done = 0;
        while done < count {
            done += self.step(&mut round, count - done);
        }
        round.in_order()
    }

    /// Plans the next step; returns how much it counts, at most `left`.
    fn step(&mut self, round: &mut Round, left: u32) -> u32 {
        let mut others = 0;
        if self.has(Fault::Stop) && round.stopped_until <= round.at && self.random.chance(STOPS) {
            others += u32::from(self.stop(round));
        }
        if self.has(Fault::Cut) && round.cut_until <= round.at && self.random.chance(CUTS) {
            self.cut(round);
            others += 1;
        }
        for fault in [Fault::Full, Fault::Sync] {
            if self.has(fault) && round.disk_until <= round.at && self.random.chance(DISKS) {
                others += u32::from(self.fail_a_disk(round, fault));
            }
        }
        let mut counts = others;
        if self.has(Fault::Kill) {
            // Not before a cut that came just now, and not long after.
            round.at += if others > 0 { self.between(HASTE_MS) } else { Duration::ZERO };
            counts = self.kill(round, left);
        }
        if self.random.chance(HASTE) {
            round.at += self.between(HASTE_MS);
        } else {
            round.at += self.between(REST_MS);
            round.acts.push((round.at, Act::Serve));
        }
        counts.min(left)
    }

    /// Kills some of those that run, and has them started again; returns how many.
    fn kill(&mut self, round: &mut Round, left: u32) -> u32 {
        let mut nodes: Vec<u64> =
            NODES.into_iter().filter(|node| round.runs_from(*node) <= round.at).collect();
        self.random.shuffle(&mut nodes);
        let wanted = match self.random.place(100) {
            0..75 => 1,
            75..90 => 2,
            _ => 3,
        };
        nodes.truncate(wanted.min(left as usize));
        if nodes.is_empty() {
            return 0;
        }
        let killed = nodes.len() as u32;
        // Before the starts, one of which may come at the same time.
        round.acts.push((round.at, Act::Kill(nodes.clone())));
        for node in &nodes {
            let up = round.at + self.between(DOWN_MS);
            round.runs_from[(node - 1) as usize] = up;
            round.acts.push((up, Act::Start(*node)));
        }
        killed
    }

    /// Stops one of those that run; whether there is one.
    fn stop(&mut self, round: &mut Round) -> bool {
        let node = NODES[self.random.place(NODES.len())];
        if round.runs_from(node) > round.at {
            return false;
        }
        round.stopped_until = round.at + self.between(STOPPED_MS);
        round.acts.push((round.at, Act::Stop(node)));
        round.acts.push((round.stopped_until, Act::Resume(node)));
        true
    }

    /// Has the disk of one of those that run fail; whether there is one.
    fn fail_a_disk(&mut self, round: &mut Round, fault: Fault) -> bool {
        let node = NODES[self.random.place(NODES.len())];
        // Who is stopped does not notice.
        if round.runs_from(node) > round.at || round.stopped_until > round.at {
            return false;
        }
        round.disk_until = round.at + self.between(DISK_MS);
        let (begin, end) = match fault {
            Fault::Sync => (Act::Break(node), Act::Mend(node)),
            _ => (Act::Fill(node), Act::Empty(node)),
        };
        if fault == Fault::Sync {
            round.runs_from[(node - 1) as usize] = round.disk_until;
        }
        round.acts.push((round.at, begin));
        round.acts.push((round.disk_until, end));
        true
    }

    /// Cuts links, or slows them down, for a time.
    fn cut(&mut self, round: &mut Round) {
        let mut nodes = NODES;
        self.random.shuffle(&mut nodes);
        let [a, b, c] = nodes;
        let links = match self.random.place(4) {
            // One way, both ways, and a node from all others, both ways or as far as it speaks.
            0 => vec![(a, b)],
            1 => vec![(a, b), (b, a)],
            2 => vec![(a, b), (b, a), (a, c), (c, a)],
            _ => vec![(a, b), (a, c)],
        };
        let slow = self.random.chance(30);
        let way = if slow { Way::Slow(self.between(SLOW_MS)) } else { Way::Cut };
        round.cut_until = round.at + self.between(CUT_MS);
        round.acts.push((round.at, Act::Links(links.clone(), way)));
        round.acts.push((round.cut_until, Act::Links(links, Way::Open)));
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn between(&mut self, (from, to): (u64, u64)) -> Duration {
        self.random.millis(from, to)
    }
}

/// Acts, and how far they are planned.
#[derive(Debug, Default)]
struct Round {
    at: Duration,
    acts: Vec<(Duration, Act)>,
    /// From when on each node runs.
    runs_from: [Duration; NODES.len()],
    stopped_until: Duration,
    cut_until: Duration,
    disk_until: Duration,
}

impl Round {
    fn runs_from(&self, node: u64) -> Duration {
        self.runs_from[(node - 1) as usize]
    }

    /// The acts in the order of their times, each with the pause before it.
    fn in_order(mut self) -> Vec<(Duration, Act)> {
        // What is planned for the same time stays in the order in which it was planned.
        self.acts.sort_by_key(|(at, _)| *at);
        let mut last = Duration::ZERO;
        let pauses = self.acts.into_iter().map(|(at, act)| {
            let pause = at - last;
            last = at;
            (pause, act)
        });
        pauses.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::mem::discriminant;

    use super::*;

    const ALL: [Fault; 5] = [Fault::Kill, Fault::Stop, Fault::Cut, Fault::Full, Fault::Sync];

    #[test]
    fn the_same_seed_is_the_same_plan() {
        let plan = |seed| {
            let mut plan = Plan::new(seed, &ALL);
            [plan.round(50), plan.round(50)]
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let [first, second] = plan(7);
        assert_ne!(first, second);
    }

    #[test]
    fn a_round_has_its_kills_and_leaves_everything_whole() {
        let (mut kills_at_once, mut met) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..50 {
            let mut kills = 0;
            let (mut down, mut stopped) = (BTreeSet::new(), BTreeSet::new());
            let (mut full, mut broken) = (BTreeSet::new(), BTreeSet::new());
            let mut ways = BTreeMap::new();
            for (_, act) in Plan::new(seed, &ALL).round(100) {
                match act {
                    Act::Kill(nodes) => {
                        kills += nodes.len();
                        kills_at_once.insert(nodes.len());
                        for node in nodes {
                            assert!(!broken.contains(&node), "seed {seed}: {node} ends by itself");
                            if full.contains(&node) {
                                met.insert("a kill of a node whose disk is full");
                            }
                            assert!(down.insert(node), "seed {seed}: node {node} is down");
                            if stopped.remove(&node) {
                                met.insert("a kill of a stopped node");
                            }
                        }
                        if ways.values().any(|way| *way != Way::Open) {
                            met.insert("a kill while a link is cut");
                        }
                    }
                    Act::Start(node) => assert!(down.remove(&node), "seed {seed}: {node} runs"),
                    Act::Stop(node) => {
                        assert!(!down.contains(&node), "seed {seed}: node {node} is down");
                        assert!(stopped.is_empty(), "seed {seed}: {stopped:?} are stopped");
                        stopped.insert(node);
                    }
                    Act::Resume(node) => drop(stopped.remove(&node)),
                    Act::Serve => {}
                    Act::Fill(node) => {
                        assert!(full.is_empty() && broken.is_empty(), "seed {seed}");
                        full.insert(node);
                    }
                    Act::Break(node) => {
                        assert!(full.is_empty() && broken.is_empty(), "seed {seed}");
                        assert!(!down.contains(&node) && !stopped.contains(&node));
                        broken.insert(node);
                    }
                    Act::Empty(node) => assert!(full.remove(&node), "seed {seed}"),
                    Act::Mend(node) => assert!(broken.remove(&node), "seed {seed}"),
                    Act::Links(links, way) => {
                        assert!(links.iter().all(|(from, to)| from != to));
                        ways.extend(links.into_iter().map(|link| (link, way)));
                    }
                }
            }
            assert_eq!(kills, 100, "seed {seed}");
            assert!(down.is_empty() && stopped.is_empty(), "seed {seed}: {down:?} {stopped:?}");
            assert!(full.is_empty() && broken.is_empty(), "seed {seed}: {full:?} {broken:?}");
            assert!(ways.values().all(|way| *way == Way::Open), "seed {seed}: {ways:?}");
        }
        assert_eq!(kills_at_once, [1, 2, 3].into());
        assert_eq!(met.len(), 3, "{met:?}");
    }

    #[test]
    fn only_what_is_wanted_is_planned() {
        let round = |fault| {
            let mut acts = Plan::new(1, &[fault]).round(5);
            acts.retain(|(_, act)| *act != Act::Serve);
            acts
        };
        let stops = round(Fault::Stop);
        let stop = |act: &Act| matches!(act, Act::Stop(_) | Act::Resume(_));
        assert!(stops.len() == 10 && stops.iter().all(|(_, act)| stop(act)), "{stops:?}");
        let cuts = round(Fault::Cut);
        assert!(cuts.len() == 10 && cuts.iter().all(|(_, act)| matches!(act, Act::Links(..))));
        for (fault, (begin, end)) in [
            (Fault::Full, (Act::Fill(1), Act::Empty(1))),
            (Fault::Sync, (Act::Break(1), Act::Mend(1))),
        ] {
            let is = |act: &Act, kind: &Act| discriminant(act) == discriminant(kind);
            let disks = round(fault);
            assert_eq!(disks.iter().filter(|(_, act)| is(act, &begin)).count(), 5);
            assert_eq!(disks.iter().filter(|(_, act)| is(act, &end)).count(), 5);
            assert_eq!(disks.len(), 10, "{disks:?}");
        }
        let kills = round(Fault::Kill);
        assert!(kills.iter().all(|(_, act)| matches!(act, Act::Kill(_) | Act::Start(_))));
    }
}
