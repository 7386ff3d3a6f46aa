//! The program `quorate-sim`.
fn main() {}
