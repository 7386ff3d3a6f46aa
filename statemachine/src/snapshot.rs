//! The snapshot stream: the state as a sequence of length-delimited records.
//!
//! ```text
//! stream  = FeatureLevel NextProducerId Configs* Broker* (Topic Partition{n})* End
//! record  = length (varint) wire::Record
//! ```
//!
//! Configs that are no topic's come first for all topics, then for single brokers; only where something
//! was set. Brokers and topics ascend by id and partitions by number, so equal states give equal bytes. `End`
//! counts the records before it: a stream cut at a record's edge is told apart from a whole one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

use prost::Message;

use crate::broker::FeatureRange;
use crate::contract::{Cause, Image, RestoreError, StateHash};
use crate::ids::{BrokerId, FeatureLevel, PartitionKey, ProducerId, TopicId};
use crate::image::MetadataImage;
use crate::record::{
    broker_from_wire, broker_to_wire, configs_from_wire, configs_to_wire, partition_from_wire,
    partition_to_wire, topic_to_wire,
};
use crate::state_sum::StateSum;
use crate::topic::Topic;
use crate::wire::record::Kind;
use crate::wire::{self, DecodeError, decode_strict, id_from_wire};

/// The longest record. The largest that can be written stays below half of it: a partition with as many
/// replicas as can be, each of them named at most thrice (as replica, in ISR or ELR, and as one that is
/// added or removed).
pub const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// How much is gathered before it is handed on: a write for each record would cost more than the
/// record.
const CHUNK_BYTES: usize = 64 * 1024;

impl Image for MetadataImage {
    fn write_snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = RecordWriter {
            out,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            records: 0,
            sum: StateSum::default(),
        };
        writer.part(Kind::FeatureLevel(self.feature_level.get()))?;
        writer.part(Kind::NextProducerId(self.next_producer_id.get()))?;
        if !self.defaults.is_empty() {
            writer.part(Kind::Configs(configs_to_wire(None, &self.defaults)))?;
        }
        for (id, configs) in &self.broker_configs {
            writer.part(Kind::Configs(configs_to_wire(Some(*id), configs)))?;
        }
        for broker in self.brokers() {
            writer.part(Kind::Broker(broker_to_wire(broker)))?;
        }
        for topic in self.topics() {
            writer.part(Kind::Topic(topic_to_wire(topic)))?;
            for (number, partition) in topic.partitions() {
                let key = PartitionKey { topic: topic.id, partition: number };
                writer.sum.add_partition(key, partition);
                writer.put(Kind::Partition(partition_to_wire(partition)))?;
            }
        }
        if writer.sum != self.sum {
            let fault = "the state has not the hash that was kept of it: its memory is damaged, or this \
                         version has a fault; restart the node, and have it replaced if this comes again";
            return Err(io::Error::other(fault));
        }
        writer.put(Kind::End(writer.records))?;
        writer.flush()
    }

    fn state_hash(&self) -> StateHash {
        self.sum.hash()
    }
}

struct RecordWriter<'a> {
    out: &'a mut dyn Write,
    chunk: Vec<u8>,
    records: u64,
    /// Of what was written.
    sum: StateSum,
}

