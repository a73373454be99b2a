//! What the operator should know about the identity, and why it cannot be opened.

use std::fmt;
use std::path::PathBuf;

use valise_proto::limits::REALM_RECORD_LIST_MAX;
use valise_proto::{RealmError, RealmId};

use super::key_file::KeyFileError;
use super::state_directory::StateError;
use crate::token::TokenKeysError;

/// Something the operator should read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A new realm was made.
    NewRealm {
        /// Its id.
        realm: RealmId,
        /// Where its root key lies.
        root_key: PathBuf,
    },
    /// The record was signed again.
    Resigned {
        /// Its new epoch.
        epoch: u64,
        /// Why.
        why: &'static str,
    },
    /// The endpoints changed, and there is no root key to say so.
    EndpointsUnsigned {
        /// Where the root key should lie.
        root_key: PathBuf,
    },
    /// The relay's signing key ends, and there is no root key to replace it.
    RenewalDue {
        /// Days left.
        days: u32,
        /// Where the root key should lie.
        root_key: PathBuf,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewRealm { realm, root_key } => write!(
                f,
                "made the new realm {}; its root key is {}: move it to a safe place away from \
                 this machine, the relay starts without it",
                realm.to_text(),
                root_key.display()
            ),
            Self::Resigned { epoch, why } => {
                write!(f, "signed the realm record again, epoch {epoch}: {why}")
            }
            Self::EndpointsUnsigned { root_key } => write!(
                f,
                "the realm record still names the old endpoints; to change it, put the root key \
                 back at {} for one start",
                root_key.display()
            ),
            Self::RenewalDue { days, root_key } => write!(
                f,
                "this relay's signing key ends in {days} days; to renew it, put the root key back \
                 at {} for one start",
                root_key.display()
            ),
        }
    }
}

/// Why the identity cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The state directory, or a file in it.
    #[error(transparent)]
    State(#[from] StateError),
    /// A key file is damaged.
    #[error("{}: {cause}; restore it from a backup of the state directory", .path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: KeyFileError,
    },
    /// The token keys do not make a set.
    #[error("{}: {cause}; restore it from a backup of the state directory", .path.display())]
    TokenKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: TokenKeysError,
    },
    /// The realm record is damaged.
    #[error("{}: {cause}; restore it from a backup of the state directory", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        cause: RealmError,
    },
    /// There is a realm in the directory already.
    #[error("{} has a realm already; a node is made in an empty directory", .0.display())]
    Occupied(PathBuf),
    /// The text for a further node is damaged.
    #[error("this is not a whole file of `valise export-node`; make it again")]
    NodeFile,
    /// No more nodes fit into the record.
    #[error(
        "the realm's record lists {REALM_RECORD_LIST_MAX} relays, and has room for no more: put one \
         out with `valise retire-node` first"
    )]
    NoRoom,
    /// No such node is in the realm, or it is the last one.
    #[error("no other node of the realm has this key, so nothing was changed")]
    NoSuchNode,
    /// The root key is needed.
    #[error("{} is not there, or of another realm; put the root key back for this", .0.display())]
    NoRootKey(PathBuf),
    /// A file that belongs to the others is gone.
    #[error(
        "{} is missing, though {beside} is there; restore it from a backup of the state \
         directory", .path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The file that shows it should exist.
        beside: &'static str,
    },
    /// No relay has run here yet.
    #[error(
        "{} holds no realm yet; start the relay on it once, or name another with \
         --state-directory", .0.display()
    )]
    NoRealm(PathBuf),
    /// The root key is another realm's.
    #[error(
        "{} is the root key of realm {}, but this state directory serves realm {}; put the right \
         key there, or none", .path.display(), .found.to_text(), .expected.to_text()
    )]
    OtherRealm {
        /// The file.
        path: PathBuf,
        /// The realm of that key.
        found: RealmId,
        /// The realm of the record.
        expected: RealmId,
    },
    /// The signing key has expired.
    #[error(
        "this relay's signing key ended {days} days ago, so clients refuse it; put the realm's \
         root key at {} for one start, which renews it", .root_key.display()
    )]
    Expired {
        /// Days since its last day.
        days: u32,
        /// Where the root key should lie.
        root_key: PathBuf,
    },
    /// This relay was put out of the realm.
    #[error(
        "the realm's record does not list this relay's key: it was put out of the realm with `valise \
         retire-node`, so it does not start. Erase its state directory once nothing of it is needed: a \
         supernode's, when its realm has moved. If that was a mistake, remove {} and put the realm's \
         root key beside it for one start, which makes a new one",
        .signing_key.display()
    )]
    PutOut {
        /// The file with its key.
        signing_key: PathBuf,
    },
    /// The signing key is gone.
    #[error(
        "{} is missing; restore it from a backup of the state directory, or put the realm's root key \
         at {} for one start, which makes a new one", .signing_key.display(), .root_key.display()
    )]
    NoSigningKey {
        /// The file.
        signing_key: PathBuf,
        /// Where the root key should lie.
        root_key: PathBuf,
    },
    /// A record would not hold so many.
    #[error("a realm record names 1 to {REALM_RECORD_LIST_MAX} endpoints, not {0}")]
    Endpoints(usize),
    /// They do not fit into a record.
    #[error("the endpoints are too long for a realm record; name fewer or shorter ones")]
    EndpointsTooLong,
}
