//! Where do keys, IVs and nonces come from? They come from the kernel's generator alone.
//!
//! There is no generator of our own in between. So there is no state to seed, to fork by accident
//! or to leak.

use rand::TryRng;
use rand::rngs::SysRng;

/// Fills `bytes` with random bytes. Ends the process if the system gives none. Every caller makes a
/// key, an IV or a nonce: nothing is safe without random bytes, and a caller could ignore an error.
pub fn fill(bytes: &mut [u8]) {
    if let Err(error) = SysRng.try_fill_bytes(bytes) {
        super::log::say(format_args!(
            "fernvpn: the system gives no random bytes ({error}). \
             Without them no key is safe, so the program ends"
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