impl RecordWriter<'_> {
    /// A part of the state other than a partition.
    fn part(&mut self, kind: Kind) -> io::Result<()> {
        self.sum.add(kind.clone());
        self.put(kind)
    }

    fn put(&mut self, kind: Kind) -> io::Result<()> {
        wire::Record { kind: Some(kind) }
            .encode_length_delimited(&mut self.chunk)
            .map_err(io::Error::other)?;
        self.records += 1;
        if self.chunk.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

/// Reads a whole stream.
pub(crate) fn read(stream: &mut dyn Read) -> Result<MetadataImage, RestoreError> {
    let mut records = RecordReader {
        stream: BufReader::with_capacity(CHUNK_BYTES, stream),
        read: 0,
        bytes: vec![],
    };
    let mut image = MetadataImage::genesis();
    image.set_feature_level(read_feature_level(&mut records)?);
    match records.next()? {
        Kind::NextProducerId(id) => image.set_next_producer_id(ProducerId(id)),
        _ => return Err(records.malformed("not the next producer id, which must come here")),
    }
    loop {
        match records.next()? {
            Kind::Configs(configs) => {
                let is_late = !image.brokers.is_empty() || !image.topics.is_empty();
                let last = image.broker_configs.get_max().map(|(last, _)| last.get());
                let ascends = match configs.broker {
                    None => image.defaults.is_empty() && last.is_none(),
                    Some(broker) => last.is_none_or(|last| last < broker),
                };
                let read = configs_from_wire(&configs.configs, image.feature_level);
                let read = read.map_err(|error| records.malformed(error))?;
                if is_late || !ascends || read.is_empty() {
                    return Err(records.malformed("configs out of order"));
                }
                match configs.broker {
                    None => image.set_defaults(read),
                    Some(broker) => image.put_broker_configs(BrokerId(broker), read),
                }
            }
            Kind::Broker(broker) => {
                let broker = broker_from_wire(broker).map_err(|error| records.malformed(error))?;
                let ascends = image.brokers.get_max().is_none_or(|(last, _)| *last < broker.id);
                if !ascends || !image.topics.is_empty() {
                    return Err(records.malformed("a broker out of order"));
                }
                image.put_broker(broker);
            }
            Kind::Topic(topic) => {
                let topic = read_topic(&mut records, topic, image.feature_level)?;
                if image.topics.get_max().is_some_and(|(last, _)| *last >= topic.id) {
                    return Err(records.malformed("a topic out of order"));
                }
                if image.topic_colliding_with(&topic.name).is_some() {
                    return Err(records.malformed("a topic whose name collides with another's"));
                }
                image.put_topic(topic);
            }
            Kind::End(count) if count.checked_add(1) == Some(records.read) => break,
            _ => return Err(records.malformed("a record that cannot come here")),
        }
    }
    records.expect_end()?;
    image.check_state().map_err(|violation| RestoreError::Inconsistent(violation.into()))?;
    Ok(image)
}

fn read_feature_level(records: &mut RecordReader<'_>) -> Result<FeatureLevel, RestoreError> {
    let Kind::FeatureLevel(level) = records.next()? else {
        return Err(records.malformed("not the feature level, which must come first"));
    };
    let supported = FeatureRange::SUPPORTED;
    if supported.contains(FeatureLevel(level)) {
        return Ok(FeatureLevel(level));
    }
    let (min, max) = (supported.min.get(), supported.max.get());
    Err(RestoreError::UnsupportedFeatureLevel { level, min, max })
}

fn read_topic(
    records: &mut RecordReader<'_>,
    topic: wire::Topic,
    level: FeatureLevel,
) -> Result<Topic, RestoreError> {
    let id = id_from_wire("topic id", &topic.id).map_err(|error| records.malformed(error))?;
    let configs =
        configs_from_wire(&topic.configs, level).map_err(|error| records.malformed(error))?;
    let mut partitions = Vec::new();
    for _ in 0..topic.partitions {
        match records.next()? {
            Kind::Partition(partition) => {
                partitions.push(partition_from_wire(&partition));
            }
            _ => return Err(records.malformed("not a partition, and the topic has more of them")),
        }
    }
    let (name, configs) = (topic.name.into(), Arc::new(configs));
    Ok(Topic { id: TopicId(id), name, configs, partitions: partitions.into_iter().collect() })
}

struct RecordReader<'a> {
    stream: BufReader<&'a mut dyn Read>,
    /// Records read whole; while one is being read, its number.
    read: u64,
    bytes: Vec<u8>,
}

