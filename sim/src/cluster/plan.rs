//! [`Plan`]: what a seed decides before anything happens.

use clap::ValueEnum;
use quorate_engine::EngineConfig;
use quorate_loop::{AppendMode, LoopConfig};
use serde::Serialize;

use super::coverage::Event;
use super::queue::Micros;
use crate::random::Random;

/// What goes on in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// A cluster that is idle most of the time, and has a fault now and then: hours of it.
    Idle,
    /// One fault after the other under load.
    Faults,
}

/// A run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Voters from the start.
    pub(super) voters: u64,
    /// Other machines, which are no members yet.
    pub(super) others: u64,
    pub(super) clients: u64,
    /// How long faults come.
    pub(super) length: Micros,
    /// Between two faults, on average.
    pub(super) between: Micros,
    /// Between an answer and the next command of a client, on average.
    pub(super) thinking: Micros,
    /// What may happen in this run.
    pub(super) events: Vec<Event>,
    /// Two of them, which happen more often than the others, so that they meet: each two have their turn.
    pub(super) pair: (Event, Event),
    /// What a sync takes at least, and what may come on top.
    pub(super) sync: (Micros, Micros),
    /// How long inputs of a node may gather at most before their effects are taken, all at once: a loop that
    /// is busy takes many. With 0 each input has its own.
    pub(super) gathering: Micros,
    /// Entries between two snapshots of a node.
    pub(super) snapshot_every: u64,
    /// The data plane, if the run has one.
    pub(super) brokers: Option<BrokersPlan>,
    pub(super) loop_config: LoopConfig,
    pub(super) engine_config: EngineConfig,
}

/// The data plane of a run.
#[derive(Debug, Clone)]
pub(super) struct BrokersPlan {
    pub(super) count: u32,
    /// Whether a broker flushes what it counts as written; if not, as Kafka's, it vouches for its disk only
    /// after it has shut down in order.
    pub(super) flushes: bool,
    /// Whether operators elect leaders uncleanly where nobody leads, instead of waiting.
    pub(super) unclean: bool,
    /// How many of a hundred AlterPartitions are slow on their way, so that others overtake them.
    pub(super) slow: u64,
    /// Between two records, on average.
    pub(super) producing: Micros,
    pub(super) topics: Vec<TopicPlan>,
}

/// A topic of the data plane, as it is created.
#[derive(Debug, Clone, Copy)]
pub(super) struct TopicPlan {
    pub(super) partitions: u32,
    pub(super) replicas: u32,
    pub(super) min_insync: u32,
}

const SECOND: Micros = 1_000_000;

impl Plan {
    /// Nothing happens by itself: for whoever decides that.
    pub(super) fn quiet(voters: u64) -> Plan {
        Plan {
            voters,
            others: 0,
            clients: 0,
            events: Vec::new(),
            brokers: None,
            gathering: 0,
            snapshot_every: 100,
            loop_config: LoopConfig::default(),
            engine_config: EngineConfig::default(),
            ..Plan::draw(0, Mix::Faults)
        }
    }

    pub(super) fn draw(seed: u64, mix: Mix) -> Plan {
        let mut random = Random::new(seed ^ 0x9147);
        let random = &mut random;
        // Swarms: some faults are absent in each run, so that the others come more often together.
        let some = [25, 50, 80][random.below(3) as usize];
        let pair = pair(seed);
        let is_in = |event: &Event| *event == pair.0 || *event == pair.1;
        let events = Event::ALL.into_iter().filter(|event| random.chance(some) || is_in(event));
        let mut events: Vec<_> = events.collect();
        let brokers = BrokersPlan::draw(seed, mix, pair);
        if brokers.is_none() {
            events.retain(|event| !of_brokers(*event) || is_in(event));
        } else if events.contains(&Event::BrokerDeath) {
            // There are more faults of nodes than of brokers.
            events.extend(std::iter::repeat_n(Event::BrokerDeath, events.len() / 4));
        }
        let (length, between, thinking) = match mix {
            Mix::Idle => (1_800 * SECOND, 120 * SECOND, 20 * SECOND),
            Mix::Faults => {
                let between = [300_000, SECOND, 3 * SECOND][random.below(3) as usize];
                let thinking = [30_000, 200_000, 1_000_000][random.below(3) as usize];
                (10 * SECOND + random.below(30 * SECOND), between, thinking)
            }
        };
        let voters = match random.below(10) {
            // Where one disk may be lost while another is, there are enough of them.
            _ if pair == (Event::Wipe, Event::BitRot) => 5,
            0 => 1,
            1 => 2,
            2..=6 => 3,
            7 => 4,
            8 => 5,
            _ => 7,
        };
        Plan {
            voters,
            others: random.below(3).min(7 - voters),
            clients: 1 + random.below(6),
            length,
            between,
            thinking,
            events,
            pair,
            sync: [(50, 100), (500, 1_000), (2_000, 20_000)][random.below(3) as usize],
            gathering: [0, 300, 5_000][random.below(3) as usize],
            snapshot_every: [5, 20, 100, 1_000][random.below(4) as usize],
            brokers,
            loop_config: loop_config(random),
            engine_config: engine_config(random),
        }
    }
}

