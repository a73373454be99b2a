//! Why something is not done. Whose fault it is decides what follows.

use serde::{Deserialize, Serialize};

/// One name for each reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    // To a client. The same names are on the wire.
    /// Nobody may answer for the shard at this moment. Try again, with the same id.
    #[error("the shard is in between: try again")]
    Busy,
    /// The other side serves it.
    #[error("the shard is served elsewhere")]
    Moved,

    // To an importer that is behind the times: it asks again and finds out.
    /// The ledger or the shard belongs to another migration.
    #[error("this is about another migration")]
    OtherMigration,
    /// The ledger has a later version, or the shard has agreed to a later one.
    #[error("the version has been overtaken")]
    Overtaken,
    /// The ledger was not made for this life of the supernode's process.
    #[error("the ledger was made for another start of the supernode")]
    OtherBoot,
    /// The cursor is elsewhere.
    #[error("the cursor is not there")]
    NotThere,
    /// The data centre owns the shard: there is no way back in this epoch.
    #[error("the data centre owns the shard")]
    Owned,
    /// The migration was given up.
    #[error("the migration was given up")]
    GivenUp,
    /// It cannot be done from the state the machine is in.
    #[error("not from this state")]
    OutOfOrder,

    // To the operator: it does not get better by itself.
    /// The supernode's log is not the one that was copied: it was restored from a backup.
    #[error("the supernode's log is not the log that was copied")]
    Diverged,
    /// Something is left at the supernode that is not at the data centre, or somebody uses it.
    #[error("something is left at the supernode")]
    Left,
    /// A newer record of the realm is about: this process serves it no more.
    #[error("a newer record of the realm exists")]
    Fenced,
}