impl RecordReader<'_> {
    fn next(&mut self) -> Result<Kind, RestoreError> {
        let len = self.read_length()?;
        if len > RECORD_BYTES_MAX {
            return Err(RestoreError::RecordTooLong {
                record: self.read,
                len,
                max: RECORD_BYTES_MAX,
            });
        }
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        self.bytes.resize(bytes, 0);
        self.stream.read_exact(&mut self.bytes).map_err(|error| truncated(self.read, error))?;
        let record: wire::Record = decode_strict(&self.bytes).map_err(|error| match error {
            DecodeError::Unknown => RestoreError::Unknown { record: self.read },
            error => RestoreError::Malformed { record: self.read, source: error.into() },
        })?;
        let kind = record.kind.ok_or(RestoreError::Malformed {
            record: self.read,
            source: "the record is empty".into(),
        })?;
        self.read += 1;
        Ok(kind)
    }

    /// The length before a record: a varint in its shortest form, as it is written.
    fn read_length(&mut self) -> Result<u64, RestoreError> {
        /// Seven bits a byte: a length within the limit needs three, any 64-bit number ten.
        const VARINT_BYTES_MAX: u32 = 10;
        let mut len = 0u64;
        for at in 0..VARINT_BYTES_MAX {
            let mut byte = [0u8];
            self.stream.read_exact(&mut byte).map_err(|error| truncated(self.read, error))?;
            let bits = u64::from(byte[0] & 0x7f);
            let shifted = bits << (at * 7);
            if shifted >> (at * 7) != bits {
                break;
            }
            len |= shifted;
            if byte[0] & 0x80 == 0 {
                if byte[0] == 0 && at > 0 {
                    break;
                }
                return Ok(len);
            }
        }
        Err(RestoreError::Malformed { record: self.read, source: "not a length".into() })
    }

    fn expect_end(&mut self) -> Result<(), RestoreError> {
        if self.stream.fill_buf()?.is_empty() {
            return Ok(());
        }
        Err(RestoreError::Trailing { records: self.read })
    }

    /// The record read last is not what it should be.
    fn malformed(&self, source: impl Into<Cause>) -> RestoreError {
        RestoreError::Malformed { record: self.read.saturating_sub(1), source: source.into() }
    }
}

