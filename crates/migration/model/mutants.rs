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
    /// S aborts by itself and goes back to no log.
    AbortAlone,
    /// The fenced supernode serves.
    ServeFenced,
    /// Entries that are newer than the seal's version are agreed to by an older seal: S lowers
    /// the version it is sealed for.
    SealLowered,
}

impl Mutant {
    pub const ALL: [Self; 27] = [
        Self::UnsealByTimeout,
        Self::UnsealWithoutVersion,
        Self::ActivateEarly,
        Self::ActivateBlindly,
        Self::ImportBlindly,
        Self::AcceptSealed,
        Self::ExportVolatile,
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
}
