//! AllocateProducerIds: blocks of producer ids, given out once.

use crate::command::BrokerSession;
use crate::error::{ErrorCode, Rejection};
use crate::ids::ProducerId;
use crate::machine::Step;
use crate::outcome::Reply;

/// How many ids a block has, as in Kafka (KIP-730).
pub const PRODUCER_IDS_PER_BLOCK: u32 = 1_000;

/// Kafka's producer ids are signed: the first number that is none.
const PRODUCER_ID_END: u64 = i64::MAX as u64;

pub(crate) fn allocate(step: &mut Step<'_>, session: BrokerSession) -> Result<Reply, Rejection> {
    step.session(session)?;
    let first = step.image.next_producer_id;
    let next = first.get().saturating_add(u64::from(PRODUCER_IDS_PER_BLOCK));
    if next > PRODUCER_ID_END {
        return Err(Rejection::new(
            ErrorCode::UnknownServerError,
            "all 2^63 producer ids were given out: start a new cluster",
        ));
    }
    step.image.set_next_producer_id(ProducerId(next));
    step.delta().producer_ids = true;
    Ok(Reply::ProducerIds { first, len: PRODUCER_IDS_PER_BLOCK })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::testing::Cluster;

    #[test]
    fn blocks_follow_one_another_whoever_asks() {
        let mut cluster = Cluster::of(&[1, 2]);
        for (broker, first) in [(1, 0), (2, 1_000), (1, 2_000)] {
            let command = Command::AllocateProducerIds(cluster.session(broker));
            let block = Reply::ProducerIds { first: ProducerId(first), len: 1_000 };
            assert_eq!(cluster.accept(command), block);
        }
        assert_eq!(cluster.image().next_producer_id(), ProducerId(3_000));
    }

    #[test]
    fn a_block_that_does_not_fit_is_refused() {
        let mut cluster = Cluster::of(&[1]);
        cluster.set_next_producer_id(PRODUCER_ID_END - 1_000);
        let command = Command::AllocateProducerIds(cluster.session(1));
        cluster.accept(command.clone());
        assert_eq!(cluster.refuse(command), ErrorCode::UnknownServerError);
    }
}
