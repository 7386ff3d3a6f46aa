use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use super::*;
use crate::testing::{
    BeforeRead, Faults, Node, entries, entry_of, one, open, open_small, small_files, tempdir, two,
};
use raft_engine::env::DefaultFileSystem;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// To see it fail: share one thread among engines. The two logs have different bytes at the same
/// place of a file of the same name, and raft-engine's cache knows the place only.
#[test]
fn trap_E02_two_engines_read_their_own_bytes() {
    let dirs: Vec<_> = (0..2).map(|_| tempdir()).collect();
    let mut nodes: Vec<_> = dirs.iter().map(|dir| open_small(dir.path())).collect();
    for (node, letter) in nodes.iter_mut().zip([b'a', b'b']) {
        node.found(one());
        for index in 2..=20 {
            let mut entry = entry_of(index, 1, 40);
            entry.data = vec![letter; 40].into();
            node.append(one(), vec![entry]);
        }
    }
    let check = |node: &Node<_>, letter: u8, index: u64| {
        let entries = node.fetch(one(), index, index + 1).unwrap();
        assert_eq!(entries[0].data, vec![letter; 40], "index {index}");
    };
    for index in 2..=20 {
        check(&nodes[0], b'a', index);
        check(&nodes[1], b'b', index);
    }
    // The trap is real: one thread that reads from both is served the bytes of the first.
    let on_this_thread = |node: &Node<_>| {
        let engine = node.engine.writer.store().engine();
        engine.get_entry::<EntryExt>(one().get(), 9).unwrap().unwrap().data
    };
    let found = (on_this_thread(&nodes[0]), on_this_thread(&nodes[1]));
    assert_eq!(found, (vec![b'a'; 40].into(), vec![b'a'; 40].into()));
    // Reopened in the same place, with other bytes there.
    let faults = std::sync::Arc::default();
    drop(nodes);
    std::fs::remove_dir_all(dirs[0].path()).unwrap();
    std::fs::rename(dirs[1].path(), dirs[0].path()).unwrap();
    let node = open(dirs[0].path(), &small_files(), &faults).unwrap();
    (2..=20).for_each(|index| check(&node, b'b', index));
}

/// To see it fail: drop the bound of `CHUNK_ENTRIES` and of the last index in `read`.
#[test]
fn trap_E10_a_huge_range_is_read_in_bounds() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    let all = entries(2..=3000, 1);
    for chunk in all.chunks(100) {
        node.append(one(), chunk.to_vec());
    }
    assert_eq!(node.fetch(one(), 2, u64::MAX).unwrap(), all);
    for (low, high) in [(0, 5), (1, 5), (3001, 3002), (u64::MAX - 1, u64::MAX)] {
        let error = node.fetch(one(), low, high).unwrap_err();
        assert!(matches!(error, ReadError::Gone { index, .. } if index == low), "{error}");
        assert!(!error.is_fatal());
    }
    assert!(matches!(node.fetch(two(), 2, 3), Err(ReadError::Gone { .. })));
    // The size is that of Raft.
    for bytes_max in [0, 1, 50, 51, 5_000, 60_000] {
        let mut expected = all.clone();
        raft::util::limit_size(&mut expected, Some(bytes_max));
        let found = node.engine.reader.read(one(), 2, 3001, bytes_max).unwrap();
        assert_eq!(found, expected, "{bytes_max} bytes");
    }
}

/// A purge takes the files away between the look-up of the entries and the reading of the second.
/// (Reads and purges of an engine share one thread, so that this should never be.) To see it fail:
/// return the error of the whole chunk from `read_chunk`.
#[test]
fn trap_E10_what_a_purge_moves_during_a_read_is_looked_up_again() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &small_files(), &faults).unwrap();
    node.found(one());
    node.found(two());
    for index in 2..=20 {
        node.append(two(), vec![entry_of(index, 1, 40)]);
    }
    for index in 2..=400 {
        node.append(one(), vec![entry_of(index, 1, 100)]);
    }
    node.compact(one(), 400, 390);
    let (reading, has_begun) = channel();
    let (purged, goes_on) = channel();
    let pause = move || {
        reading.send(()).unwrap();
        goes_on.recv_timeout(PATIENCE).unwrap();
    };
    *faults.before_read.lock().unwrap() = Some(BeforeRead(Box::new(pause)));
    let store = node.engine.writer.store();
    let context = GetEntriesContext::empty(true);
    let fetch = Fetch { group: two(), low: 2, high: 21, bytes_max: u64::MAX, context };
    let found = std::thread::scope(|scope| {
        let found = scope.spawn(|| read(store, &fetch));
        has_begun.recv_timeout(PATIENCE).unwrap();
        purge(store).unwrap();
        purged.send(()).unwrap();
        found.join().unwrap()
    });
    assert!(!dir.path().join("log/0000000000000001.raftlog").exists(), "the purge worked");
    let expected: Vec<_> = (2..=20).map(|index| entry_of(index, 1, 40)).collect();
    assert_eq!(found.unwrap(), expected);
    node.close();
}

