use bytes::Bytes;
use raft_engine::env::DefaultFileSystem;

use super::*;
use crate::files::DiskFiles;
use crate::ids::{GroupId, LogId};
use crate::partials::PARTIALS_MAX;
use crate::snapshot_store::SnapshotStore;
use crate::testing::{Step, faulty, one, two, voters};

fn meta(index: u64) -> SnapshotMeta {
    let members = Bytes::from_static(b"members");
    SnapshotMeta { group: one(), id: LogId::new(index, 2), conf_state: voters(), members }
}

fn store() -> (tempfile::TempDir, SnapshotStore) {
    let dir = tempfile::tempdir().unwrap();
    let files = DiskFiles::over(Arc::new(DefaultFileSystem));
    let store = SnapshotStore::in_dir(dir.path().join("snapshots"), files);
    (dir, store)
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

fn make(store: &SnapshotStore, index: u64, data: &[u8]) -> LogId {
    let mut writer = store.create(meta(index)).unwrap();
    writer.write_all(data).unwrap();
    let finished = writer.finish().unwrap();
    assert_eq!(finished, meta(index));
    finished.id
}

fn digest(bytes: &[u8]) -> SnapshotDigest {
    SnapshotDigest::of(bytes).unwrap()
}

/// Reads a snapshot, and sees that verifying it says the same.
fn read(store: &SnapshotStore, group: GroupId, id: LogId) -> Result<Vec<u8>, String> {
    let read = || {
        let mut reader = store.open(group, id).map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        reader.read_to_end(&mut found).map_err(|error| error.to_string())?;
        Ok(found)
    };
    let found = read();
    let verified = store.verify(group, id).map_err(|error| error.to_string());
    assert_eq!(verified.as_ref().err(), found.as_ref().err());
    found
}

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    let (_dir, store) = store();
    let lens = [0, 1, BLOCK_LEN - 1, BLOCK_LEN, BLOCK_LEN + 1, 3 * BLOCK_LEN, 300_000];
    for (index, len) in (10..).zip(lens) {
        let id = make(&store, index, &data(len));
        assert_eq!(store.open(one(), id).unwrap().meta(), &meta(index));
        assert!(read(&store, one(), id).unwrap() == data(len), "length {len}");
    }
}

#[test]
fn every_flipped_bit_of_a_snapshot_is_found_and_no_wrong_data_given_out() {
    let (_dir, store) = store();
    let content = data(200);
    let id = make(&store, 10, &content);
    let path = store.path(one(), id);
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        std::fs::write(&path, flipped).unwrap();
        assert!(read(&store, one(), id).is_err(), "bit {at}");
    }
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(read(&store, one(), id).unwrap(), content);
}

#[test]
fn every_cut_and_every_addition_is_found() {
    let (_dir, store) = store();
    let id = make(&store, 10, &data(200));
    let path = store.path(one(), id);
    let bytes = std::fs::read(&path).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(read(&store, one(), id).is_err(), "cut at {len}");
    }
    std::fs::write(&path, [&bytes[..], b"\0"].concat()).unwrap();
    assert!(read(&store, one(), id).unwrap_err().contains("behind the footer"));
}

#[test]
fn blocks_that_changed_places_are_found() {
    let (_dir, store) = store();
    let id = make(&store, 10, &data(3 * BLOCK_LEN));
    let path = store.path(one(), id);
    let mut bytes = std::fs::read(&path).unwrap();
    let header_len = meta(10).encode().len();
    let block_len = BLOCK_HEADER_LEN + BLOCK_LEN;
    let (first, second) = bytes[header_len..].split_at_mut(block_len);
    first.swap_with_slice(&mut second[..block_len]);
    std::fs::write(&path, &bytes).unwrap();
    assert!(read(&store, one(), id).unwrap_err().contains("CRC of block 0"));
}

#[test]
fn damage_stays() {
    let (_dir, store) = store();
    let id = make(&store, 10, &data(2 * BLOCK_LEN));
    let path = store.path(one(), id);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle + 100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let mut reader = store.open(one(), id).unwrap();
    let mut found = Vec::new();
    let first = reader.read_to_end(&mut found).unwrap_err();
    assert_eq!(first.kind(), io::ErrorKind::InvalidData);
    assert_eq!(found, data(BLOCK_LEN), "what is given out is verified");
    let again = reader.read(&mut [0; 10]).unwrap_err();
    assert_eq!(again.to_string(), first.to_string());
}

