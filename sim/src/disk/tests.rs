use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use quorate_engine::{Handle, WriteExt};

use super::*;

/// A disk and the temporary directories of it and of those made of it.
struct Desk {
    dirs: tempfile::TempDir,
    disk: CrashDisk,
    made: std::cell::Cell<u32>,
}

impl Desk {
    fn new() -> Self {
        let dirs = tempfile::tempdir().unwrap();
        let disk = CrashDisk::new(dirs.path().join("disk")).unwrap();
        std::fs::create_dir(disk.root().join("log")).unwrap();
        Self { dirs, disk, made: std::cell::Cell::new(0) }
    }

    fn fresh(&self) -> PathBuf {
        self.made.set(self.made.get() + 1);
        self.dirs.path().join(format!("crashed-{}", self.made.get()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.root().join(name)
    }

    fn create(&self, name: &str, content: &[u8]) -> (Arc<CrashHandle>, CrashFile) {
        let handle = Arc::new(self.disk.create(self.path(name)).unwrap());
        let mut file = self.disk.new_writer(handle.clone()).unwrap();
        file.write_all(content).unwrap();
        (handle, file)
    }

    fn left(&self, survival: Survival) -> Vec<(String, Vec<u8>)> {
        let crashed = self.disk.image().unwrap().power_loss(survival, self.fresh()).unwrap();
        contents(&crashed)
    }
}

fn contents(disk: &CrashDisk) -> Vec<(String, Vec<u8>)> {
    let files = disk.files();
    // Names are mirrored.
    for path in &files {
        assert_eq!(std::fs::metadata(disk.root().join(path)).unwrap().len(), 0);
    }
    let content = |path: &PathBuf| (path.display().to_string(), disk.content(path).unwrap());
    files.iter().map(content).collect()
}

fn file(name: &str, content: &[u8]) -> (String, Vec<u8>) {
    (name.to_owned(), content.to_vec())
}

#[test]
fn files_are_read_as_they_were_written() {
    let desk = Desk::new();
    let (handle, mut file) = desk.create("log/a", b"hello, world");
    file.seek(SeekFrom::Start(7)).unwrap();
    file.write_all(b"there").unwrap();
    file.allocate(12, 8).unwrap();
    assert_eq!(handle.file_size().unwrap(), 20);
    let mut reader = desk.disk.new_reader(handle).unwrap();
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert_eq!(text, b"hello, there\0\0\0\0\0\0\0\0");
    file.truncate(5).unwrap();
    file.write_all(b"!").unwrap();
    assert_eq!(desk.disk.content("log/a").unwrap(), b"hello!");
    // Creating it again changes nothing, and a handle outlives the name.
    let again = desk.disk.create(desk.path("log/a")).unwrap();
    desk.disk.delete(desk.path("log/a")).unwrap();
    assert!(!desk.path("log/a").exists());
    assert_eq!(again.file_size().unwrap(), 6);
    let missing = desk.disk.open(desk.path("log/a"), Permission::ReadOnly);
    assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    let elsewhere = desk.disk.create("/somewhere/else").unwrap_err();
    assert_eq!(elsewhere.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_read_only_handle_does_not_write() {
    let desk = Desk::new();
    desk.create("log/a", b"abc");
    let handle = Arc::new(desk.disk.open(desk.path("log/a"), Permission::ReadOnly).unwrap());
    let mut file = desk.disk.new_writer(handle.clone()).unwrap();
    assert!(file.write_all(b"x").is_err() && handle.truncate(0).is_err());
    assert_eq!(desk.disk.content("log/a").unwrap(), b"abc");
}

#[test]
fn a_power_loss_takes_what_was_not_synced() {
    let desk = Desk::new();
    let (handle, mut open) = desk.create("log/a", b"first ");
    assert_eq!(desk.left(Survival::LoseAll), []);
    assert_eq!(desk.left(Survival::KeepAll), [file("log/a", b"first ")]);
    // The sync of a file makes its name durable too.
    handle.sync().unwrap();
    open.write_all(b"second").unwrap();
    assert_eq!(desk.left(Survival::LoseAll), [file("log/a", b"first ")]);
    assert_eq!(desk.left(Survival::KeepAll), [file("log/a", b"first second")]);
    // A rename needs the directory.
    handle.sync().unwrap();
    desk.disk.rename(desk.path("log/a"), desk.path("log/b")).unwrap();
    assert_eq!(desk.left(Survival::LoseAll), [file("log/a", b"first second")]);
    assert_eq!(desk.left(Survival::KeepAll), [file("log/b", b"first second")]);
    desk.disk.sync_dir(&desk.path("log")).unwrap();
    assert_eq!(desk.left(Survival::LoseAll), [file("log/b", b"first second")]);
    assert!(desk.disk.image().unwrap().is_synced());
    // So does a removal, also when the handle is gone.
    drop((handle, open));
    desk.disk.delete(desk.path("log/b")).unwrap();
    assert_eq!(desk.left(Survival::LoseAll), [file("log/b", b"first second")]);
    desk.disk.sync_dir(&desk.path("log")).unwrap();
    assert_eq!(desk.left(Survival::LoseAll), []);
}

#[test]
fn a_seed_alone_decides_what_is_left() {
    let desk = Desk::new();
    let (_handle, mut open) = desk.create("log/a", &[1; 3000]);
    open.allocate(3000, 1000).unwrap();
    open.seek(SeekFrom::Start(100)).unwrap();
    open.write_all(&[2; 3000]).unwrap();
    desk.create("log/b", b"other");
    let mut different = BTreeSet::new();
    for seed in 0..50 {
        let left = desk.left(Survival::Random(seed));
        assert_eq!(left, desk.left(Survival::Random(seed)));
        different.insert(left);
    }
    assert!(different.len() > 20, "{}", different.len());
}

#[test]
fn a_kill_takes_nothing_and_syncs_nothing() {
    let desk = Desk::new();
    std::fs::write(desk.path("identity"), b"real").unwrap();
    desk.create("log/a", b"unsynced");
    let killed = desk.disk.image().unwrap().kill(desk.fresh()).unwrap();
    assert_eq!(contents(&killed), [file("log/a", b"unsynced")]);
    assert_eq!(std::fs::read(killed.root().join("identity")).unwrap(), b"real");
    let image = killed.image().unwrap();
    assert!(!image.is_synced());
    assert_eq!(contents(&image.power_loss(Survival::LoseAll, desk.fresh()).unwrap()), []);
    // A sync by the next process covers what the one before wrote.
    let handle = killed.open(killed.root().join("log/a"), Permission::ReadWrite).unwrap();
    handle.sync().unwrap();
    let left = killed.image().unwrap().power_loss(Survival::LoseAll, desk.fresh()).unwrap();
    assert_eq!(contents(&left), [file("log/a", b"unsynced")]);
    assert_eq!(desk.left(Survival::LoseAll), []);
}

#[test]
fn an_image_stays_as_it_was_taken() {
    let desk = Desk::new();
    let (handle, mut open) = desk.create("log/a", &[1; 10_000]);
    handle.sync().unwrap();
    let image = desk.disk.image().unwrap();
    open.write_all(b"more").unwrap();
    open.truncate(3).unwrap();
    handle.sync().unwrap();
    desk.disk.delete(desk.path("log/a")).unwrap();
    for survival in [Survival::LoseAll, Survival::KeepAll, Survival::Random(3)] {
        let left = image.power_loss(survival, desk.fresh()).unwrap();
        assert_eq!(contents(&left), [file("log/a", &[1; 10_000])]);
    }
}

#[test]
fn every_change_is_shown_before_and_after() {
    let desk = Desk::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let images = Arc::new(Mutex::new(Vec::new()));
    desk.disk.observe({
        let (seen, images) = (seen.clone(), images.clone());
        move |moment: &Moment<'_>| {
            seen.lock().unwrap().push((moment.phase(), moment.operation().to_string()));
            images.lock().unwrap().push(moment.image().unwrap());
            if let Some(torn) = moment.torn(2).unwrap() {
                images.lock().unwrap().push(torn);
            }
        }
    });
    let (handle, mut open) = desk.create("log/a", b"abcd");
    open.allocate(4, 6).unwrap();
    open.truncate(3).unwrap();
    handle.sync().unwrap();
    desk.disk.rename(desk.path("log/a"), desk.path("log/b")).unwrap();
    desk.disk.delete(desk.path("log/b")).unwrap();
    desk.disk.sync_dir(&desk.path("log")).unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let after: Vec<_> = seen.iter().filter(|(phase, _)| *phase == Phase::After).collect();
    let texts: Vec<_> = after.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "1 create log/a",
            "2 write log/a at 0, 4 bytes",
            "3 allocate log/a at 4, 6 bytes",
            "4 truncate log/a to 3 bytes",
            "5 sync log/a",
            "6 rename log/a to log/b",
            "7 delete log/b",
            "8 sync_dir log",
        ]
    );
    assert_eq!(seen.len(), 16);
    assert_eq!(desk.disk.operations(), 8);
    let kept =
        |image: &Image| contents(&image.power_loss(Survival::KeepAll, desk.fresh()).unwrap());
    let images = images.lock().unwrap();
    // Before and after the creation, before the write, torn, after it.
    let expected = [None, Some(&b""[..]), Some(b""), Some(b"ab"), Some(b"abcd")];
    for (image, expected) in images.iter().zip(expected) {
        assert_eq!(
            kept(image),
            expected.map(|text| file("log/a", text)).into_iter().collect::<Vec<_>>()
        );
    }
}

#[test]
fn operations_fail_when_they_are_told_to() {
    let desk = Desk::new();
    let disk = &desk.disk;
    let (handle, mut open) = desk.create("log/a.raftlog", b"abc");
    let (other, _) = desk.create("log/other", b"abc");
    disk.fail(Fault::new(OperationKind::Sync, FaultError::Io).suffix(".raftlog").nth(2));
    for expected in [true, false, true] {
        assert_eq!(handle.sync().is_ok(), expected);
        assert!(other.sync().is_ok());
    }
    disk.heal();
    disk.fail(Fault::new(OperationKind::Write, FaultError::NoSpace).from(2).after_bytes(2));
    open.write_all(b"d").unwrap();
    let error = open.write_all(b"efg").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("nospace"));
    assert_eq!(disk.content("log/a.raftlog").unwrap(), b"abcdef");
    disk.heal();
    let switch = Arc::new(AtomicBool::new(true));
    let kinds = [
        OperationKind::Create,
        OperationKind::Open,
        OperationKind::Read,
        OperationKind::Write,
        OperationKind::Truncate,
        OperationKind::Allocate,
        OperationKind::Sync,
        OperationKind::Delete,
        OperationKind::Rename,
        OperationKind::SyncDir,
    ];
    for kind in kinds {
        disk.fail(Fault::new(kind, FaultError::Io).while_on(switch.clone()));
    }
    let before = contents(disk);
    let path = desk.path("log/a.raftlog");
    let mut all = || {
        open.seek(SeekFrom::Start(0)).unwrap();
        [
            disk.create(desk.path("log/new")).is_ok(),
            disk.open(&path, Permission::ReadOnly).is_ok(),
            open.read(&mut [0; 2]).is_ok(),
            open.write_all(b"x").is_ok(),
            open.allocate(0, 100).is_ok(),
            open.truncate(1).is_ok(),
            handle.sync().is_ok(),
            disk.rename(path.clone(), desk.path("log/z")).is_ok(),
            disk.sync_dir(&desk.path("log")).is_ok(),
            disk.delete(desk.path("log/other")).is_ok(),
        ]
    };
    assert_eq!(all(), [false; 10]);
    assert_eq!(contents(disk), before);
    switch.store(false, Ordering::SeqCst);
    assert_eq!(all(), [true; 10]);
}

