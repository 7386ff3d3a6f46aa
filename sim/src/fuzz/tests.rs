//! The short form of the fuzz, which runs with every change, and the corpus of the fuzz targets.

use std::path::PathBuf;

use quorate_loop::fuzz;

use super::*;

fn storms(messages: u64, seed: u64) -> FuzzReport {
    Fuzz { messages, seed, jobs: NonZeroUsize::MIN }.run(&|_| ()).unwrap()
}

/// To see it fail, take any of these out of `loop/src/guard.rs`: the check of acknowledgements
/// beyond the log, of votes that nobody asked for, of entries that leave a hole or follow term 0,
/// of memberships, of the reach of a term, of the sender. `quorate-sim fuzz` finds each of them
/// within 300,000 messages, and most of them here.
#[test]
#[allow(non_snake_case)]
fn trap_R13_no_peer_makes_a_group_panic_or_commit_what_no_quorum_holds() {
    let report = storms(60_000, 1);
    assert!(report.is_clean(), "{:#?}", report.failures);
    assert_eq!(report.messages, 60_000);
    // It is no test of messages that are all dropped, nor of a group that does nothing.
    assert!(report.admitted > 20_000 && report.dropped > 5_000, "{report:?}");
    assert!(report.applied > 3_000 && report.frames > 500, "{report:?}");
    assert_eq!(report.lies.len(), 3, "every kind of lie: {:?}", report.lies);
    for (name, kind) in &report.kinds {
        assert!(kind.forged > 50, "{name} is hardly ever forged: {kind:?}");
    }
    assert_eq!(report.kinds.len(), 19 + 4 + 1, "every kind of message: {report:?}");
}

/// Each of these found something, and is kept: two of them a single voter that was told to campaign
/// over a log that it had not persisted, the last that a peer who lied in the name of a member that
/// nobody knows yet passed for one that lies about nothing but its acknowledgements.
#[test]
#[allow(non_snake_case)]
fn trap_R06_R13_seeds_that_found_something_are_borne() {
    for seed in [2_000_414, 2_001_420, 2_001_864] {
        let report = storms(MESSAGES_PER_GROUP, seed);
        assert!(report.is_clean(), "{:#?}", report.failures);
    }
}

#[test]
fn a_seed_is_one_storm() {
    let count = |report: FuzzReport| {
        let kinds: Vec<_> =
            report.kinds.into_iter().map(|(name, k)| (name, k.forged, k.admitted)).collect();
        (report.applied, report.stopped, report.frames, kinds)
    };
    assert_eq!(count(storms(3_000, 7)), count(storms(3_000, 7)));
    assert_ne!(count(storms(3_000, 7)), count(storms(3_000, 8)));
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../loop/fuzz/corpus").join(target);
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut corpus: Vec<_> =
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    corpus.sort();
    assert!(!corpus.is_empty());
    corpus
}

#[test]
fn the_corpus_of_frames_is_borne() {
    let corpus = corpus("frames");
    for (path, bytes) in &corpus {
        assert_eq!(fuzz::arrive(bytes).wrong, None, "{}", path.display());
    }
    for example in fuzz::examples() {
        let is_there = corpus.iter().any(|(_, bytes)| *bytes == example);
        assert!(is_there, "no file of the corpus is {example:?}: see `write_corpus`");
    }
}

#[test]
fn the_corpus_of_messages_is_borne() {
    let mut lies = BTreeMap::new();
    for (path, bytes) in corpus("messages") {
        let report = messages(&bytes).unwrap();
        assert!(report.is_clean(), "{}: {:#?}", path.display(), report.failures);
        assert!(report.messages > 0 || bytes.len() < 64, "{} decides nothing", path.display());
        lies.extend(report.lies);
    }
    assert_eq!(lies.len(), 3, "every kind of lie: {lies:?}");
}

#[test]
#[ignore = "writes the corpus anew: for when a frame is new, or an old one has changed"]
fn write_corpus() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../loop/fuzz/corpus");
    for (number, example) in fuzz::examples().iter().enumerate() {
        std::fs::write(dir.join(format!("frames/example-{number:02}")), example).unwrap();
    }
    std::fs::write(dir.join("frames/stream"), fuzz::examples().concat()).unwrap();
    for lies in 0..4u8 {
        let mut random = Random::new(u64::from(lies));
        // The first byte decides what is lied about, all others the storm.
        let mut bytes: Vec<u8> =
            std::iter::repeat_with(|| random.next() as u8).take(2_048).collect();
        bytes[0] = lies;
        std::fs::write(dir.join(format!("messages/lies-{lies}")), bytes).unwrap();
    }
}
