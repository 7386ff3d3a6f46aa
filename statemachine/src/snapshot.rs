//! The snapshot stream: the state as a sequence of length-delimited records.
//!
//! ```text
//! stream  = FeatureLevel NextProducerId Broker* (Topic Partition{n})* End
//! record  = length (varint) wire::Record
//! ```
//!
//! Brokers and topics ascend by id and partitions by number, so equal states give equal bytes. `End`
//! counts the records before it: a stream cut at a record's edge is told apart from a whole one. The
//! state hash is that of the same bytes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::broker::{Broker, FeatureRange};
use crate::command::{
    brokers_from_wire, brokers_to_wire, features_from_wire, features_to_wire, listener_from_wire,
    listener_to_wire, recovery_from_wire,
};
use crate::contract::{Cause, Image, RestoreError, StateHash};
use crate::ids::{
    BrokerEpoch, BrokerId, DirectoryId, FeatureLevel, LeaderEpoch, PartitionEpoch, ProducerId,
    TopicId,
};
use crate::image::MetadataImage;
use crate::partition::{Partition, Recovery};
use crate::topic::Topic;
use crate::topic_config::TopicConfigs;
use crate::wire::record::Kind;
use crate::wire::{self, DecodeError, decode_strict, id_from_wire, id_to_wire};

/// The longest record. The largest that can be written, a partition with the highest replication
/// factor, stays below half of it.
pub const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// How much is gathered before it is handed on: a write for each record would cost more than the
/// record.
const CHUNK_BYTES: usize = 64 * 1024;

impl Image for MetadataImage {
    fn write_snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = RecordWriter { out, chunk: Vec::with_capacity(CHUNK_BYTES), records: 0 };
        writer.put(Kind::FeatureLevel(self.feature_level.get()))?;
        writer.put(Kind::NextProducerId(self.next_producer_id.get()))?;
        for broker in self.brokers() {
            writer.put(Kind::Broker(broker_to_wire(broker)))?;
        }
        for topic in self.topics() {
            writer.put(Kind::Topic(topic_to_wire(topic)))?;
            for (_, partition) in topic.partitions() {
                writer.put(Kind::Partition(partition_to_wire(partition)))?;
            }
        }
        writer.put(Kind::End(writer.records))?;
        writer.flush()
    }

    fn state_hash(&self) -> StateHash {
        let mut hasher = Hasher(Box::new(Xxh3::new()));
        let written = self.write_snapshot(&mut hasher);
        debug_assert!(written.is_ok(), "hashing does no I/O");
        StateHash::new(hasher.0.digest128())
    }
}

/// XXH3 with 128 bits as a sink. The hash finds replicas that differ; it need not resist anybody who
/// may write to the log.
struct Hasher(Box<Xxh3>);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct RecordWriter<'a> {
    out: &'a mut dyn Write,
    chunk: Vec<u8>,
    records: u64,
}

