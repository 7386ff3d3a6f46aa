//! What Quorate is to reach beside the others, each in the row of the one it is compared with.

use crate::compare::drive::Order;
use crate::compare::side::Side;
use crate::compare::{ALTERING, BARE, ETCD, NATS, OPAQUE, PARALLEL, PROCESSES, SESSION, find};
use crate::report::Row;

/// The payload for which the goals are stated, and from how many clients on those of throughput are.
const PAYLOAD_BYTES: usize = 128;
const MANY_CLIENTS: u32 = 1_000;

/// The clients for which the goal beside `bare` is stated.
const BARE_CLIENTS: u32 = 4_096;

/// The goal of a row, and whether it is reached.
pub(super) fn of(sides: &[Side], side: &Side, row: &Row, order: &Order) -> Option<String> {
    if order.payload_bytes != PAYLOAD_BYTES || order.rate.is_some() {
        return None;
    }
    let ours = |what| find(sides, side.name.mode, what);
    let throughput = |what, least| {
        let ratio = ours(what)?.throughput_over(side)?.median;
        Some(told(what, ">=", least, ratio, ratio >= least))
    };
    let p50 = |what, most| {
        let ratio = ours(what)?.p50_over(side)?.median;
        Some(told(what, "p50 <=", most, ratio, ratio <= most))
    };
    let goals: Vec<Option<String>> = match side.name.what {
        ETCD if order.clients >= MANY_CLIENTS => vec![throughput(OPAQUE, 20.0)],
        ETCD if order.clients == 1 => vec![p50(OPAQUE, 0.85), p50(PARALLEL, 0.65)],
        NATS if order.clients >= MANY_CLIENTS => vec![throughput(OPAQUE, 3.0)],
        BARE if order.clients == BARE_CLIENTS => {
            vec![throughput(SESSION, 0.35), throughput(ALTERING, 0.35)]
        }
        OPAQUE if order.clients == 1 && side.name.mode == PROCESSES => {
            // The two that make the majority have one each. The third may be a proposal behind, and
            // write two at once: so the mean of a node may be less, but never more.
            let (most, fsyncs) = (f64::from(row.nodes), row.fsyncs_per_op?);
            vec![Some(told("fsyncs", "<=", most, fsyncs, fsyncs <= most))]
        }
        _ => return None,
    };
    let goals: Vec<String> = goals.into_iter().flatten().collect();
    (!goals.is_empty()).then(|| goals.join("; "))
}

fn told(what: &str, relation: &str, goal: f64, is: f64, is_reached: bool) -> String {
    let verdict = if is_reached { "reached" } else { "missed" };
    format!("{what} {relation} {goal}: {is:.2}, {verdict}")
}
