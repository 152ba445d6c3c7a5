#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vswitchd_fuzz_targets::mesh(data));
