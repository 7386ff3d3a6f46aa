use super::cut::cut_history_on;
use super::*;
use crate::disk::{Fault, OperationKind, Survival};

fn jobs() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[test]
fn acknowledged_batches_survive_every_crash() {
    let report = CrashPoints { images: 3000, seed: 1, jobs: jobs() }.run(&|| ()).unwrap();
    assert_eq!(report.images, 3000);
    assert!(report.workloads >= 1 && report.operations > 100);
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn a_point_is_replayed() {
    let point = "1:40:before:keep".parse().unwrap();
    let (operation, verdict) = replay(point).unwrap();
    assert!(operation.starts_with("40 "), "{operation}");
    assert_eq!(verdict, Verdict::Survived);
    let point = "1:1000000:before:keep".parse().unwrap();
    assert!(matches!(replay(point), Err(CrashPointsError::NoSuchPoint(_))));
}

/// How many of the power losses that take all that is unsynced are found out.
fn found_out(fault: Fault) -> usize {
    let cuts = cut_history_on(1, Repeats::LeftOut, Some(fault)).unwrap();
    let lose = Subset::PowerLoss(Survival::LoseAll);
    let verdicts = cuts.iter().map(|cut| check(cut, lose));
    verdicts.filter(|verdict| *verdict != Verdict::Survived).count()
}

#[test]
fn a_disk_whose_syncs_lie_is_found_out() {
    let log = |kind| Fault::lost(kind).suffix(".raftlog");
    assert!(found_out(log(OperationKind::Sync)) > 50);
    // One sync of many: only until the next one.
    for number in [3, 5, 7] {
        let once = found_out(log(OperationKind::Sync).nth(number));
        assert!((1..30).contains(&once), "sync {number}: {once}");
    }
}