#[test]
fn reads_beside_purges_give_the_right_bytes() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.found(two());
    node.append(two(), entries(2..=30, 1));
    let (sender, receiver) = channel();
    let mut asked = 0;
    for index in 2..=600 {
        node.append(one(), vec![entry_of(index, 1, 100)]);
        if index % 40 == 0 {
            node.compact(one(), index, index - 10);
            node.engine.reader.purge(|result| drop(result.unwrap())).unwrap();
        }
        let sender = sender.clone();
        let context = GetEntriesContext::empty(true);
        let fetch = Fetch { group: two(), low: 2, high: 31, bytes_max: u64::MAX, context };
        let answer = move |fetched: Fetched| sender.send(fetched.result).unwrap();
        match node.engine.reader.fetch(fetch, answer) {
            Ok(()) => asked += 1,
            Err(error) => assert!(matches!(error, ReadError::Overloaded { .. }), "{error}"),
        }
    }
    drop(sender);
    let answers: Vec<_> = receiver.iter().collect();
    assert_eq!(answers.len(), asked);
    for answer in answers {
        assert_eq!(answer.unwrap(), entries(2..=30, 1));
    }
    let first = std::fs::read_dir(dir.path().join("log")).unwrap().count();
    assert!(first < 15, "{first} files are left: the purge worked");
}

#[test]
fn a_failing_disk_is_never_taken_for_a_missing_entry() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &small_files(), &faults).unwrap();
    node.found(one());
    node.append(one(), entries(2..=5, 1));
    faults.read_fails.store(true, Ordering::SeqCst);
    let error = node.fetch(one(), 2, 6).unwrap_err();
    assert!(matches!(error, ReadError::Engine { .. }), "{error}");
    assert!(error.is_fatal());
}

#[test]
fn the_queue_is_bounded_and_every_request_answered_once() {
    let dir = tempdir();
    crate::testing::format(dir.path());
    let formatted = crate::Formatted::open(dir.path()).unwrap();
    let config = crate::EngineConfig { reader_queue_max: 2, ..small_files() };
    let engine = crate::Engine::<DefaultFileSystem>::open(formatted, &config).unwrap();
    // The thread is held up in an answer until all are asked.
    let (go, wait) = channel::<()>();
    let (begun, has_begun) = channel();
    engine
        .reader
        .purge(move |_| {
            begun.send(()).unwrap();
            wait.recv().unwrap();
        })
        .unwrap();
    has_begun.recv().unwrap();
    let (sender, receiver) = channel();
    let fetch = || {
        let context = GetEntriesContext::empty(true);
        Fetch { group: one(), low: 2, high: 3, bytes_max: 1, context }
    };
    let results: Vec<_> = (0..5)
        .map(|_| {
            let sender = sender.clone();
            engine.reader.fetch(fetch(), move |f| sender.send(f.result.is_err()).unwrap())
        })
        .collect();
    assert!(results[..2].iter().all(Result::is_ok));
    assert!(matches!(results[2], Err(ReadError::Overloaded { queue_max: 2 })));
    drop(sender);
    go.send(()).unwrap();
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [true, true]);
    engine.writer.close().unwrap();
}

#[test]
fn what_waits_when_the_thread_ends_is_answered() {
    let (jobs, queue) = sync_channel(4);
    let reader = LogReader { jobs, queue_max: 4 };
    let (sender, receiver) = channel();
    let other = sender.clone();
    let context = GetEntriesContext::empty(true);
    let fetch = Fetch { group: one(), low: 7, high: 9, bytes_max: 1, context };
    reader
        .fetch(fetch, move |f| {
            assert_eq!((f.group, f.low), (one(), 7));
            sender.send(matches!(f.result, Err(ReadError::Closed))).unwrap();
        })
        .unwrap();
    reader
        .purge(move |result| other.send(matches!(result, Err(ReadError::Closed))).unwrap())
        .unwrap();
    drop(queue);
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [true, true]);
}