#[test]
fn trap_I10_an_unfinished_snapshot_leaves_nothing() {
    let (_dir, store) = store();
    let mut writer = store.create(meta(10)).unwrap();
    writer.write_all(&data(100_000)).unwrap();
    assert!(matches!(store.open(one(), meta(10).id), Err(SnapshotError::Missing { .. })));
    let dir = store.path(one(), meta(10).id).parent().unwrap().to_owned();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    drop(writer);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_file_is_received_byte_for_byte() {
    let (_a, from) = store();
    let (_b, to) = store();
    let id = make(&from, 10, &data(150_000));
    let mut file = from.raw(one(), id).unwrap();
    let len = file.len_bytes();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, len);
    assert_eq!(SnapshotDigest::of(&bytes), Some(file.digest()));
    let mut receiver = to.receive(one(), id, file.digest()).unwrap();
    bytes.chunks(1000).for_each(|chunk| receiver.write(chunk).unwrap());
    assert_eq!(receiver.received_bytes(), len);
    assert_eq!(receiver.finish().unwrap(), meta(10));
    assert_eq!(read(&to, one(), id).unwrap(), data(150_000));
    assert_eq!(std::fs::read(to.path(one(), id)).unwrap(), bytes);
}

#[test]
fn what_is_not_the_announced_file_is_refused_and_removed() {
    let (_a, from) = store();
    let (_b, to) = store();
    let id = make(&from, 10, &data(1000));
    let bytes = std::fs::read(from.path(one(), id)).unwrap();
    let len = bytes.len() as u64;
    let crcs = digest(&bytes).crcs;
    let receive = |group, id, len_bytes, bytes: &[u8]| {
        let mut receiver = to.receive(group, id, SnapshotDigest { len_bytes, crcs })?;
        receiver.write(bytes)?;
        receiver.finish()
    };
    let mut flipped = bytes.clone();
    flipped[500] ^= 1;
    let cases = [
        (receive(one(), id, len, &flipped), "CRC of block 0"),
        (receive(one(), id, len + 1, &bytes), "receive it again"),
        (receive(one(), id, len - 1, &bytes), "receive it again"),
        (receive(two(), id, len, &bytes), "was announced"),
        (receive(one(), LogId::new(11, 2), len, &bytes), "was announced"),
        (receive(one(), id, u64::MAX, &bytes), "is refused"),
        (receive(one(), id, 9, &bytes[..9]), "ends within its header"),
    ];
    for (result, text) in cases {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    for group in [one(), two()] {
        let dir = to.path(group, id).parent().unwrap().to_owned();
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
    }
}

#[test]
fn a_file_under_another_name_is_refused() {
    let (_dir, store) = store();
    let id = make(&store, 10, &data(10));
    let other = LogId::new(11, 2);
    std::fs::rename(store.path(one(), id), store.path(one(), other)).unwrap();
    assert!(matches!(store.open(one(), other), Err(SnapshotError::Mismatch { .. })));
}

#[test]
fn a_flaw_is_found_when_it_is_received_and_not_at_the_end() {
    let (_a, from) = store();
    let (_b, to) = store();
    let id = make(&from, 10, &data(3 * BLOCK_LEN));
    let mut bytes = std::fs::read(from.path(one(), id)).unwrap();
    let flaw = bytes.len() / 2;
    bytes[flaw] ^= 1;
    let mut receiver = to.receive(one(), id, digest(&bytes)).unwrap();
    let failed = bytes.iter().position(|byte| receiver.write(&[*byte]).is_err()).unwrap();
    assert!((flaw..flaw + BLOCK_LEN).contains(&failed), "{failed}");
    assert!(receiver.write(&bytes[failed..]).is_err(), "damage stays");
    let received = receiver.received_bytes();
    assert_eq!(received, failed as u64);
    assert!(matches!(receiver.finish(), Err(SnapshotError::Length { .. })));

    let mut receiver = to.receive(one(), LogId::new(11, 2), digest(&bytes)).unwrap();
    let refused = receiver.write(&bytes[..200]).unwrap_err();
    assert!(matches!(refused, SnapshotError::Mismatch { .. }), "{refused}");
    assert_eq!(std::fs::read_dir(to.group_dir(one())).unwrap().count(), 1);
    drop(receiver);
    assert_eq!(std::fs::read_dir(to.group_dir(one())).unwrap().count(), 0);
}

#[test]
fn no_more_than_a_block_is_in_memory() {
    let (_a, from) = store();
    let (_b, to) = store();
    let chunk = data(100_000);
    let mut writer = from.create(meta(10)).unwrap();
    for _ in 0..50 {
        writer.write_all(&chunk).unwrap();
        assert!(writer.capacity() <= BLOCK_HEADER_LEN + BLOCK_LEN);
    }
    let id = writer.finish().unwrap().id;
    let mut reader = from.open(one(), id).unwrap();
    let mut found = vec![0; chunk.len()];
    for _ in 0..50 {
        reader.read_exact(&mut found).unwrap();
        assert!(found == chunk);
        assert!(reader.capacity() <= BLOCK_LEN);
    }
    assert_eq!(reader.read(&mut found).unwrap(), 0);
    let bytes = std::fs::read(from.path(one(), id)).unwrap();
    let mut receiver = to.receive(one(), id, digest(&bytes)).unwrap();
    for chunk in bytes.chunks(250_000) {
        receiver.write(chunk).unwrap();
        assert!(receiver.capacity() <= BLOCK_LEN);
    }
    receiver.finish().unwrap();
}

/// Writes the snapshot at 10, of four blocks.
fn write(store: &SnapshotStore) -> Result<(), SnapshotError> {
    let mut writer = store.create(meta(10))?;
    writer.write_all(&data(200_000)).map_err(SnapshotError::io(Path::new("")))?;
    writer.finish().map(|_| ())
}

/// Receives the same.
fn receive(store: &SnapshotStore, bytes: &[u8]) -> Result<(), SnapshotError> {
    let mut receiver = store.receive(one(), meta(10).id, digest(bytes))?;
    for chunk in bytes.chunks(90_000) {
        receiver.write(chunk)?;
    }
    receiver.finish().map(|_| ())
}

/// Lets each of the `steps` of `make` fail once, with and without a file there before.
fn each_step_fails(steps: u32, make: impl Fn(&SnapshotStore) -> Result<(), SnapshotError>) {
    let mut failed = 0;
    for (step, is_there_before) in Step::ALL.iter().flat_map(|step| [(*step, false), (*step, true)])
    {
        for skipped in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let (faults, files) = faulty();
            let store = SnapshotStore::in_dir(dir.path().join("snapshots"), files);
            if is_there_before {
                make(&store).unwrap();
            }
            faults.fail(step, skipped);
            let result = make(&store);
            if !faults.heal() {
                result.unwrap();
                break;
            }
            failed += 1;
            let case = format!("{step:?} after {skipped}, there before: {is_there_before}");
            let error = result.expect_err(&case);
            assert!(matches!(error, SnapshotError::Io { .. }), "{case}: {error}");
            let names: Vec<_> = std::fs::read_dir(store.group_dir(one()))
                .map(|names| names.map(|name| name.unwrap().file_name()).collect())
                .unwrap_or_default();
            match names.as_slice() {
                [] => assert!(!is_there_before, "{case}"),
                // What has the name is whole, and a new one has it only if nothing else failed.
                [name] if name == "10-2.snap" => {
                    assert!(is_there_before || step == Step::SyncDir, "{case}");
                    store.verify(one(), meta(10).id).unwrap();
                }
                _ => panic!("{case}: {names:?}"),
            }
            make(&store).unwrap();
            assert!(read(&store, one(), meta(10).id).unwrap() == data(200_000), "{case}");
        }
    }
    assert_eq!(failed, 2 * steps);
}