fn truncated(record: u64, error: io::Error) -> RestoreError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        RestoreError::Truncated { record }
    } else {
        RestoreError::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::contract::StateMachine;
    use crate::machine::Metadata;
    use crate::partition::EPOCH_MAX;
    use crate::testing::{Cluster, key, new_topic};

    #[test]
    fn a_state_that_is_not_what_its_hash_says_is_not_written() {
        let mut image = Cluster::of(&[1]).image().clone();
        image.write_snapshot(&mut Vec::new()).expect("sound");
        // A change that the hash knows nothing of, as by a bit that flips.
        image.next_producer_id = ProducerId(1_000);
        let error = image.write_snapshot(&mut Vec::new()).expect_err("damaged");
        assert!(error.to_string().contains("has not the hash"), "{error}");
    }

    fn written(image: &MetadataImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write_snapshot(&mut bytes).expect("a vector takes all");
        bytes
    }

    fn restore(bytes: &[u8]) -> Result<MetadataImage, RestoreError> {
        Metadata::restore(&mut &bytes[..]).map(|machine| machine.image())
    }

    /// To see it fail: leave its rule out of `check.rs`.
    #[test]
    fn a_leader_in_the_last_epoch_is_not_restored() {
        let image = Cluster::with_topic(&[1, 2], &[1, 2], &[]).image().clone();
        for (leader_epoch, partition_epoch, is_restored) in [
            (7, EPOCH_MAX - 1, true),
            (7, EPOCH_MAX, false),
            (EPOCH_MAX, EPOCH_MAX, false),
            (EPOCH_MAX, 7, false),
        ] {
            let mut image = image.clone();
            let mut partition = image.partition(key(1, 0)).expect("there").clone();
            partition.leader_epoch.0 = leader_epoch;
            partition.partition_epoch.0 = partition_epoch;
            image.put_partition(key(1, 0), partition);
            let restored = restore(&written(&image));
            match is_restored {
                true => assert_eq!(restored.expect("it may lead"), image),
                false => {
                    let error = restored.expect_err("it could not be fenced");
                    assert!(matches!(error, RestoreError::Inconsistent(_)), "{error}");
                }
            }
        }
    }

    fn stream(records: Vec<Kind>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let sum = StateSum::default();
        let mut writer = RecordWriter { out: &mut bytes, chunk: vec![], records: 0, sum };
        for kind in records {
            writer.put(kind).expect("a vector takes all");
        }
        writer.flush().expect("a vector takes all");
        bytes
    }

    /// Brokers with everything that a broker can have, an ELR, a leaderless partition.
    fn cluster() -> Cluster {
        let mut cluster =
            Cluster::with_topic(&[1, 2, 3], &[1, 2, 3], &[("min.insync.replicas", "2")]);
        cluster.register_in_rack(4, "rack");
        let topics = vec![new_topic(9, "b.c", &[&[3, 1], &[2, 1]]), new_topic(5, "a", &[&[1]])];
        cluster.accept(Command::CreateTopics { topics });
        cluster.accept(Command::AllocateProducerIds(cluster.session(1)));
        cluster.fence(3);
        cluster.shut_down(2);
        cluster
    }

    #[test]
    fn a_restored_state_is_the_same_byte_for_byte() {
        for image in [Cluster::default().image(), cluster().image()] {
            let bytes = written(image);
            let restored = restore(&bytes).expect("what was written can be read");
            assert_eq!(restored, *image);
            assert_eq!(written(&restored), bytes);
            assert_eq!(restored.state_hash(), image.state_hash());
            restored.check().expect("indexes are built again");
        }
    }

    #[test]
    fn the_bytes_of_genesis_never_change() {
        let image = MetadataImage::genesis();
        assert_eq!(written(&image), [2, 8, 1, 2, 16, 0, 2, 48, 2]);
        let of_records = [[8, 1], [16, 0]].map(|record| xxhash_rust::xxh3::xxh3_128(&record));
        let sum = of_records.into_iter().fold(0, u128::wrapping_add);
        assert_eq!(image.state_hash(), StateHash::new(sum));
        assert_eq!(image.state_hash().to_string(), "9c1f0f7fd532401e69730ba7672f1b2a");
    }

    #[test]
    fn hashes_tell_states_apart() {
        let mut cluster = cluster();
        let mut seen = std::collections::BTreeSet::from([cluster.image().state_hash()]);
        let steps: [fn(&mut Cluster) -> crate::Reply; 3] =
            [|c| c.unfence(3), |c| c.fence(1), |c| c.restart(1, 2, &[1])];
        for step in steps {
            step(&mut cluster);
            assert!(seen.insert(cluster.image().state_hash()));
        }
    }

    #[test]
    fn a_stream_cut_anywhere_is_truncated() {
        let bytes = written(cluster().image());
        for len in 0..bytes.len() {
            let error = restore(&bytes[..len]).expect_err("cut short");
            assert!(matches!(error, RestoreError::Truncated { .. }), "cut at {len}: {error:?}");
        }
    }

    #[test]
    fn no_flipped_bit_is_read_as_another_state_unseen_or_panics() {
        let image = cluster().image().clone();
        let bytes = written(&image);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                // The frame around the stream has the checksum. Here: what is read writes the same.
                if let Ok(restored) = restore(&flipped) {
                    assert_eq!(written(&restored), flipped, "byte {at} bit {bit}");
                    assert_ne!(restored.state_hash(), image.state_hash());
                }
            }
        }
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let mut bytes = written(cluster().image());
        bytes.push(0);
        assert!(matches!(restore(&bytes), Err(RestoreError::Trailing { .. })));
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_reserved() {
        let mut bytes = vec![2, 8, 1];
        bytes.extend([0xff; 9]);
        bytes.push(1);
        let error = restore(&bytes).expect_err("too long");
        assert!(matches!(error, RestoreError::RecordTooLong { record: 1, len: u64::MAX, .. }));
        let error = restore(&[0xff; 11]).expect_err("no varint");
        assert!(matches!(error, RestoreError::Malformed { record: 0, .. }));
        // The second is 2 if the bits beyond 64 are lost.
        let beyond = [&[0x82][..], &[0x80; 8], &[2, 8, 1]].concat();
        for (bytes, case) in [(&[0x82, 0x00, 8, 1][..], "a needless byte"), (&beyond, "65 bits")] {
            let error = restore(bytes).expect_err(case);
            assert!(matches!(error, RestoreError::Malformed { record: 0, .. }), "{case}");
        }
    }

    fn topic(id: u128, name: &str, partitions: u32, configs: &[(&str, &str)]) -> Kind {
        let config = |(key, value): &(&str, &str)| wire::Config {
            key: (*key).into(),
            value: (*value).into(),
        };
        Kind::Topic(wire::Topic {
            id: id.to_be_bytes().to_vec(),
            name: name.into(),
            configs: configs.iter().map(config).collect(),
            partitions,
        })
    }

    fn partition() -> wire::Partition {
        wire::Partition { replicas: vec![1], elr: vec![1], ..wire::Partition::default() }
    }

    #[test]
    fn records_come_in_their_order_only() {
        let head = [Kind::FeatureLevel(1), Kind::NextProducerId(0)];
        let broker = |id: u32| {
            Kind::Broker(wire::Broker {
                id,
                epoch: u64::from(id) + 1,
                incarnation: vec![1; 16],
                features: Some(wire::FeatureRange { min: 1, max: 1 }),
                directories: vec![vec![u8::try_from(id).expect("small"); 16]],
                fenced: true,
                ..wire::Broker::default()
            })
        };
        let part = || Kind::Partition(partition());
        let good =
            [broker(1), broker(2), topic(1, "a", 1, &[]), part(), topic(2, "b", 1, &[]), part()];
        let whole: Vec<Kind> = head.iter().cloned().chain(good).chain([Kind::End(8)]).collect();
        restore(&stream(whole)).expect("in order");
        for (case, tail) in [
            ("wrong count", vec![Kind::End(3)]),
            ("highest count", vec![Kind::End(u64::MAX)]),
            ("broker twice", vec![broker(1), broker(1)]),
            ("brokers descend", vec![broker(2), broker(1)]),
            ("broker after topic", vec![topic(1, "a", 1, &[]), part(), broker(1)]),
            ("topics descend", vec![topic(2, "a", 1, &[]), part(), topic(1, "b", 1, &[]), part()]),
            (
                "names collide",
                vec![topic(1, "a.b", 1, &[]), part(), topic(2, "a_b", 1, &[]), part()],
            ),
            ("too few partitions", vec![topic(1, "a", 2, &[]), part(), Kind::End(4)]),
            ("too many partitions", vec![topic(1, "a", 1, &[]), part(), part()]),
            ("feature level twice", vec![Kind::FeatureLevel(1)]),
            ("unknown config", vec![topic(1, "a", 1, &[("x", "1")])]),
            ("another spelling", vec![topic(1, "a", 1, &[("retention.ms", "01")])]),
            (
                "configs out of order",
                vec![topic(1, "a", 1, &[("retention.ms", "1"), ("cleanup.policy", "delete")])],
            ),
        ] {
            let records = head.iter().cloned().chain(tail).collect();
            let error = restore(&stream(records)).expect_err(case);
            assert!(matches!(error, RestoreError::Malformed { .. }), "{case}: {error:?}");
        }
        for (case, records) in [
            ("no feature level", vec![Kind::NextProducerId(0)]),
            ("no producer id", vec![Kind::FeatureLevel(1), Kind::End(1)]),
        ] {
            let error = restore(&stream(records)).expect_err(case);
            assert!(matches!(error, RestoreError::Malformed { .. }), "{case}: {error:?}");
        }
    }

    #[test]
    fn a_state_that_cannot_be_is_refused() {
        let led = wire::Partition { leader: Some(1), isr: vec![1], elr: vec![], ..partition() };
        for (case, partitions) in [
            ("no partition", vec![]),
            ("led by nobody registered", vec![led]),
            ("no replica", vec![wire::Partition::default()]),
        ] {
            let count = u32::try_from(partitions.len()).expect("few");
            let mut records = vec![Kind::FeatureLevel(1), Kind::NextProducerId(0)];
            records.push(topic(1, "a", count, &[]));
            records.extend(partitions.into_iter().map(Kind::Partition));
            records.push(Kind::End(u64::try_from(records.len()).expect("few")));
            let error = restore(&stream(records)).expect_err(case);
            assert!(matches!(error, RestoreError::Inconsistent(_)), "{case}: {error:?}");
        }
    }

    #[test]
    fn what_a_later_version_wrote_says_upgrade() {
        let error = restore(&stream(vec![Kind::FeatureLevel(2)])).expect_err("a later level");
        let (level, min, max) = (2, 1, 1);
        assert!(matches!(error, RestoreError::UnsupportedFeatureLevel { level: l, min: a, max: b }
                if (l, a, b) == (level, min, max)));
        // Field 15 of the record is of no kind that is known.
        let error = restore(&[2, 8, 1, 2, 0x78, 1]).expect_err("a later kind");
        assert!(matches!(error, RestoreError::Unknown { record: 1 }), "{error:?}");
        assert!(error.to_string().contains("upgrade"));
    }

    #[test]
    fn errors_of_the_reader_are_passed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        assert!(matches!(Metadata::restore(&mut Broken), Err(RestoreError::Io(_))));
    }
}
