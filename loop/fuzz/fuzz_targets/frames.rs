//! Bytes as they arrive on a connection: frames, the handshake, the founding, the member table.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let arrival = quorate_loop::fuzz::arrive(bytes);
    assert_eq!(arrival.wrong, None);
});