#[test]
fn whatever_fails_while_writing_leaves_nothing_or_a_whole_file() {
    // One file created, six writes, a sync, a rename, and three directories synced.
    each_step_fails(12, write);
}

#[test]
fn whatever_fails_while_receiving_leaves_nothing_or_a_whole_file() {
    let (_dir, store) = store();
    write(&store).unwrap();
    let bytes = std::fs::read(store.path(one(), meta(10).id)).unwrap();
    // As above, but with a write for each chunk.
    each_step_fails(9, |store| receive(store, &bytes));
}

/// The log shares the disk: its fsyncs must not wait for all of a large file.
#[test]
fn a_large_file_is_synced_as_it_grows() {
    let dir = tempfile::tempdir().unwrap();
    let (faults, files) = faulty();
    let store = SnapshotStore::in_dir(dir.path().join("snapshots"), files);
    let mut writer = store.create(meta(10)).unwrap();
    writer.write_all(&vec![7; 3 << 20]).unwrap();
    assert_eq!(faults.syncs(), 2, "a block waits to be full or the last");
    writer.finish().unwrap();
    assert_eq!(faults.syncs(), 4);

    let bytes = std::fs::read(store.path(one(), meta(10).id)).unwrap();
    let (faults, files) = faulty();
    let store = SnapshotStore::in_dir(dir.path().join("received"), files);
    let digest = SnapshotDigest::of(&bytes).unwrap();
    let mut receiver = store.receive(one(), meta(10).id, digest).unwrap();
    bytes.chunks(100_000).for_each(|chunk| receiver.write(chunk).unwrap());
    assert_eq!(faults.syncs(), 2, "chunks do not end where slices do");
    receiver.finish().unwrap();
    assert_eq!(faults.syncs(), 3);
}

