//! A live group of three under forged messages; each byte is a decision of the storm.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // A group that cannot live for want of memory says nothing about the messages.
    if let Ok(report) = quorate_sim::messages(bytes) {
        assert!(report.is_clean(), "{:#?}", report.failures);
    }
});