#[test]
fn a_lying_disk_says_that_it_did_what_it_did_not() {
    let desk = Desk::new();
    let (handle, mut open) = desk.create("log/a", b"abc");
    desk.disk.fail(Fault::lost(OperationKind::Sync).nth(1));
    handle.sync().unwrap();
    assert_eq!(desk.left(Survival::LoseAll), []);
    handle.sync().unwrap();
    assert_eq!(desk.left(Survival::LoseAll), [file("log/a", b"abc")]);
    desk.disk.fail(Fault::lost(OperationKind::Write).nth(2));
    for piece in [b"d", b"e", b"f"] {
        open.write_all(piece).unwrap();
    }
    assert_eq!(desk.disk.content("log/a").unwrap(), b"abcd\0f");
    desk.disk.fail(Fault::lost(OperationKind::Create));
    assert!(desk.disk.create(desk.path("log/b")).is_err());
}

#[test]
fn a_full_disk_takes_what_fits_and_works_again_with_room() {
    let desk = Desk::new();
    let (handle, mut open) = desk.create("log/a", &[1; 90]);
    desk.disk.set_capacity(Some(100));
    let error = open.write_all(&[2; 20]).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::StorageFull, "nospace"));
    assert_eq!(handle.file_size().unwrap(), 100);
    assert!(open.allocate(100, 1).is_err());
    assert!(handle.truncate(101).is_err());
    // Over what is there already, there is room.
    open.seek(SeekFrom::Start(50)).unwrap();
    open.write_all(&[3; 50]).unwrap();
    desk.disk.set_capacity(Some(200));
    open.write_all(&[4; 100]).unwrap();
    assert_eq!(desk.disk.used_bytes(), 200);
    desk.disk.delete(desk.path("log/a")).unwrap();
    assert_eq!(desk.disk.used_bytes(), 0);
}