/// To see it fail: sync again in `Temporary::drop`; or in `Pace::sync`, where a state machine does not look
/// at what became of its bytes.
#[test]
fn trap_E03_a_file_whose_fsync_failed_is_not_synced_again() {
    let dir = tempfile::tempdir().unwrap();
    let (faults, files) = faulty();
    let store = SnapshotStore::in_dir(dir.path().join("snapshots"), files);
    faults.fail(Step::Sync, 0);
    assert!(write(&store).is_err());
    assert_eq!(faults.syncs(), 1);
    assert_eq!(std::fs::read_dir(store.group_dir(one())).unwrap().count(), 0);

    faults.fail(Step::Sync, 0);
    let mut writer = store.create(meta(10)).unwrap();
    assert!(writer.write_all(&vec![7; 2 << 20]).is_err());
    writer.write_all(b"the rest").unwrap();
    assert!(matches!(writer.finish(), Err(SnapshotError::Io { .. })));
    assert_eq!(faults.syncs(), 2);
    assert_eq!(std::fs::read_dir(store.group_dir(one())).unwrap().count(), 0);
}

#[test]
fn a_temporary_file_that_cannot_be_removed_is_removed_later() {
    let dir = tempfile::tempdir().unwrap();
    let (faults, files) = faulty();
    let store = SnapshotStore::in_dir(dir.path().join("snapshots"), files);
    faults.fail(Step::Sync, 0);
    faults.fail(Step::Remove, 0);
    assert!(write(&store).is_err());
    assert!(faults.heal());
    assert_eq!(store.list(one()).unwrap(), []);
    assert_eq!(std::fs::read_dir(store.group_dir(one())).unwrap().count(), 1);
    store.remove_temporaries().unwrap();
    assert_eq!(std::fs::read_dir(store.group_dir(one())).unwrap().count(), 0);
}

