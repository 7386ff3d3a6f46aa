//! What each measurement is to stay within: the requirements, stated for a million partitions.

/// Where commands are to come faster, and how many of them a second.
const SMALL_PARTITIONS: u32 = 10_000;

/// The goal of a measurement, for people.
pub(super) fn of(what: &str, partitions: u32) -> Option<String> {
    let goal = match what {
        "memory" => "<= 400 bytes/partition",
        "alter-partition" | "alter-partition-decoded" if partitions <= SMALL_PARTITIONS => {
            ">= 500000/s"
        }
        "alter-partition" | "alter-partition-decoded" => ">= 150000/s",
        "image-clone" => "< 1000 ns",
        "create-topics" => "< 200 ms",
        "snapshot-write" => "< 1000 ms, pause < 1 ms",
        "snapshot-restore" => "< 3000 ms",
        "fence" => "< 200 ms, reads go on",
        _ => return None,
    };
    Some(goal.to_owned())
}
