use std::path::Path;

use super::*;

fn jobs() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[test]
fn the_store_has_all_that_is_to_be_damaged() {
    let store = Store::make().unwrap();
    assert!(store.bytes() < 60_000, "{}", store.bytes());
    assert_eq!(store.state.groups.len(), 2);
    let files: Vec<_> = store.files().keys().map(|file| file.display().to_string()).collect();
    let count = |suffix: &str| files.iter().filter(|file| file.ends_with(suffix)).count();
    assert!(
        count(".raftlog") > 4
            && count(".rewrite") > 1
            && count(".snap") == 2
            && count("identity") == 1,
        "{files:?}"
    );
    let regions: std::collections::BTreeSet<_> = (0..store.bytes())
        .map(|byte| store.place(byte))
        .filter(|(file, _)| file.extension().is_some_and(|extension| extension == "rewrite"))
        .map(|(file, offset)| region_of(file, store.content(file), offset))
        .collect();
    assert!(regions.contains("entries") && regions.contains("record items"), "{regions:?}");
    // Log files are known to their last byte.
    for (file, content) in store.files() {
        for offset in 0..content.len() as u64 {
            assert_ne!(region_of(file, content, offset), "rest", "{} at {offset}", file.display());
        }
    }
}

#[test]
fn an_undamaged_store_is_what_it_must_be() {
    let store = Arc::new(Store::make().unwrap());
    let file = Path::new("identity").to_owned();
    let nothing = RotDamage::Truncate { file, len: u64::MAX };
    let finding = observe(&store, &nothing).unwrap();
    assert_eq!(finding.outcome, Outcome::Harmless, "{}", finding.what);
}

#[test]
fn damage_is_never_wrong_data_and_never_stops_the_process() {
    let report = BitRot { flips: Some(1500), seed: 1, jobs: jobs() }.run(&|_, _| ()).unwrap();
    assert_eq!(report.flips, 1500);
    for tally in [&report.tally, &report.whole_files] {
        // Silent loss is counted, and not required to be nothing yet: what the last log file loses
        // is not noticed before there is a witness (trap E07).
        assert_eq!((tally.wrong_data, tally.panic, tally.hang), (0, 0, 0), "{report:#?}");
        assert!(tally.detected > 0);
    }
    let is_checked = |row: &&Region| row.file.starts_with("snapshots") || row.region == "all";
    for row in report.regions.iter().filter(is_checked) {
        assert_eq!(row.tally.silent_loss + row.tally.harmless, 0, "{row:#?}");
    }
}
