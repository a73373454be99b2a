//! Cards: how a stranger reaches an account. What others send is bounded before anything is kept of it.

use std::collections::HashSet;

use prost::Message as _;

use super::record::DEVICES_MAX;
use crate::wire;

/// A card has at most so many bytes: a record, sixteen devices and a name have fewer.
pub const CARD_BYTES_MAX: usize = 16 * 1024;

/// Whether a card is small enough, names no more devices than an account can have, and none twice.
pub fn is_sound(card: &wire::Card) -> bool {
    let mut devices = HashSet::new();
    card.encoded_len() <= CARD_BYTES_MAX
        && card.devices.len() <= DEVICES_MAX
        && card.devices.iter().all(|device| devices.insert(&device.device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_bounded() {
        let device = |id: u8| wire::DeviceCard { device: vec![id; 16], ..Default::default() };
        let devices: Vec<_> = (0..16).map(device).collect();
        let card = wire::Card { devices, name: "Ann".to_owned(), ..Default::default() };
        assert!(is_sound(&card));
        let long = wire::Card { name: "x".repeat(CARD_BYTES_MAX), ..Default::default() };
        assert!(!is_sound(&long));
        let mut many = card.clone();
        many.devices.push(device(16));
        assert!(!is_sound(&many));
        let mut twice = card;
        twice.devices[1] = device(0);
        assert!(!is_sound(&twice));
    }
}
