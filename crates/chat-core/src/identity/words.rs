//! Words that people compare: by them two accounts, or two devices, know that nobody is between.

use aws_lc_rs::{digest, hmac};
use bip39::Language;
use prost::Message as _;

use super::AccountId;
use crate::wire;

/// So many words of each account.
const WORDS_OF_ONE: usize = 6;
/// Each guess of a key with the same words costs so many hashes.
const ROUNDS: u32 = 5_200;
/// Words that confirm a new device. Whoever has the link's secret and the relay can look for a device
/// record of its own with the same ones, for as long as the link is good: 66 bits of work, 5,200-fold.
const WORDS_OF_LINK: usize = 6;

/// The twelve words of two accounts, the same from either side: six of each, the account with the
/// smaller id first. An account's words are the first 66 bits of
/// `h(5200)`, `h(n) = SHA-256(h(n-1) | account | root key)`, `h(0) = "valise safety words 1"`,
/// as indices of 11 bits into the BIP-39 English list.
pub fn safety_words(
    one: (&AccountId, &[u8; 32]),
    other: (&AccountId, &[u8; 32]),
) -> Vec<&'static str> {
    let (first, second) = if one.0 <= other.0 { (one, other) } else { (other, one) };
    let mut all = words_of(first);
    all.extend(words_of(second));
    all
}

fn words_of((account, root): (&AccountId, &[u8; 32])) -> Vec<&'static str> {
    let mut hash = b"valise safety words 1".to_vec();
    for _ in 0..ROUNDS {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&hash);
        context.update(account.as_bytes());
        context.update(root);
        hash = context.finish().as_ref().to_vec();
    }
    words(&hash, WORDS_OF_ONE)
}

/// The words that both devices show while one is linked: the first 66 bits of `h(5200)`, `h(n) =
/// HMAC-SHA-256(link's secret, h(n-1) | device record)`, `h(0) = "valise link words 2"`.
pub fn link_words(secret: &[u8; 16], device: &wire::DeviceRecord) -> Vec<&'static str> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let device = device.encode_to_vec();
    let mut hash = b"valise link words 2".to_vec();
    for _ in 0..ROUNDS {
        let mut context = hmac::Context::with_key(&key);
        context.update(&hash);
        context.update(&device);
        hash = context.sign().as_ref().to_vec();
    }
    words(&hash, WORDS_OF_LINK)
}

fn words(bytes: &[u8], count: usize) -> Vec<&'static str> {
    let list = Language::English.word_list();
    let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
    let index = |word: usize| (0..11).fold(0, |index, i| index << 1 | bit(word * 11 + i));
    (0..count).map(|word| list[index(word)]).collect()
}

/// What to do with a contact's words.
pub fn next(name: &str, verified: bool) -> String {
    if verified {
        format!(
            "You have compared these words with {name}. If {name} ever shows others, somebody may be between you: \
             do not write anything you would not say aloud, and meet."
        )
    } else {
        format!(
            "Meet {name}, or call where you know the voice, and read the words to each other. All the same: say so here, \
             and the conversation is marked as verified. Any other: say so too, write nothing more, and ask {name} for \
             a new invite in person."
        )
    }
}

/// What to do when a contact's account key has changed without the old one's signature.
pub fn next_after_reset(name: &str) -> String {
    format!(
        "The account key of {name} has changed, and the old one has not signed that. Either {name} has lost everything \
         and begun anew, or this is somebody else. Ask {name} in person. If it was {name}: accept the new identity, \
         then compare these words. If not: block."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_twelve_words_and_nobody_else_does() {
        let (a, b, c) = (AccountId([1; 32]), AccountId([2; 32]), AccountId([3; 32]));
        let words = safety_words((&a, &[7; 32]), (&b, &[8; 32]));
        assert_eq!(words.len(), 12);
        assert_eq!(words, safety_words((&b, &[8; 32]), (&a, &[7; 32])));
        let other = safety_words((&a, &[7; 32]), (&b, &[9; 32]));
        assert_eq!(words[..6], other[..6]);
        assert_ne!(words[6..], other[6..], "another root key");
        assert_ne!(words, safety_words((&a, &[7; 32]), (&c, &[8; 32])));
    }

    #[test]
    fn indices_are_eleven_bits_each() {
        assert_eq!(words(&[0; 8], 4), ["abandon"; 4]);
        assert_eq!(words(&[255; 8], 4), ["zoo"; 4]);
        assert_eq!(
            words(&[0, 0x20, 0x04, 0, 0x80, 0x10], 4),
            ["ability", "ability", "ability", "ability"]
        );
    }
}
