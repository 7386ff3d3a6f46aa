//! Clients that do what Quorate is for: each is the leader of one partition, and changes its ISR.

use quorate::{BrokerId, BrokerSession, PartitionKey, Quorum, Registration, TopicSpec};

use crate::compare::drive::{Client, Order};
use crate::metadata::alter;
use crate::process::Failure;

/// The topic whose partitions are altered, and the replicas of each: one on every node.
const TOPIC: &str = "compare";
const REPLICATION_FACTOR: u32 = 3;

/// The leader of one partition, whose follower leaves the ISR and comes back, again and again. It knows
/// what the image of its node shows.
pub(crate) struct Altering {
    quorum: Quorum,
    partition: PartitionKey,
}

/// Registers the broker of this node, which has the node's id and no data plane. It is active when this
/// returns.
pub(crate) async fn register(quorum: &Quorum) -> Result<BrokerSession, Failure> {
    let broker = BrokerId(u32::try_from(quorum.identity().node_id.get())?);
    let registration = Registration::without_data_plane(broker, quorum.identity().directory_id);
    let session = quorum.register_broker(registration).await?;
    session.active().await.map_err(|end| format!("the broker's session ended: {end:?}"))?;
    Ok(session)
}

/// Makes so many partitions. The brokers of all nodes are active by then.
pub(crate) async fn create(quorum: &Quorum, partitions: u32) -> Result<(), Failure> {
    quorum.create_topic(TopicSpec::new(TOPIC, partitions, REPLICATION_FACTOR)).await?;
    Ok(())
}

/// As many clients as are ordered, each with a partition of its own.
pub(crate) async fn clients(quorum: &Quorum, order: &Order) -> Result<Vec<Altering>, Failure> {
    quorum.read_index().await?;
    let image = quorum.image().image;
    let keys = image.partitions().map(|(key, _)| key).take(order.clients as usize);
    let clients: Vec<_> =
        keys.map(|partition| Altering { quorum: quorum.clone(), partition }).collect();
    match clients.len() == order.clients as usize {
        true => Ok(clients),
        false => Err(format!("{} partitions are too few", clients.len()).into()),
    }
}

impl Client for Altering {
    async fn operate(&mut self) -> Result<(), String> {
        let image = self.quorum.image().image;
        let wish = alter::wish(&image, self.partition).ok_or("the partition has no leader")?;
        let altered = self.quorum.alter_partition(wish).await;
        altered.map(drop).map_err(|error| error.to_string())
    }
}
