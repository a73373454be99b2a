//! What a person remembers, and what it costs to guess it.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use super::sealing::Key;
use super::{Opener, VaultError};

/// The most that one try may cost: a hostile file must not take all memory, or minutes.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const WORK_KIB_MAX: u64 = 4 * 1024 * 1024;
const LANES_MAX: u32 = 16;

/// A secret that a person remembers, or that the system's keyring keeps for that person. An empty
/// one protects nothing: front ends say so.
#[derive(Clone)]
pub struct Passphrase {
    text: Zeroizing<String>,
    opener: Opener,
}

impl Passphrase {
    /// A secret that the keyring has under this name, so that a profile can say where to ask.
    pub fn from_keyring(name: String, secret: &str) -> Self {
        Self { text: Zeroizing::new(secret.to_owned()), opener: Opener::Keyring(name) }
    }

    /// Where it is: what a profile says that opens with it.
    pub fn opener(&self) -> &Opener {
        &self.opener
    }

    /// What one guess has to cost: a random secret is not found by guessing, however cheap it is.
    pub(super) fn cost(&self, asked: Cost) -> Cost {
        match self.opener {
            Opener::Keyring(_) => Cost::CHEAPEST,
            Opener::Passphrase | Opener::Nothing => asked,
        }
    }
}

impl From<&str> for Passphrase {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Passphrase {
    fn from(text: String) -> Self {
        let opener = if text.is_empty() { Opener::Nothing } else { Opener::Passphrase };
        Self { text: Zeroizing::new(text), opener }
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

/// What one guess of a passphrase costs: Argon2id (RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB; at least eight for each lane.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes. They are computed one after the other here; who guesses can use as many cores.
    pub lanes: u32,
}

impl Default for Cost {
    /// 64 MiB, three passes, one lane: 0.15 s on the core of a server, more on older machines.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

impl Cost {
    /// As cheap as it can be: for tests, where the passphrase protects nothing.
    pub const CHEAPEST: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    /// Bytes of its stored form.
    pub(super) const LEN: usize = 12;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.memory_kib.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.passes.to_be_bytes());
        bytes[8..].copy_from_slice(&self.lanes.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let number = |at: usize| {
            u32::from_be_bytes(bytes[at..at + 4].try_into().expect("a range of four bytes"))
        };
        Self { memory_kib: number(0), passes: number(4), lanes: number(8) }
    }

    /// The key that a passphrase makes with a salt.
    ///
    /// # Errors
    /// [`VaultError::Cost`] out of bounds, [`VaultError::Memory`].
    pub(super) fn derive(self, passphrase: &Passphrase, salt: &[u8]) -> Result<Key, VaultError> {
        let work = u64::from(self.memory_kib) * u64::from(self.passes);
        if self.memory_kib > MEMORY_KIB_MAX || work > WORK_KIB_MAX || self.lanes > LANES_MAX {
            return Err(VaultError::Cost);
        }
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(Key::LEN))
            .map_err(|_| VaultError::Cost)?;
        // Memory of our own, because the library would leave it as it is.
        let mut memory = Zeroizing::new(Vec::new());
        let blocks = params.block_count();
        memory.try_reserve_exact(blocks).map_err(|_| VaultError::Memory)?;
        memory.resize(blocks, Block::new());
        let mut key = Zeroizing::new([0; Key::LEN]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(
                passphrase.text.as_bytes(),
                salt,
                &mut *key,
                memory.as_mut_slice(),
            )
            .map_err(|_| VaultError::Cost)?;
        Ok(Key::from(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_out_of_bounds_is_refused_before_it_is_paid() {
        let cost = |memory_kib, passes, lanes| Cost { memory_kib, passes, lanes };
        let refused = [
            cost(u32::MAX, 1, 1),
            cost(MEMORY_KIB_MAX + 1, 1, 1),
            cost(MEMORY_KIB_MAX, 5, 1),
            cost(8, u32::MAX, 1),
            cost(1024, 1, LANES_MAX + 1),
            cost(7, 1, 1),
            cost(8, 0, 1),
            cost(8, 1, 0),
            cost(8, 1, 2),
        ];
        for cost in refused {
            let derived = cost.derive(&Passphrase::from("x"), &[0; 16]);
            assert!(matches!(derived, Err(VaultError::Cost)), "{cost:?}");
        }
        assert!(Cost::CHEAPEST.derive(&Passphrase::from(""), &[0; 16]).is_ok());
    }

    #[test]
    fn a_cost_keeps_its_stored_form() {
        let cost = Cost { memory_kib: 1, passes: 2, lanes: 0x0304_0506 };
        assert_eq!(cost.encode(), [0, 0, 0, 1, 0, 0, 0, 2, 3, 4, 5, 6]);
        assert_eq!(Cost::decode(&cost.encode()), cost);
    }

    #[test]
    fn a_passphrase_does_not_show() {
        let passphrase = Passphrase::from("correct horse".to_owned());
        assert!(!format!("{passphrase:?}").contains("horse"));
    }
}
