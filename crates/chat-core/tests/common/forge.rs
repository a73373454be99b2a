//! Profiles as no engine makes them: what a hostile client would have on its disk.

use valise_chat_core::vault::{Record, Vault, VaultError};

use super::{Person, passphrase};

/// `Me` of `state.proto`, as far as the profiles of these tests have it: it is written back whole.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Me {
    #[prost(bytes = "vec", tag = "1")]
    pub account: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub root_seed: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub notice_secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub device: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub signature_seed: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub hpke_secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    pub hpke_public: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    pub owner_key: Vec<u8>,
    #[prost(string, tag = "9")]
    pub relay: String,
    #[prost(bytes = "vec", tag = "10")]
    pub member_token: Vec<u8>,
    #[prost(uint64, tag = "11")]
    pub member_token_ms: u64,
    #[prost(string, tag = "12")]
    pub name: String,
    #[prost(string, tag = "13")]
    pub device_name: String,
    #[prost(bytes = "vec", tag = "14")]
    pub bundle_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "15")]
    pub signed_record: Vec<u8>,
    #[prost(bool, tag = "16")]
    pub bundle_published: bool,
    #[prost(uint64, tag = "21")]
    pub card_version: u64,
    #[prost(uint64, tag = "23")]
    pub device_since_ms: u64,
    #[prost(uint64, tag = "24")]
    pub bundle_ms: u64,
    /// Fields that came later; 0 in a profile of before.
    #[prost(uint32, tag = "25")]
    pub relay_policy: u32,
}

impl Record for Me {
    const KIND: u8 = 1;
}

/// Changes the owner of a profile whose engine is stopped.
pub fn me(person: &Person, change: impl FnOnce(&mut Me)) {
    let mut vault = Vault::open(&person.path(), &passphrase()).unwrap();
    vault
        .write(|tx| {
            let mut me = tx.get::<Me>(1)?.unwrap();
            change(&mut me);
            tx.put(1, &me)
        })
        .unwrap();
}

/// What these tests read of `Person` of `state.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Contact {
    #[prost(bytes = "vec", tag = "1")]
    pub account: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    pub card: Vec<u8>,
}

impl Record for Contact {
    const KIND: u8 = 2;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.account.clone())
    }
}

/// All rows of a kind, of a profile whose engine is stopped.
pub fn rows<T: Record>(person: &Person) -> Vec<T> {
    let vault = Vault::open(&person.path(), &passphrase()).unwrap();
    let contents = |rows: Vec<(i64, T)>| rows.into_iter().map(|(_, row)| row).collect();
    vault.read(|tx| tx.all::<T>().map(contents)).unwrap()
}

/// `Sibling` of `state.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sibling {
    #[prost(bytes = "vec", tag = "1")]
    pub device: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub card: Vec<u8>,
}

impl Record for Sibling {
    const KIND: u8 = 21;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.device.clone())
    }
}

/// `Relay` of `state.proto`, its address only.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AskedRelay {
    #[prost(string, tag = "1")]
    pub address: String,
}

impl Record for AskedRelay {
    const KIND: u8 = 25;

    fn lookup(&self) -> Option<Vec<u8>> {
        Some(self.address.clone().into_bytes())
    }
}

/// Changes every row of a kind, of a profile whose engine is stopped.
pub fn change<T: Record>(person: &Person, mut change: impl FnMut(&mut T)) {
    let mut vault = Vault::open(&person.path(), &passphrase()).unwrap();
    let changed = vault.write(|tx| {
        for (id, mut row) in tx.all::<T>()? {
            change(&mut row);
            tx.put(id, &row)?;
        }
        Ok::<_, VaultError>(())
    });
    changed.unwrap();
}

/// Removes every row of a kind.
pub fn clear<T: Record>(person: &Person) {
    let mut vault = Vault::open(&person.path(), &passphrase()).unwrap();
    vault.write(|tx| tx.remove_all::<T>(0)).unwrap();
}
