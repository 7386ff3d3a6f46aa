//! Owns `/metrics`: what a node counts, and the status of its group, as Prometheus text.

use std::fmt::{Display, Write as _};

use quorate::{Distribution, GroupStatus, Metrics, Role};

/// The media type of what [`text`] returns.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metadata quorum is group 1.
const GROUP: (&str, &str) = ("group", "1");

const ROLES: [(&str, Role); 6] = [
    ("leader", Role::Leader),
    ("follower", Role::Follower),
    ("candidate", Role::Candidate),
    ("learner", Role::Learner),
    ("observer", Role::Observer),
    ("removed", Role::Removed),
];

/// Every metric of a node. Costs no look at the state itself.
pub(crate) fn text(status: &GroupStatus, metrics: &Metrics) -> String {
    let mut text = Text::default();
    group(&mut text, status);
    node(&mut text, metrics);
    text.0
}

fn group(text: &mut Text, status: &GroupStatus) {
    text.head("quorate_role", "gauge", "1 for the role that this node has in the group");
    for (name, role) in ROLES {
        text.sample("quorate_role", &[GROUP, ("role", name)], u8::from(status.role == role));
    }
    for (name, help, value) in [
        (
            "quorate_leader_known",
            "Whether this node knows who leads",
            u64::from(status.leader.is_some()),
        ),
        ("quorate_term", "The Raft term of this node", status.term),
        ("quorate_commit_index", "Highest index known committed", status.commit_index),
        ("quorate_applied_index", "Highest index applied", status.applied_index),
        ("quorate_first_index", "First index still in the log", status.first_index),
        ("quorate_last_index", "Last index in the log", status.last_index),
        ("quorate_snapshot_index", "Index of the newest snapshot", status.snapshot_index),
        (
            "quorate_log_disk_bytes",
            "Bytes of the log on disk, in whole files",
            status.log_disk_bytes,
        ),
        (
            "quorate_storage_full",
            "Whether the disk has no room for the log",
            u64::from(status.storage_full),
        ),
        ("quorate_founded", "Whether the cluster is founded", u64::from(status.serving)),
        (
            "quorate_fatal",
            "Whether this node has stopped for good",
            u64::from(status.fatal.is_some()),
        ),
        (
            "quorate_damaged",
            "Whether the log was found damaged, and the node has not come back yet",
            u64::from(status.damaged.is_some()),
        ),
    ] {
        text.head(name, "gauge", help);
        text.sample(name, &[GROUP], value);
    }
    let name = "quorate_member_trails_leader_by";
    text.head(name, "gauge", "On the leader: entries that a member has not made durable yet");
    for member in status.members.iter() {
        let matched = status.matched.iter().find(|(id, _)| *id == member.member_id);
        let Some((_, matched)) = matched else { continue };
        let node = member.node_id().get().to_string();
        let labels = [GROUP, ("node", &node)];
        text.sample(name, &labels, status.last_index.saturating_sub(*matched));
    }
}

fn node(text: &mut Text, metrics: &Metrics) {
    for (name, help, distribution) in [
        (
            "quorate_commit_seconds",
            "From a proposal made on this node to its outcome here",
            &metrics.commit_seconds,
        ),
        (
            "quorate_log_write_seconds",
            "One batch of the log written and synced",
            &metrics.log_write_seconds,
        ),
        (
            "quorate_log_write_bytes",
            "Bytes of the entries in a batch of the log",
            &metrics.log_write_bytes,
        ),
        ("quorate_log_write_entries", "Entries in a batch of the log", &metrics.log_write_entries),
        (
            "quorate_apply_seconds",
            "One batch of committed entries of a group applied",
            &metrics.apply_seconds,
        ),
    ] {
        text.histogram(name, help, distribution);
    }
    for (name, help, value) in [
        (
            "quorate_inbox_requests",
            "Requests made on this node that wait for the loop",
            metrics.inbox_requests,
        ),
        (
            "quorate_apply_queue_entries",
            "Committed entries that wait to be applied",
            metrics.apply_queue_entries,
        ),
        ("quorate_groups", "Groups on this node", metrics.groups as u64),
    ] {
        text.head(name, "gauge", help);
        text.sample(name, &[], value);
    }
    let name = "quorate_peer_connected";
    text.head(name, "gauge", "Whether this node is connected to a peer");
    for peer in &metrics.peers {
        let node = peer.node.get().to_string();
        text.sample(name, &[("peer", &node)], u8::from(peer.connected));
    }
    let name = "quorate_peer_queue_messages";
    text.head(name, "gauge", "Messages that wait for the connection to a peer");
    for peer in &metrics.peers {
        text.sample(name, &[("peer", &peer.node.get().to_string())], peer.queue);
    }
    let name = "quorate_dropped_messages_total";
    text.head(name, "counter", "Messages from and to peers that were dropped");
    for (cause, count) in &metrics.dropped {
        text.sample(name, &[("cause", cause.as_str())], count);
    }
    let name = "quorate_closed_connections_total";
    text.head(name, "counter", "Connections of peers that were closed or refused");
    for (cause, count) in &metrics.closed {
        text.sample(name, &[("cause", cause.as_str())], count);
    }
}

/// Prometheus text, line by line. Writing to a string does not fail.
#[derive(Default)]
struct Text(String);

impl Text {
    // A string takes whatever is written into it: these writes cannot fail.

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(text));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{after} {value}");
    }

    fn histogram(&mut self, name: &str, help: &str, distribution: &Distribution) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bound, count) in &distribution.buckets {
            self.sample(&bucket, &[("le", &bound.to_string())], count);
        }
        self.sample(&bucket, &[("le", "+Inf")], distribution.count);
        self.sample(&format!("{name}_sum"), &[], distribution.sum);
        self.sample(&format!("{name}_count"), &[], distribution.count);
    }
}

/// A label's value as it stands between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_line_whatever_its_labels_say() {
        let mut text = Text::default();
        text.sample("name", &[], 1);
        text.sample("name", &[("a", "b"), ("c", "back\\slash \"quote\"\nline")], 0.5);
        let expected = "name 1\nname{a=\"b\",c=\"back\\\\slash \\\"quote\\\"\\nline\"} 0.5\n";
        assert_eq!(text.0, expected);
    }

    #[test]
    fn a_histogram_ends_with_a_bucket_for_all() {
        let mut text = Text::default();
        let buckets = vec![(0.000016, 0), (0.5, 2)];
        text.histogram("time", "Time", &Distribution { buckets, count: 3, sum: 2.25 });
        let expected = "# HELP time Time\n# TYPE time histogram\ntime_bucket{le=\"0.000016\"} 0\n\
                        time_bucket{le=\"0.5\"} 2\ntime_bucket{le=\"+Inf\"} 3\ntime_sum 2.25\n\
                        time_count 3\n";
        assert_eq!(text.0, expected);
    }
}
