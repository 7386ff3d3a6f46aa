//! Owns `/metrics`: the group's status as Prometheus text.

use std::fmt::Write as _;

use quorate::{GroupStatus, Role};

/// The media type of what [`text`] returns.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metadata quorum is group 1.
const GROUP: u64 = 1;

const ROLES: [(&str, Role); 6] = [
    ("leader", Role::Leader),
    ("follower", Role::Follower),
    ("candidate", Role::Candidate),
    ("learner", Role::Learner),
    ("observer", Role::Observer),
    ("removed", Role::Removed),
];

/// One metric: name, type, help, value.
type Metric = (&'static str, &'static str, &'static str, u64);

/// Every metric of a node. Costs no look at the state itself.
pub(crate) fn text(status: &GroupStatus) -> String {
    let mut out = String::new();
    head(&mut out, "quorate_role", "gauge", "1 for the role that this node has in the group");
    for (name, role) in ROLES {
        let value = u64::from(status.role == role);
        line(&mut out, "quorate_role", &format!(r#"group="{GROUP}",role="{name}""#), value);
    }
    for (name, kind, help, value) in metrics(status) {
        head(&mut out, name, kind, help);
        line(&mut out, name, &format!(r#"group="{GROUP}""#), value);
    }
    out
}

fn metrics(status: &GroupStatus) -> [Metric; 11] {
    let (gauge, counter) = ("gauge", "counter");
    let known = u64::from(status.leader.is_some());
    let full = u64::from(status.storage_full);
    let fatal = u64::from(status.fatal.is_some());
    [
        ("quorate_leader_known", gauge, "Whether this node knows who leads", known),
        ("quorate_term", gauge, "The Raft term of this node", status.term),
        ("quorate_commit_index", gauge, "Highest index known committed", status.commit_index),
        ("quorate_applied_index", gauge, "Highest index applied", status.applied_index),
        ("quorate_first_index", gauge, "First index still in the log", status.first_index),
        ("quorate_last_index", gauge, "Last index in the log", status.last_index),
        (
            "quorate_dropped_messages_total",
            counter,
            "Messages of peers that were not taken",
            status.dropped,
        ),
        (
            "quorate_log_disk_bytes",
            gauge,
            "Bytes of the log on disk, in whole files",
            status.log_disk_bytes,
        ),
        ("quorate_storage_full", gauge, "Whether the disk has no room for the log", full),
        ("quorate_founded", gauge, "Whether the cluster is founded", u64::from(status.serving)),
        ("quorate_fatal", gauge, "Whether this node has stopped for good", fatal),
    ]
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}
