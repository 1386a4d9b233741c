//! fernvpn: a VPN over TCP that a person can read in an afternoon.
//! The command line: one word, one call.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, while there is one thread: the same program, started again to hold a private network.
    if std::env::args_os().nth(1).is_some_and(|word| word == fernvpn::os::namespace::HOLDER_WORD) {
        return fernvpn::os::namespace::hold();
    }
    ExitCode::SUCCESS
}
