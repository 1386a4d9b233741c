#![no_main]
#[path = "../properties.rs"]
#[allow(dead_code, reason = "one of them")]
mod properties;
#[path = "../server.rs"]
mod server;
libfuzzer_sys::fuzz_target!(|data: &[u8]| server::server(data));
