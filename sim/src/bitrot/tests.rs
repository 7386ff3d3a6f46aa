use std::path::Path;

use super::*;

fn jobs() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[test]
fn the_stores_have_all_that_is_to_be_damaged() {
    let [many, sole] = SEEDS.map(|seed| Store::make(seed).unwrap());
    let count = |store: &Store, suffix: &str| {
        store.files().keys().filter(|file| file.to_string_lossy().ends_with(suffix)).count()
    };
    assert!(count(&many, ".raftlog") > 4 && count(&many, ".rewrite") > 1);
    assert!(count(&sole, ".raftlog") > 2 && count(&sole, ".rewrite") > 0);
    assert_eq!(count(&sole, "log/0000000000000001.raftlog"), 0, "purged");
    for store in [many, sole] {
        assert!(store.bytes() < 60_000, "{}", store.bytes());
        assert_eq!(store.state.groups.len(), 2);
        assert!(count(&store, ".snap") == 2 && count(&store, "identity") == 1);
        let mut rewritten = std::collections::BTreeSet::new();
        // Log files are known to their last byte.
        for (file, content) in store.files() {
            for offset in 0..content.len() as u64 {
                let region = region_of(file, content, offset);
                assert_ne!(region, "rest", "{} at {offset}", file.display());
                if file.extension().is_some_and(|extension| extension == "rewrite") {
                    rewritten.insert(region);
                }
            }
        }
        assert!(rewritten.contains("entries") && rewritten.contains("record items"));
    }
}

#[test]
fn an_undamaged_store_is_what_it_must_be() {
    let store = Arc::new(Store::make(SEEDS[0]).unwrap());
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
        let bad = (tally.silent_loss, tally.wrong_data, tally.panic, tally.hang);
        assert_eq!(bad, (0, 0, 0, 0), "{report:#?}");
        assert!(tally.detected > 0);
    }
    let is_checked = |row: &&Region| row.file.starts_with("snapshots") || row.region == "all";
    for row in report.regions.iter().filter(is_checked) {
        assert_eq!(row.tally.silent_loss + row.tally.harmless, 0, "{row:#?}");
    }
}