/// Whether only brokers are struck by it.
fn of_brokers(event: Event) -> bool {
    matches!(event, Event::BrokerDeath | Event::BrokerShutdown)
}

impl BrokersPlan {
    /// A data plane in half of the runs, and where what may happen is of brokers; none where hours pass.
    fn draw(seed: u64, mix: Mix, pair: (Event, Event)) -> Option<BrokersPlan> {
        let mut random = Random::new(seed ^ 0x62_726f_6b65);
        let is_wanted = random.chance(50) || of_brokers(pair.0) || of_brokers(pair.1);
        if !is_wanted || mix == Mix::Idle {
            return None;
        }
        let count = 3 + random.below(3) as u32;
        let topics = (0..1 + random.below(3)).map(|_| TopicPlan {
            partitions: 1 + random.below(2) as u32,
            replicas: 1 + random.below(3) as u32,
            min_insync: 1 + random.below(3) as u32,
        });
        Some(BrokersPlan {
            topics: topics.collect(),
            count,
            flushes: random.chance(50),
            unclean: random.chance(10),
            slow: [8, 8, 50][random.below(3) as usize],
            producing: [20_000, 100_000, 400_000][random.below(3) as usize],
        })
    }
}

/// The two events whose turn it is with this seed.
fn pair(seed: u64) -> (Event, Event) {
    let all = Event::ALL.len();
    let mut number = (seed % (all * (all - 1) / 2) as u64) as usize;
    let mut first = 0;
    // As many pairs begin with the first event as there are events behind it.
    while number >= all - 1 - first {
        number -= all - 1 - first;
        first += 1;
    }
    (Event::ALL[first], Event::ALL[first + 1 + number])
}

fn loop_config(random: &mut Random) -> LoopConfig {
    let append_mode = match random.chance(50) {
        true => AppendMode::Parallel,
        false => AppendMode::default(),
    };
    LoopConfig {
        append_mode,
        command_bytes_max: 16 << 10,
        append_bytes_max: [4 << 10, 16 << 10, 64 << 10][random.below(3) as usize],
        append_inflight_max: [2, 16, 64][random.below(3) as usize],
        uncommitted_bytes_max: 64 << 10,
        apply_lag_max: [50, 10_000][random.below(2) as usize],
        tail_entries: [0, 10, 200][random.below(3) as usize],
        tail_bytes: [0, 4 << 10, 1 << 20][random.below(3) as usize],
        ..LoopConfig::default()
    }
}

fn engine_config(random: &mut Random) -> EngineConfig {
    let target_file_size_bytes = [4 << 10, 32 << 10, 1 << 20][random.below(3) as usize];
    EngineConfig {
        cache_bytes_max: [0, 4 << 10, 16 << 20][random.below(3) as usize],
        target_file_size_bytes,
        purge_threshold_bytes: 4 * target_file_size_bytes,
        ..EngineConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_two_events_have_their_turn() {
        let all = Event::ALL.len();
        let count = (all * (all - 1) / 2) as u64;
        let pairs: std::collections::BTreeSet<_> = (0..count).map(pair).collect();
        assert_eq!(pairs.len() as u64, count);
        assert!(pairs.iter().all(|(first, second)| first < second));
    }

    #[test]
    fn every_plan_is_one_that_a_node_would_accept() {
        for (seed, mix) in (0..500).zip([Mix::Idle, Mix::Faults].into_iter().cycle()) {
            let plan = Plan::draw(seed, mix);
            assert_eq!(plan.engine_config.validate(), Ok(()), "seed {seed}");
            assert!((1..=7).contains(&(plan.voters + plan.others)), "seed {seed}");
            assert!(plan.events.contains(&plan.pair.0) && plan.events.contains(&plan.pair.1));
        }
    }
}
