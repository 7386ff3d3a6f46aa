//! One run: a model and two replicas that go the same way.

use std::collections::{BTreeSet, VecDeque};

use quorate_statemachine::{
    ApplyError, Changes as _, Command, Delta, ErrorCode, FeatureRange, Image, Metadata,
    MetadataImage, Outcome, PartitionKey, Rejection, Reply, StateHash, StateMachine,
    TopicConfigKey,
};

use crate::age::aged;
use crate::coverage::Coverage;
use crate::generator::Generator;
use crate::random::Random;
use crate::state::State;

/// How many of the last commands a failure shows.
const SHOWN: usize = 12;

/// The model and the machine, and what is known of them.
pub(crate) struct Run {
    seed: u64,
    /// The number of the last command, which is its index in the log.
    index: u64,
    last: VecDeque<Command>,
    random: Random,
    model: State,
    machine: Metadata,
    image: MetadataImage,
    hash: StateHash,
    /// Goes on from snapshots.
    replica: Metadata,
    watcher: Watcher,
}

/// Sees a collapsed delta at times.
struct Watcher {
    model: State,
    image: MetadataImage,
    collapsed: Delta,
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let machine = Metadata::new();
        let image = machine.image();
        let model = State::genesis();
        assert_eq!(State::of(&image), model);
        let collapsed = Delta::default();
        Self {
            seed,
            index: 0,
            last: VecDeque::new(),
            random: Random::new(seed),
            watcher: Watcher { model: model.clone(), image: image.clone(), collapsed },
            model,
            machine,
            hash: image.state_hash(),
            image,
            replica: Metadata::new(),
        }
    }

    /// Goes on by as many commands.
    pub(crate) fn go(mut self, commands: u64, coverage: &mut Coverage) {
        for _ in 0..commands {
            if self.random.chance(1) {
                self.age();
            }
            let checkpoint = self.image.checkpoints().last().copied();
            let command = Generator::new(&mut self.random, &self.model, checkpoint).command();
            self.index += 1;
            self.last.push_back(command.clone());
            if self.last.len() > SHOWN {
                self.last.pop_front();
            }
            self.step(&command, coverage);
        }
    }

    fn step(&mut self, command: &Command, coverage: &mut Coverage) {
        let before = self.model.clone();
        let expected = self.model.apply(self.index, command);
        if expected.is_err() {
            // Refused, so nothing changed.
            self.model = before.clone();
        }
        self.model.check().unwrap();
        self.model.check_step(&before).unwrap();
        if !FeatureRange::SUPPORTED.contains(self.model.feature_level) {
            self.model = before;
            self.assert_stops(command);
            coverage.count_stopped(command);
            return;
        }

        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        let mut changes = Delta::default();
        let outcome = self.machine.apply(self.index, &bytes, &mut changes).unwrap();
        let result = without_sentences(&outcome);
        assert_eq!(Outcome::decode(&outcome.encode()).as_ref(), Ok(&outcome));

        let image = self.machine.image();
        let state = State::of(&image);
        if result != expected || state != self.model {
            let (was, differs) = (before.difference(&state), state.difference(&self.model));
            panic!(
                "the model differs.\noutcome: {outcome:?}\nmodel:   {expected:?}\n\nchanged by the \
                 command, before and after:\n{was}\n\ndifferent in the model, machine and \
                 model:\n{differs}"
            );
        }
        assert_indexes(&image, &self.model);
        let delta = self.model.delta_since(&before);
        assert_eq!(changes, delta, "the delta, and the model's");
        image.check().unwrap();
        self.image.check_step(&image).unwrap();
        let hash = image.state_hash();
        assert_eq!(hash == self.hash, before == self.model, "the hash follows the state");
        coverage.count(command, &expected, before != self.model);
        coverage.count_changes(&before, &self.model);

        if self.random.chance(50) {
            self.replica = restored(&self.replica.image());
        }
        // The replica's are gathered, which is as merging them.
        let collapsed = &mut self.watcher.collapsed;
        let mut merged = collapsed.clone();
        merged.merge(changes);
        assert_eq!(self.replica.apply(self.index, &bytes, collapsed).unwrap(), outcome);
        assert_eq!(*collapsed, merged, "what was changed until now");
        let replica = self.replica.image();
        assert_eq!(replica.state_hash(), hash, "the hash of a restored replica");

        (self.image, self.hash) = (image, hash);
        if self.random.chance(30) {
            assert_eq!(snapshot(&replica), snapshot(&self.image), "a restored replica's bytes");
            let restored = restored(&self.image).image();
            assert_eq!(State::of(&restored), self.model, "a snapshot, read again");
            assert_eq!(restored.state_hash(), hash, "the hash of a snapshot, read again");
            self.watcher.look(&self.model, &self.image);
        }
    }

    /// All go on from a state whose partitions have been changed very often.
    fn age(&mut self) {
        let bytes = aged(&snapshot(&self.image), &mut self.random);
        let restored = || Metadata::restore(&mut &bytes[..]).unwrap();
        (self.machine, self.replica) = (restored(), restored());
        self.image = self.machine.image();
        self.hash = self.image.state_hash();
        self.model = State::of(&self.image);
        self.watcher = Watcher {
            model: self.model.clone(),
            image: self.image.clone(),
            collapsed: Delta::default(),
        };
    }

    /// A feature level that brokers have and this version does not ends a replica.
    fn assert_stops(&self, command: &Command) {
        let mut changes = Delta::default();
        let applied = restored(&self.image).apply(self.index, &command.encode(), &mut changes);
        let error = applied.unwrap_err();
        assert!(matches!(error, ApplyError::UnsupportedFeatureLevel { .. }), "{error}");
    }
}

