//! The short form of the fuzz: what CI runs.

use super::*;

fn fuzz(messages: u64, seed: u64) -> FuzzReport {
    Fuzz { messages, seed, jobs: NonZeroUsize::MIN }.run(&|_| ()).unwrap()
}

#[test]
#[allow(non_snake_case)]
fn trap_R13_no_peer_makes_a_group_panic_or_commit_what_no_quorum_holds() {
    let report = fuzz(20_000, 1);
    eprintln!("{report:#?}");
    assert!(report.is_clean(), "{:#?}", report.failures);
    assert_eq!(report.messages, 20_000);
}
