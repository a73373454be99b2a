//! The relay introduces itself; the client believes it or leaves without a word.

use std::future::poll_fn;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use valise_proto::{
    Channel, RealmError, RealmId, RealmRecord, ServerPacket, VERSION, Welcome, statement,
};

use crate::transport::{Read, Transport};
use crate::{ConnectError, Dial};

/// What the relay's `Welcome` lacks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpeningError {
    /// The realm record proves nothing, or is about another realm.
    #[error(transparent)]
    Realm(#[from] RealmError),
    /// The realm was seen at a higher epoch: this relay no longer serves it, or does not know.
    #[error("the relay shows epoch {got} of the realm, but epoch {known} is known")]
    EpochBehind {
        /// The relay's epoch.
        got: u64,
        /// The epoch seen before.
        known: u64,
    },
    /// The key is not one of the realm's relay keys, or its last day has passed.
    #[error("the realm record does not list the relay's signing key for today")]
    KeyNotListed,
    /// The signature does not cover this connection: someone stands between, or it was replayed.
    #[error("the relay's signature does not fit this connection's certificate")]
    Signature,
    /// The relay has no version in common with this client.
    #[error("the relay speaks the protocol versions {0:?}; this client speaks {VERSION}")]
    Version(Vec<u32>),
    /// The first packet was not `Welcome`.
    #[error("the relay did not introduce itself first")]
    NotWelcome,
}

/// A relay that has proven itself.
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) channel: Channel,
    pub(crate) welcome: Welcome,
    pub(crate) record: RealmRecord,
    /// Packets that came in the same read as `Welcome`.
    pub(crate) early: Vec<Bytes>,
}

/// Waits for `Welcome` and checks it. Writes nothing.
pub(crate) async fn open(
    mut transport: Transport,
    channel: Channel,
    dial: &Dial,
) -> Result<Opened, ConnectError> {
    let mut early = Vec::new();
    while early.is_empty() {
        let mut keep = |packet| {
            early.push(packet);
            Ok(())
        };
        let read = poll_fn(|cx| transport.poll_read(cx, &mut keep)).await?;
        if read == Read::End && early.is_empty() {
            return Err(ConnectError::EndedEarly(None));
        }
    }
    let first = ServerPacket::<Bytes>::decode(early.remove(0));
    let welcome = match first.map_err(|error| ConnectError::Broken(error.into()))? {
        ServerPacket::Welcome(welcome) => *welcome,
        ServerPacket::Closing(reason) => return Err(ConnectError::EndedEarly(reason)),
        _ => return Err(OpeningError::NotWelcome.into()),
    };
    let record = verify(&welcome, &dial.address.realm, &channel, dial.realm_epoch, today())?;
    Ok(Opened { transport, channel, welcome, record, early })
}

/// Everything a client checks before it sends a byte: that the record is the realm's, that it is
/// not older than what is known, that it lists the signing key for `today` (days since 1970-01-01),
/// and that this key signed for this very channel.
///
/// # Errors
/// [`OpeningError`] says what does not hold.
pub fn verify(
    welcome: &Welcome,
    realm: &RealmId,
    channel: &Channel,
    known_epoch: u64,
    today: u32,
) -> Result<RealmRecord, OpeningError> {
    let record = welcome.realm_record.verify(realm)?;
    if record.epoch < known_epoch {
        return Err(OpeningError::EpochBehind { got: record.epoch, known: known_epoch });
    }
    if !record.lists(&welcome.signing_key, today) {
        return Err(OpeningError::KeyNotListed);
    }
    let statement =
        statement::welcome(realm, channel, &welcome.nonce, &welcome.versions, welcome.features);
    if !welcome.signing_key.verifies(&statement, &welcome.signature) {
        return Err(OpeningError::Signature);
    }
    if !welcome.versions.contains(&VERSION) {
        return Err(OpeningError::Version(welcome.versions.clone()));
    }
    Ok(record)
}

/// Days since 1970-01-01. A clock set before that day believes every key: day 0.
fn today() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() / 86_400).unwrap_or(u32::MAX)
}
