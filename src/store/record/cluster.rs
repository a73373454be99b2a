//! Records that only a data centre has: a mailbox's revoked tokens in one, and claims.

use bytes::Bytes;

use super::{sealed, take, unseal};
use crate::store::StoreError;

/// The record of all revoked tokens of a mailbox: serial 8, last day 2 of each.
pub(in crate::store) fn encode_revocations(serials: &[([u8; 8], u16)]) -> Bytes {
    let bytes: Vec<u8> = serials
        .iter()
        .flat_map(|(serial, last_day)| serial.iter().copied().chain(last_day.to_be_bytes()))
        .collect();
    sealed(&[&bytes])
}

/// Reads [`encode_revocations`] back.
pub(in crate::store) fn decode_revocations(
    record: &[u8],
) -> Result<Vec<([u8; 8], u16)>, StoreError> {
    const WHAT: &str = "revocations";
    let mut rest = unseal(record, WHAT)?;
    let mut serials = Vec::with_capacity(rest.len() / 10);
    while !rest.is_empty() {
        let serial = take(&mut rest, WHAT)?;
        serials.push((serial, u16::from_be_bytes(take(&mut rest, WHAT)?)));
    }
    Ok(serials)
}

/// The record of a claim: a nonce, by which nobody is known.
pub(in crate::store) fn encode_claim(nonce: &[u8; 16]) -> Bytes {
    sealed(&[nonce])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocations_survive_their_record() {
        let serials = vec![([1; 8], 20_000), ([2; 8], u16::MAX)];
        let record = encode_revocations(&serials);
        assert_eq!(decode_revocations(&record).expect("intact"), serials);
        assert_eq!(decode_revocations(&encode_revocations(&[])).expect("intact"), []);
        for len in 0..record.len() {
            assert!(decode_revocations(&record[..len]).is_err(), "{len}");
        }
    }
}
