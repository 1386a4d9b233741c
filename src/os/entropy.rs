//! Where do keys, IVs and nonces come from? From the kernel's generator, and from nothing else.
//!
//! No generator of our own in between: there is no state to seed, to fork by accident or to leak.

use rand::TryRng;
use rand::rngs::SysRng;

/// Fills `bytes` with random bytes. Ends the process when the system gives none: every caller is
/// about to make a key, an IV or a nonce, nothing safe can be done without it, and an error could
/// be ignored.
pub fn fill(bytes: &mut [u8]) {
    if let Err(error) = SysRng.try_fill_bytes(bytes) {
        super::log::say(format_args!(
            "fernvpn: the system gives no random bytes ({error}); without them no key is safe, so this ends here"
        ));
        std::process::abort();
    }
}

/// `N` random bytes.
pub fn array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        assert_ne!(super::array::<32>(), super::array::<32>());
    }
}
