//! A file that only its passphrase opens: what an export is.

use zeroize::Zeroizing;

use super::sealing::{self, Key, Sealer, WRAPPED_LEN};
use super::{Cost, Passphrase, VaultError};

const MAGIC: &[u8; 7] = b"valise\0";
const VERSION: u8 = 1;
const PURPOSE: &str = "valise export key 1";

/// Seals a file: `magic 7 | version 1 | wrapped key 96 | nonce 12 | ciphertext | tag 16`.
///
/// # Errors
/// [`VaultError::Cost`] or [`VaultError::Memory`] if the cost cannot be paid.
pub fn seal_file(
    passphrase: &Passphrase,
    cost: Cost,
    plaintext: &[u8],
) -> Result<Vec<u8>, VaultError> {
    let key = Key::random();
    let mut file = head(VERSION).to_vec();
    file.extend(sealing::wrap(&key, PURPOSE, passphrase, cost)?);
    let sealed = key.sealer().seal(&head(VERSION), plaintext.len(), |bytes| {
        bytes.extend_from_slice(plaintext);
    });
    file.extend(sealed);
    Ok(file)
}

/// Opens what [`seal_file`] has sealed.
///
/// # Errors
/// [`VaultError::WrongPassphrase`]; [`VaultError::FileDamaged`] for a file that is none of ours, not
/// whole, or changed; [`VaultError::FileNewer`]; [`VaultError::Cost`] for one that asks for more than
/// we would ever ask.
pub fn open_file(passphrase: &Passphrase, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let Some((&found, rest)) = bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first) else {
        return Err(VaultError::FileDamaged("is no export of Valise"));
    };
    if found > VERSION {
        return Err(VaultError::FileNewer { found, known: VERSION });
    }
    let changed = || VaultError::FileDamaged("is not whole, or was changed");
    let least = WRAPPED_LEN + Sealer::OVERHEAD;
    if found != VERSION || rest.len() < least {
        return Err(changed());
    }
    let (wrapped, sealed) = rest.split_at(WRAPPED_LEN);
    let key = sealing::unwrap(wrapped, PURPOSE, passphrase).map_err(|error| match error {
        VaultError::Damaged(_) => changed(),
        error => error,
    })?;
    key.sealer().open(&head(VERSION), sealed).ok_or_else(changed)
}

fn head(version: u8) -> [u8; 8] {
    let mut head = [version; 8];
    head[..MAGIC.len()].copy_from_slice(MAGIC);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (Passphrase, Vec<u8>) {
        let passphrase = Passphrase::from("correct horse");
        let file = seal_file(&passphrase, Cost::CHEAPEST, b"root seed").unwrap();
        (passphrase, file)
    }

    #[test]
    fn a_file_opens_with_its_passphrase_only() {
        let (right, file) = sealed();
        assert_eq!(open_file(&right, &file).unwrap().as_slice(), b"root seed");
        let wrong = open_file(&Passphrase::from("battery"), &file);
        assert!(matches!(wrong, Err(VaultError::WrongPassphrase)));
        assert!(!file.windows(4).any(|bytes| bytes == b"seed"));
        assert_ne!(file, sealed().1, "the key, the salt and the nonces are new in each file");
    }

    /// A flipped bit or a missing end is damage, never a wrong passphrase and never a panic.
    #[test]
    fn a_damaged_file_is_told_from_a_wrong_passphrase() {
        let (right, file) = sealed();
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1 << (at % 8);
            let opened = open_file(&right, &changed);
            let newer = at == MAGIC.len() && matches!(opened, Err(VaultError::FileNewer { .. }));
            assert!(newer || matches!(opened, Err(VaultError::FileDamaged(_))), "byte {at}");
            let cut = open_file(&right, &file[..at]);
            assert!(matches!(cut, Err(VaultError::FileDamaged(_))), "cut at {at}");
        }
        let longer = [&file[..], &[0]].concat();
        assert!(matches!(open_file(&right, &longer), Err(VaultError::FileDamaged(_))));
    }

    /// The check is no secret: whoever makes a file can make it fit, and still gets no memory.
    #[test]
    fn a_greedy_file_is_refused() {
        let (right, mut file) = sealed();
        let wrapped = &mut file[8..8 + WRAPPED_LEN];
        wrapped[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        sealing::fix_check(wrapped);
        assert!(matches!(open_file(&right, &file), Err(VaultError::Cost)));
    }

    #[test]
    fn a_newer_file_is_refused_by_name() {
        let (right, mut file) = sealed();
        file[MAGIC.len()] = 2;
        let opened = open_file(&right, &file);
        assert!(matches!(opened, Err(VaultError::FileNewer { found: 2, known: 1 })));
        assert!(matches!(open_file(&right, b"PK\x03\x04"), Err(VaultError::FileDamaged(_))));
    }
}
