use super::*;

fn simulate(mix: Mix, seeds: u64) -> SimulationReport {
    let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Simulation { from: 1, seeds, jobs, mix }.run(&|| ())
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_and_the_cluster_comes_to_rest() {
    let report = simulate(Mix::Faults, 20);
    assert_eq!(report.violations, 0, "{:#?}", report.failing);
}
