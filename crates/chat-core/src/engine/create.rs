//! How a profile begins: a new account, a new device of one, or an account from its export.

use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message as _;
use valise_client::{
    Connection, Dial, OwnerKeyPair, RequestError, Visit, VisitError, enroll, random,
};
use valise_proto::{Reason, RelayAddress, Token};

use super::core::now_ms;
use super::own;
use super::records::{ONLY, state};
use super::{Engine, EngineError, Options};
use crate::api::{Command, Event};
use crate::identity::{AccountId, InviteLink, RootKey, SignedRecord};
use crate::seal::{HpkeKeyPair, item};
use crate::vault::{Cost, Passphrase, Vault, open_file};
use crate::wire;

/// How long a relay that is busy is asked again.
const BUSY_MAX: Duration = Duration::from_secs(60);

/// What a new account needs.
#[derive(Debug, Clone)]
pub struct NewProfile {
    /// The user's name, as others see it.
    pub name: String,
    /// The relay the mailbox is at.
    pub relay: RelayAddress,
    /// The relay's invite code, where it asks for one.
    pub join_code: Option<Token>,
    /// What this device is called among the user's own.
    pub device_name: String,
}

/// Makes an account with its first device, joins the relay, and writes the profile.
///
/// # Errors
/// [`EngineError`]; nothing is left behind then.
pub async fn create(
    directory: &Path,
    passphrase: &Passphrase,
    new: NewProfile,
    options: &Options,
) -> Result<(), EngineError> {
    refuse_existing(directory)?;
    let name = super::commands::check_name(&new.name)?;
    let root = RootKey::generate();
    let mut me = state::Me {
        account: random::bytes::<32>().to_vec(),
        root_seed: root.seed().to_vec(),
        notice_secret: random::bytes::<32>().to_vec(),
        relay: new.relay.to_string(),
        name,
        device: random::bytes::<16>().to_vec(),
        device_name: new.device_name,
        card_version: 1,
        relay_policy: super::permits::ASK,
        ..Default::default()
    };
    new_device_keys(&mut me)?;
    let account = AccountId(super::outgoing::bytes_of(&me.account)?);
    let notice = notice_key(&me)?;
    let record = SignedRecord::first(&root, account, own::device_record(&me)?, notice);
    let record = record.map_err(|error| EngineError::Invalid(error.to_string()))?;
    me.signed_record = wire::SignedRecord::from(record).encode_to_vec();
    join_relay(&mut me, new.join_code.as_ref(), options).await?;
    write(directory, passphrase, options.cost, &me, Kept::default())
}

/// Makes a profile for a new device of an existing account, and waits until it was confirmed on the
/// other device. `words` gets what both screens show.
///
/// # Errors
/// [`EngineError`]; a profile that waits is removed again.
pub async fn create_linked(
    directory: &Path,
    passphrase: &Passphrase,
    link: &str,
    device_name: &str,
    options: Options,
    words: impl FnOnce(&[String]),
) -> Result<(), EngineError> {
    refuse_existing(directory)?;
    let link: InviteLink =
        link.parse().map_err(|error| EngineError::Invalid(format!("this is no link: {error}")))?;
    let offer = read_offer(&link, &options).await?;
    let mut me = state::Me {
        relay: offer.relay.clone(),
        device: random::bytes::<16>().to_vec(),
        device_name: device_name.to_owned(),
        account: offer.account.clone(),
        link_secret: link.secret().to_vec(),
        link_offer: offer.encode_to_vec(),
        relay_policy: super::permits::ASK,
        ..Default::default()
    };
    new_device_keys(&mut me)?;
    me.device_since_ms = now_ms();
    let code = Token::try_from(offer.join_code.as_slice()).ok();
    join_relay(&mut me, code.as_ref(), &options).await?;
    let shown = super::link::link_words(&me.link_secret, &own::device_record(&me)?);
    write(directory, passphrase, options.cost, &me, Kept::default())?;
    words(&shown);
    let engine = Engine::open(directory, passphrase, options)?;
    let mut events = engine.events();
    let patience = tokio::time::sleep(Duration::from_millis(super::link::LINK_MS_MAX));
    tokio::pin!(patience);
    let linked = loop {
        tokio::select! {
            event = events.recv() => match event {
                // The engine says so in words when it is linked; the status is the proof.
                Ok(Event::Notice { .. })
                    if engine.call(Command::Devices {}).await.is_ok() => break Ok(()),
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                    break Err(EngineError::Invalid("the engine ended before the link".to_owned()));
                }
            },
            () = &mut patience => {
                break Err(EngineError::Invalid("nobody confirmed the new device in a day".to_owned()));
            }
        }
    };
    engine.close().await;
    if linked.is_err() {
        Vault::remove(directory)?;
    }
    linked
}