/// To see it fail: let every error of a write be `SnapshotError::Io`.
#[test]
fn trap_E06_a_full_disk_is_told_apart_and_leaves_nothing() {
    let (_dir, from) = store();
    write(&from).unwrap();
    let bytes = std::fs::read(from.path(one(), meta(10).id)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (faults, files) = faulty();
    let store = SnapshotStore::in_dir(dir.path().join("snapshots"), files);
    let full = |is_full| faults.disk_is_full.store(is_full, std::sync::atomic::Ordering::SeqCst);
    let is_empty = || std::fs::read_dir(store.group_dir(one())).unwrap().count() == 0;

    full(true);
    assert!(matches!(write(&store), Err(SnapshotError::Full { .. })));
    assert!(matches!(receive(&store, &bytes), Err(SnapshotError::Full { .. })));
    assert!(is_empty());

    full(false);
    let mut writer = store.create(meta(10)).unwrap();
    writer.write_all(&data(BLOCK_LEN)).unwrap();
    full(true);
    let error = writer.write_all(&[0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("free some room"), "{error}");
    assert!(matches!(writer.finish(), Err(SnapshotError::Full { .. })));
    assert!(is_empty());

    full(false);
    write(&store).unwrap();
    store.verify(one(), meta(10).id).unwrap();
}

#[test]
fn a_file_that_is_being_sent_stays_readable_when_it_is_superseded() {
    let (_dir, store) = store();
    let id = make(&store, 10, &data(1000));
    let bytes = std::fs::read(store.path(one(), id)).unwrap();
    let mut file = store.raw(one(), id).unwrap();
    store.retain(one(), LogId::new(11, 2)).unwrap();
    assert!(matches!(store.raw(one(), id), Err(SnapshotError::Missing { .. })));
    assert_eq!(file.len_bytes(), bytes.len() as u64);
    let mut found = Vec::new();
    file.read_to_end(&mut found).unwrap();
    assert_eq!(found, bytes);
}

/// A snapshot file of `len` bytes of data, as a peer has it.
fn file_of_peer(index: u64, content: &[u8]) -> Vec<u8> {
    let (_dir, from) = store();
    let id = make(&from, index, content);
    std::fs::read(from.path(one(), id)).unwrap()
}

fn files_of(store: &SnapshotStore, group: GroupId) -> Vec<String> {
    let names = std::fs::read_dir(store.group_dir(group)).unwrap();
    let mut names: Vec<_> =
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_cut_transfer_goes_on_where_it_stopped() {
    let bytes = file_of_peer(10, &data(200_000));
    let id = meta(10).id;
    for cut in [80, BLOCK_LEN, BLOCK_LEN + 100, 150_000, bytes.len() - 1, bytes.len()] {
        let (_dir, to) = store();
        let mut receiver = to.receive(one(), id, digest(&bytes)).unwrap();
        receiver.write(&bytes[..cut]).unwrap();
        to.suspend(receiver);
        let names = files_of(&to, one());
        assert_eq!(names, [format!("10-2.snap.{}.0.tmp", digest(&bytes))], "the file, and which");
        assert_eq!(to.list(one()).unwrap(), []);
        let mut receiver = to.receive(one(), id, digest(&bytes)).unwrap();
        assert_eq!(receiver.received_bytes(), cut as u64);
        receiver.write(&bytes[cut..]).unwrap();
        assert_eq!(receiver.finish().unwrap(), meta(10));
        assert_eq!(read(&to, one(), id).unwrap(), data(200_000));
        assert_eq!(files_of(&to, one()), ["10-2.snap"]);
    }
}

#[test]
fn a_part_of_another_file_is_never_gone_on_with() {
    let (bytes, id) = (file_of_peer(10, &data(200_000)), meta(10).id);
    let mut content = data(200_000);
    content[199_999] ^= 1;
    let other = file_of_peer(10, &content);
    assert_eq!(other.len(), bytes.len());
    assert_ne!(digest(&other), digest(&bytes));
    let (_dir, to) = store();
    let mut receiver = to.receive(one(), id, digest(&bytes)).unwrap();
    receiver.write(&bytes[..150_000]).unwrap();
    to.suspend(receiver);
    let receiver = to.receive(one(), id, digest(&other)).unwrap();
    assert_eq!(receiver.received_bytes(), 0);
    assert_eq!(files_of(&to, one()).len(), 1, "the part of the first is removed");
    drop(receiver);
    // Not even when it says that it is the same one.
    let mut receiver = to.receive(one(), id, digest(&bytes)).unwrap();
    receiver.write(&other).unwrap();
    let error = receiver.finish().unwrap_err().to_string();
    assert!(error.contains("another file of the same position"), "{error}");
    assert_eq!(files_of(&to, one()), [""; 0]);
}

#[test]
fn parts_are_bounded_and_go_when_they_are_superseded_or_at_open() {
    let (_dir, to) = store();
    let group = |number: usize| GroupId::new(number as u64).unwrap();
    let begin = |number, index, len| {
        let (_dir, from) = store();
        let meta = SnapshotMeta { group: group(number), ..meta(index) };
        let mut writer = from.create(meta.clone()).unwrap();
        writer.write_all(&data(100_000)).unwrap();
        writer.finish().unwrap();
        let bytes = std::fs::read(from.path(meta.group, meta.id)).unwrap();
        let mut receiver = to.receive(meta.group, meta.id, digest(&bytes)).unwrap();
        receiver.write(&bytes[..len]).unwrap();
        to.suspend(receiver);
    };
    for number in 1..=PARTIALS_MAX + 2 {
        begin(number, 10, 90_000);
    }
    let count = |number| files_of(&to, group(number)).len();
    let left: Vec<_> = (1..=PARTIALS_MAX + 2).filter(|number| count(*number) == 1).collect();
    assert_eq!(left, Vec::from_iter(3..=PARTIALS_MAX + 2), "the oldest went");
    begin(3, 11, 90_000);
    assert_eq!(count(3), 1, "one of a group");
    begin(4, 11, 5);
    assert_eq!(count(4), 0, "not worth it: the header has not come");
    to.retain(group(5), LogId::new(9, 2)).unwrap();
    assert_eq!(count(5), 1, "it is newer than what the group has");
    to.retain(group(5), LogId::new(10, 2)).unwrap();
    assert_eq!(count(5), 0);
    // A crash leaves the files and forgets them.
    to.remove_temporaries().unwrap();
    assert!((1..=PARTIALS_MAX + 2).all(|number| count(number) == 0));
}
