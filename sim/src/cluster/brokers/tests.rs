use crate::cluster::{Event, Mix, Path, Simulation};

/// To see it fail: have `Ballot::elect` take nobody from the ELR.
#[test]
fn brokers_come_by_every_way() {
    let jobs = std::thread::available_parallelism().unwrap_or(std::num::NonZeroUsize::MIN);
    let report = Simulation { from: 1, seeds: 40, jobs, mix: Mix::Faults }.run(&|| ());
    assert_eq!(report.violations, 0, "{:#?}", report.failing);
    for event in [Event::BrokerDeath, Event::BrokerShutdown] {
        assert!(report.faults.contains_key(&event), "{event:?} in {:?}", report.faults);
    }
    let paths = [
        Path::BrokerFenced,
        Path::BrokerStopped,
        Path::ElectedFromElr,
        Path::ElectedUncleanly,
        Path::IsrShrunk,
        Path::IsrGrown,
        Path::Truncated,
    ];
    for path in paths {
        assert!(report.paths.contains_key(&path), "{path:?} in {:?}", report.paths);
    }
}