/// Makes a profile from an export: a new device, and every device before is given up. `join_code` is
/// the relay's invite code, where it asks for one.
///
/// # Errors
/// [`EngineError`].
pub async fn restore(
    directory: &Path,
    passphrase: &Passphrase,
    file: &[u8],
    file_passphrase: &Passphrase,
    join_code: Option<&Token>,
    options: &Options,
) -> Result<(), EngineError> {
    refuse_existing(directory)?;
    let plain = open_file(file_passphrase, file)?;
    let export = state::Export::decode(plain.as_slice())
        .map_err(|_| EngineError::Invalid("the export is not of this program".to_owned()))?;
    let mut me = super::recovery::from_export(&export);
    "restored".clone_into(&mut me.device_name);
    new_device_keys(&mut me)?;
    let root = own::root(&me)?;
    let known = wire::SignedRecord::decode(export.signed_record.as_slice())
        .ok()
        .and_then(|record| SignedRecord::try_from(record).ok())
        .ok_or_else(|| EngineError::Invalid("the export's account record is damaged".to_owned()))?;
    let record = known
        .with_only(&root, own::device_record(&me)?)
        .map_err(|error| EngineError::Invalid(error.to_string()))?;
    me.signed_record = wire::SignedRecord::from(record).encode_to_vec();
    join_relay(&mut me, join_code, options).await?;
    let kept = (export.contacts, export.groups, export.relays);
    write(directory, passphrase, options.cost, &me, kept)
}

fn refuse_existing(directory: &Path) -> Result<(), EngineError> {
    if Vault::exists(directory) {
        return Err(EngineError::Exists(directory.to_owned()));
    }
    Ok(())
}

/// Everything that belongs to this device alone.
fn new_device_keys(me: &mut state::Me) -> Result<(), EngineError> {
    let hpke = HpkeKeyPair::generate();
    me.signature_seed = random::bytes::<32>().to_vec();
    me.hpke_secret = hpke.seed().to_vec();
    me.hpke_public = hpke.public().0.to_vec();
    me.owner_key = random::bytes::<32>().to_vec();
    me.bundle_key = random::bytes::<32>().to_vec();
    me.device_since_ms = now_ms();
    Ok(())
}

fn notice_key(me: &state::Me) -> Result<[u8; 32], EngineError> {
    let seed = super::outgoing::bytes_of(&me.notice_secret)?;
    Ok(HpkeKeyPair::from_seed(&seed).public().0)
}

async fn join_relay(
    me: &mut state::Me,
    code: Option<&Token>,
    options: &Options,
) -> Result<(), EngineError> {
    let address: RelayAddress =
        me.relay.parse().map_err(|error| EngineError::Invalid(format!("the relay: {error}")))?;
    let owner = OwnerKeyPair::from_seed(&super::outgoing::bytes_of(&me.owner_key)?);
    let mut dial = Dial::new(address);
    dial.proxy.clone_from(&options.relays.proxy);
    let until = Instant::now() + BUSY_MAX;
    let enrolled = loop {
        match enroll(&dial, &owner, code, 0, 1).await {
            // A relay lets only so many in at once from one place.
            Err(VisitError::Request(RequestError::Refused {
                reason: Some(Reason::RateLimited | Reason::Busy),
                retry_after_ms,
            })) if Instant::now() < until => {
                let wait = Duration::from_millis(u64::from(retry_after_ms).clamp(200, 5_000));
                tokio::time::sleep(wait).await;
            }
            enrolled => break enrolled?,
        }
    };
    me.member_token = enrolled.member_token.as_bytes().to_vec();
    me.member_token_ms = now_ms();
    Ok(())
}

async fn read_offer(link: &InviteLink, options: &Options) -> Result<wire::LinkOffer, EngineError> {
    let mut dial = Dial::new(link.relay.clone());
    dial.proxy.clone_from(&options.relays.proxy);
    let slots = [link.device_slot()];
    let mut visit = Visit::new(&dial);
    let read = |connection: Connection| async move { connection.get_slots(&slots).await };
    let values = visit.ask(read).await?;
    visit.close().await;
    let value = values.into_iter().next().flatten().ok_or_else(|| {
        let text =
            "there is nothing behind this link: it was mistyped or is too old; make a new one";
        EngineError::Invalid(text.to_owned())
    })?;
    let content = item::open(&link.device_key(), &value).ok();
    content.and_then(|content| wire::LinkOffer::decode(content.as_slice()).ok()).ok_or_else(|| {
        EngineError::Invalid("this is no link of a device; make a new one".to_owned())
    })
}

/// What an export has beside the account: contacts, groups, relays that may be contacted.
type Kept = (Vec<Vec<u8>>, Vec<state::ComingBack>, Vec<String>);

fn write(
    directory: &Path,
    passphrase: &Passphrase,
    cost: Cost,
    me: &state::Me,
    (contacts, groups, relays): Kept,
) -> Result<(), EngineError> {
    Vault::create_with(directory, passphrase, cost, |tx| {
        tx.put(ONLY, me)?;
        for contact in contacts {
            let Ok(contact) = wire::ContactSync::decode(contact.as_slice()) else { continue };
            let Some(card) = contact.card else { continue };
            let record = card.record.clone().and_then(|record| SignedRecord::try_from(record).ok());
            let Some(record) = record else { continue };
            tx.insert(&state::Person {
                account: record.record().account.as_bytes().to_vec(),
                signed_record: card.record.clone().unwrap_or_default().encode_to_vec(),
                name: card.name.clone(),
                petname: contact.petname,
                verified: contact.verified,
                blocked: contact.blocked,
                card: card.encode_to_vec(),
                ..Default::default()
            })?;
        }
        for group in groups {
            tx.insert(&group)?;
        }
        for address in relays {
            tx.insert(&state::Relay { address, allowed: true, ..Default::default() })?;
        }
        Ok::<(), EngineError>(())
    })
    .map(drop)
}
