//! Rules, each broken in one place of the world around the machines.

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// S lets a sealed shard serve again on its own, as after a timeout.
    UnsealByTimeout,
    /// S un-seals when it sees the very version it is sealed for, so no version was voided.
    UnsealWithoutVersion,
    /// ACTIVATE without the cursor at the seal's end.
    ActivateEarly,
    /// ACTIVATE lands whatever the ledger says by then.
    ActivateBlindly,
    /// A batch lands whatever the cursor is by then.
    ImportBlindly,
    /// S enters and acknowledges while it is sealed.
    AcceptSealed,
    /// S gives entries to the importer that are not on its disk.
    ExportVolatile,
    /// S answers `accepted` before the entry is on its disk.
    AnswerVolatile,
    /// The importer does not wait for removals.
    RemoveLater,
    /// A removal means any migration's places.
    RemoveAnyMigration,
    /// After a start S serves at once.
    ServeUnsure,
    /// S takes a ledger that was made for an earlier start.
    ShowAnyBoot,
    /// The removal after an abort takes what came later, too.
    ClearEverything,
    /// A new migration begins without that removal.
    OpenUncleared,
    /// Revocations are not imported.
    ForgetRevocations,
    /// Slots are not imported.
    ForgetSlots,
    /// Spent codes are not imported.
    ForgetCodes,
    /// What was handed out is not removed.
    ForgetTakes,
    /// What has expired is not removed.
    ForgetExpiries,
    /// A sender has two frames of one lane under way.
    Pipeline,
    /// A shard in FORWARD serves again after a restart.
    ForwardReturns,
    /// S wipes a shard that is sealed.
    WipeSealed,
    /// C takes posts while S is the owner.
    AcceptUnowned,
    /// S ends attachments with `Replaced`.
    ReplacedOnMove,
    /// A sealed S aborts by itself and goes back to no log.
    AbortAlone,
    /// The fenced supernode serves.
    ServeFenced,
    /// Owner and cursor are two records: an import compares the cursor alone, an activation the
    /// owner alone.
    TwoRecords,
    /// S lowers the version it is sealed for.
    SealLowered,
}

impl Mutant {
    /// Each breaks something that the explorer finds.
    pub const ALL: [Self; 26] = [
        Self::UnsealByTimeout,
        Self::UnsealWithoutVersion,
        Self::ActivateEarly,
        Self::ActivateBlindly,
        Self::ImportBlindly,
        Self::AcceptSealed,
        Self::AnswerVolatile,
        Self::RemoveLater,
        Self::RemoveAnyMigration,
        Self::ServeUnsure,
        Self::ShowAnyBoot,
        Self::ClearEverything,
        Self::OpenUncleared,
        Self::ForgetRevocations,
        Self::ForgetSlots,
        Self::ForgetCodes,
        Self::ForgetTakes,
        Self::ForgetExpiries,
        Self::Pipeline,
        Self::ForwardReturns,
        Self::WipeSealed,
        Self::AcceptUnowned,
        Self::ReplacedOnMove,
        Self::AbortAlone,
        Self::ServeFenced,
        Self::SealLowered,
    ];

    /// What the other rules make up for. Volatile entries: the digests tell that the log which was
    /// copied is not the one on the disk, and the migration begins anew. Two records: whatever
    /// could come between them needs a new version first.
    pub const SURVIVED: [Self; 2] = [Self::ExportVolatile, Self::TwoRecords];
}
