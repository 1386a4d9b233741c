//! Where does randomness come from? From the operating system, each time anew, and from nowhere else.
//!
//! No generator lives in this process, so a copy of it (a fork, a restored snapshot of a machine) cannot repeat what the
//! original drew. Trusted, but outside the trusted core: keys, IVs and nonces are as good as these bytes.
#![forbid(unsafe_code)]

use rand::TryRng;
use rand::rngs::SysRng;

/// `N` random bytes, fit for keys.
///
/// # Errors
/// The reason, if the system has none to give.
pub fn bytes<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| format!("the system gives no random bytes: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn never_twice_the_same() {
        let drawn: std::collections::HashSet<[u8; 16]> =
            (0..10_000).map(|_| super::bytes().expect("random bytes")).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
