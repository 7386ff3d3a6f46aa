use std::num::NonZeroUsize;

use super::*;

fn simulate(mix: Mix, from: u64, seeds: u64) -> SimulationReport {
    let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Simulation { from, seeds, jobs, mix }.run(&|| ())
}

/// The short form of `quorate-sim run`: as many seeds, and some twice. A failure names its seed and how to
/// replay it.
#[test]
fn whatever_goes_wrong_nothing_is_lost_and_the_cluster_comes_to_rest() {
    let report = simulate(Mix::Faults, 1, 406);
    assert_eq!(report.violations, 0, "{:#?}", report.failing);
    assert_eq!((report.seeds, report.repeated), (406, 4));
    // Each two faults have had one turn, and everything has happened.
    assert_eq!(report.faults.len(), Event::ALL.len(), "{:?}", report.faults);
    let missing: Vec<_> =
        Path::ALL.iter().filter(|path| !report.paths.contains_key(path)).collect();
    assert_eq!(missing, Vec::<&Path>::new());
}

/// Seeds that have found something. They mean it as long as the simulator is the same.
const FOUND: &[(u64, &str)] =
    &[(600, "a dead process's registration took the place of that of the next one")];

#[test]
fn what_was_found_once_is_not_found_again() {
    for (seed, what) in FOUND {
        let report = simulate(Mix::Faults, *seed, 1);
        assert_eq!((report.seeds, report.violations), (1, 0), "{what}: {:#?}", report.failing);
    }
}

#[test]
fn an_idle_cluster_goes_on_for_hours() {
    let report = simulate(Mix::Idle, 1, 4);
    assert_eq!(report.violations, 0, "{:#?}", report.failing);
    assert!(report.simulated_hours >= 2.0, "{report:?}");
}

/// What is told of a seed is what happened in it, up to the last line.
#[test]
fn a_seed_is_told_line_by_line_and_always_alike() {
    let told = || {
        let lines = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let kept = lines.clone();
        let keep = Box::new(move |line: &str| kept.borrow_mut().push(line.to_owned()));
        let faults = Some(Duration::from_secs(5));
        let run = run_seed(7, Mix::Faults, faults, Some(keep)).unwrap();
        (run.hash, run.events, lines.take())
    };
    let (first, second) = (told(), told());
    assert_eq!(first, second);
    let quiet = run_seed(7, Mix::Faults, Some(Duration::from_secs(5)), None).unwrap();
    assert_eq!((quiet.hash, quiet.events), (first.0, first.1), "nobody listens");
    let other = run_seed(8, Mix::Faults, Some(Duration::from_secs(5)), None).unwrap();
    assert_ne!(other.hash, quiet.hash);
}