impl RecordWriter<'_> {
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
    image.feature_level = read_feature_level(&mut records)?;
    image.next_producer_id = match records.next()? {
        Kind::NextProducerId(id) => ProducerId(id),
        _ => return Err(records.malformed("not the next producer id, which must come here")),
    };
    loop {
        match records.next()? {
            Kind::Broker(broker) => {
                let broker = broker_from_wire(broker).map_err(|error| records.malformed(error))?;
                let ascends = image.brokers.get_max().is_none_or(|(last, _)| *last < broker.id);
                if !ascends || !image.topics.is_empty() {
                    return Err(records.malformed("a broker out of order"));
                }
                image.put_broker(broker);
            }
            Kind::Topic(topic) => {
                let topic = read_topic(&mut records, topic)?;
                if image.topics.get_max().is_some_and(|(last, _)| *last >= topic.id) {
                    return Err(records.malformed("a topic out of order"));
                }
                if image.topic_colliding_with(&topic.name).is_some() {
                    return Err(records.malformed("a topic whose name collides with another's"));
                }
                image.put_topic(topic);
            }
            Kind::End(count) if count + 1 == records.read => break,
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

fn read_topic(records: &mut RecordReader<'_>, topic: wire::Topic) -> Result<Topic, RestoreError> {
    let id = id_from_wire("topic id", &topic.id).map_err(|error| records.malformed(error))?;
    let entries = topic.configs.iter().map(|config| (&config.key, &config.value));
    let configs = TopicConfigs::from_entries(entries).map_err(|error| records.malformed(error))?;
    let kept = configs.iter().map(|(key, value)| (key.name(), value));
    if !kept.eq(topic.configs.iter().map(|config| (config.key.as_str(), config.value.as_str()))) {
        return Err(records.malformed("configs that are out of order or in another spelling"));
    }
    let mut partitions = imbl::Vector::new();
    for _ in 0..topic.partitions {
        match records.next()? {
            Kind::Partition(partition) => {
                partitions.push_back(Arc::new(partition_from_wire(&partition)));
            }
            _ => return Err(records.malformed("not a partition, and the topic has more of them")),
        }
    }
    let (name, configs) = (topic.name.into(), Arc::new(configs));
    Ok(Topic { id: TopicId(id), name, configs, partitions })
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
            len |= bits.checked_shl(at * 7).unwrap_or(u64::MAX);
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

fn broker_to_wire(broker: &Broker) -> wire::Broker {
    wire::Broker {
        id: broker.id.get(),
        epoch: broker.epoch.get(),
        incarnation: id_to_wire(broker.incarnation.0),
        listeners: broker.listeners.iter().map(listener_to_wire).collect(),
        rack: broker.rack.clone(),
        features: Some(features_to_wire(broker.features)),
        directories: broker.directories.iter().map(|id| id_to_wire(id.0)).collect(),
        fenced: broker.fenced,
        in_shutdown: broker.in_shutdown,
    }
}

fn broker_from_wire(broker: wire::Broker) -> Result<Broker, DecodeError> {
    Ok(Broker {
        id: BrokerId(broker.id),
        epoch: BrokerEpoch(broker.epoch),
        incarnation: id_from_wire("incarnation", &broker.incarnation)?.into(),
        listeners: broker
            .listeners
            .into_iter()
            .map(listener_from_wire)
            .collect::<Result<_, _>>()?,
        rack: broker.rack,
        features: features_from_wire(broker.features)?,
        directories: broker
            .directories
            .iter()
            .map(|id| id_from_wire("directory id", id).map(DirectoryId))
            .collect::<Result<_, _>>()?,
        fenced: broker.fenced,
        in_shutdown: broker.in_shutdown,
    })
}

fn topic_to_wire(topic: &Topic) -> wire::Topic {
    wire::Topic {
        id: id_to_wire(topic.id.0),
        name: topic.name.to_string(),
        configs: topic
            .configs
            .iter()
            .map(|(key, value)| wire::Config { key: key.name().into(), value: value.into() })
            .collect(),
        partitions: topic.partition_count(),
    }
}

fn partition_to_wire(partition: &Partition) -> wire::Partition {
    wire::Partition {
        replicas: brokers_to_wire(&partition.replicas),
        isr: brokers_to_wire(&partition.isr),
        elr: brokers_to_wire(&partition.elr),
        last_known_leader: partition.last_known_leader.map(BrokerId::get),
        leader: partition.leader.map(BrokerId::get),
        leader_epoch: partition.leader_epoch.get(),
        partition_epoch: partition.partition_epoch.get(),
        adding: brokers_to_wire(&partition.adding),
        removing: brokers_to_wire(&partition.removing),
        recovering: partition.recovery == Recovery::Recovering,
    }
}

fn partition_from_wire(partition: &wire::Partition) -> Partition {
    Partition {
        replicas: brokers_from_wire(&partition.replicas),
        isr: brokers_from_wire(&partition.isr),
        elr: brokers_from_wire(&partition.elr),
        last_known_leader: partition.last_known_leader.map(BrokerId),
        leader: partition.leader.map(BrokerId),
        leader_epoch: LeaderEpoch(partition.leader_epoch),
        partition_epoch: PartitionEpoch(partition.partition_epoch),
        adding: brokers_from_wire(&partition.adding),
        removing: brokers_from_wire(&partition.removing),
        recovery: recovery_from_wire(partition.recovering),
    }
}