impl Watcher {
    /// What differs since the last look is in the delta, and it names nothing that is not there.
    fn look(&mut self, model: &State, image: &MetadataImage) {
        let differs = model.delta_since(&self.model);
        assert_eq!(Delta::between(&self.image, image), differs, "what differs between two images");
        let told = std::mem::take(&mut self.collapsed);
        let there: BTreeSet<PartitionKey> = model.keys().into_iter().collect();
        assert!(differs.brokers.is_subset(&told.brokers));
        assert!(differs.partitions.is_subset(&told.partitions));
        assert!(told.partitions.is_subset(&there));
        assert!(differs.topics_created.is_subset(&told.topics_created));
        assert!(told.topics_created.iter().all(|id| model.topics.contains_key(id)));
        assert!(differs.topics_deleted.is_subset(&told.topics_deleted));
        assert!(told.topics_deleted.iter().all(|id| self.model.topics.contains_key(id)));
        let known = &told.topics_changed | &told.topics_created;
        assert!(differs.topics_changed.is_subset(&known));
        assert!(differs.defaults <= told.defaults);
        assert_eq!(differs.feature_level, told.feature_level);
        assert_eq!(differs.producer_ids, told.producer_ids);
        *self = Self { model: model.clone(), image: image.clone(), collapsed: Delta::default() };
    }
}

/// How to see a failure again.
impl Drop for Run {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Self { seed, index, .. } = &*self;
        eprintln!("\nseed {seed} failed at its command {index}. The last ones:");
        let first = *index + 1 - self.last.len() as u64;
        for (number, command) in (first..).zip(&self.last) {
            eprintln!("{number:>5}  {command:?}");
        }
        eprintln!(
            "replay: QUORATE_MODEL_SEED={seed} QUORATE_MODEL_COMMANDS={index} \
             cargo test -p quorate-statemachine --test model --release\n"
        );
    }
}

fn snapshot(image: &MetadataImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write_snapshot(&mut bytes).unwrap();
    bytes
}

fn restored(image: &MetadataImage) -> Metadata {
    Metadata::restore(&mut &snapshot(image)[..]).unwrap()
}

/// The outcome as the model knows it; each sentence must name a remedy.
fn without_sentences(outcome: &Outcome) -> Result<Reply, ErrorCode> {
    let wordless = |rejection: &mut Rejection| {
        let sentence = std::mem::take(&mut rejection.message);
        assert!(sentence.contains(": ") && !sentence.ends_with('.'), "no remedy: {sentence}");
        rejection.code
    };
    let mut result = outcome.clone().into_result();
    if let Ok(Reply::LeadersElected { results } | Reply::Reassigned { results }) = &mut result {
        for rejection in results.iter_mut().filter_map(|result| result.as_mut().err()) {
            wordless(rejection);
        }
    }
    result.map_err(|mut rejection| wordless(&mut rejection))
}

/// What is found by name, by broker, or by falling back to a default.
fn assert_indexes(image: &MetadataImage, model: &State) {
    for (id, topic) in &model.topics {
        let found = image.topic(*id).unwrap();
        assert_eq!(image.topic_by_name(&topic.name), Some(found));
        assert_eq!(image.topic_colliding_with(&topic.name.replace('.', "_")), Some(found));
        for key in TopicConfigKey::ALL {
            assert_eq!(image.config(found, key), model.config(*id, key.name()));
        }
        assert_eq!(image.min_insync_replicas(found) as usize, model.min_insync(*id));
        assert_eq!(image.unclean_leader_election(found), model.unclean_election(*id));
    }
    assert_eq!(image.topics_by_name().count(), model.topics.len());
    for broker in (0..8).map(quorate_statemachine::BrokerId) {
        let kept = image.partitions_of(broker).collect::<Vec<_>>();
        let keeps = |key: &PartitionKey| model.partition(*key).unwrap().replicas.contains(&broker);
        assert_eq!(kept, model.keys().into_iter().filter(keeps).collect::<Vec<_>>());
    }
}