#[test]
fn damage_at_rest_is_done_and_durable() {
    let desk = Desk::new();
    desk.create("log/a", b"aaaa");
    desk.create("log/b", b"bb");
    desk.disk.flip_bit("log/a", 2, 1).unwrap();
    assert!(desk.disk.flip_bit("log/a", 4, 0).is_err());
    desk.disk.truncate_file("log/b", 1).unwrap();
    desk.disk.swap_files("log/a", "log/b").unwrap();
    let expected = [file("log/a", b"b"), file("log/b", b"aaca")];
    assert_eq!(contents(&desk.disk), expected);
    assert_eq!(desk.left(Survival::LoseAll), expected);
    desk.disk.drop_file("log/a").unwrap();
    assert_eq!(desk.left(Survival::LoseAll), expected[1..]);
    assert!(desk.disk.drop_file("log/a").is_err() && !desk.path("log/a").exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_synced_survives_whatever_happens(
        steps in prop::collection::vec((0..5_u8, 0..3_usize, 0..6_000_usize), 1..30),
        seed in any::<u64>(),
    ) {
        let desk = Desk::new();
        let names = ["log/a", "log/b", "log/c"];
        let mut plain = std::collections::BTreeMap::<&str, Vec<u8>>::new();
        for (number, (what, which, at)) in steps.into_iter().enumerate() {
            let name = names[which];
            let handle = Arc::new(desk.disk.create(desk.path(name)).unwrap());
            let mut open = desk.disk.new_writer(handle.clone()).unwrap();
            let bytes = plain.entry(name).or_default();
            match what {
                0 | 1 => {
                    open.seek(SeekFrom::Start(at as u64)).unwrap();
                    let data = vec![number as u8 + 1; 700];
                    open.write_all(&data).unwrap();
                    bytes.resize(bytes.len().max(at + 700), 0);
                    bytes[at..at + 700].copy_from_slice(&data);
                }
                2 => {
                    handle.truncate(at).unwrap();
                    bytes.resize(at, 0);
                }
                3 => {
                    let to = names[(which + 1) % 3];
                    desk.disk.rename(desk.path(name), desk.path(to)).unwrap();
                    if let Some(bytes) = plain.remove(name) {
                        plain.insert(to, bytes);
                    }
                }
                _ => {
                    desk.disk.delete(desk.path(name)).unwrap();
                    plain.remove(name);
                }
            }
        }
        let expected: Vec<_> = plain.iter().map(|(name, bytes)| file(name, bytes)).collect();
        prop_assert_eq!(&contents(&desk.disk), &expected);
        prop_assert_eq!(&desk.left(Survival::KeepAll), &expected);
        for name in plain.keys() {
            let path = desk.path(name);
            desk.disk.open(path, Permission::ReadWrite).unwrap().sync().unwrap();
        }
        desk.disk.sync_dir(&desk.path("log")).unwrap();
        for survival in [Survival::KeepAll, Survival::LoseAll, Survival::Random(seed)] {
            prop_assert_eq!(&desk.left(survival), &expected);
        }
    }
}
