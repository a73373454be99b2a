//! What the user can do beside writing: one table, from which the palette, the slash commands and
//! the help are made.

use valise_chat_core::api::{Conversation, ConversationKind};

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Invite,
    Join,
    Group,
    Add,
    Remove,
    Members,
    Verify,
    Petname,
    Mute,
    Unmute,
    Disappear,
    Block,
    Unblock,
    Accept,
    Rename,
    Rejoin,
    Leave,
    Devices,
    Relays,
    Name,
    Export,
    Help,
    Quit,
}

/// How an action is called and explained.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) action: Action,
    /// As it is typed: `/invite`.
    pub(crate) name: &'static str,
    /// What may follow the name.
    pub(crate) argument: &'static str,
    pub(crate) about: &'static str,
}

const fn entry(
    action: Action,
    name: &'static str,
    argument: &'static str,
    about: &'static str,
) -> Entry {
    Entry { action, name, argument, about }
}

/// Every action, the ones of the first minutes first.
pub(crate) const ENTRIES: &[Entry] = &[
    entry(Action::Invite, "invite", "", "invite a person: a link and a QR code"),
    entry(Action::Join, "join", "LINK", "follow a link that somebody gave you"),
    entry(Action::Group, "group", "NAME", "start a group"),
    entry(Action::Add, "add", "NAME", "add a person to this group"),
    entry(Action::Remove, "remove", "NAME", "remove a person from this group"),
    entry(Action::Members, "members", "", "who is here"),
    entry(Action::Verify, "verify", "", "compare words: is it really this person?"),
    entry(Action::Petname, "petname", "NAME", "call this person by a name of your own"),
    entry(Action::Mute, "mute", "", "no marks and no bell for this conversation"),
    entry(Action::Unmute, "unmute", "", "marks and bell again"),
    entry(Action::Disappear, "disappear", "", "let new messages disappear after a time"),
    entry(Action::Block, "block", "", "this person can post to you no more"),
    entry(Action::Unblock, "unblock", "", "let this person post again"),
    entry(Action::Accept, "accept", "", "go on with a person whose identity is new"),
    entry(Action::Rename, "rename", "NAME", "give this group another name"),
    entry(Action::Rejoin, "rejoin", "", "ask to be added to this group again"),
    entry(Action::Leave, "leave", "", "leave this group"),
    entry(Action::Devices, "devices", "", "your devices: see, add, remove"),
    entry(Action::Relays, "relays", "", "relays of others: which may see your address"),
    entry(Action::Name, "name", "NAME", "your own name, as others see it"),
    entry(Action::Export, "export", "", "save the account to a file, under a passphrase"),
    entry(Action::Help, "help", "", "keys and signs"),
    entry(Action::Quit, "quit", "", "leave; what waits is sent the next time"),
];

impl Action {
    /// Whether it makes sense where the user is.
    pub(crate) fn fits(self, open: Option<&Conversation>) -> bool {
        let direct = open.is_some_and(|open| open.kind == ConversationKind::Direct);
        let group = open.is_some_and(|open| open.kind == ConversationKind::Group);
        match self {
            Self::Invite | Self::Join | Self::Group | Self::Devices | Self::Name => true,
            Self::Relays => true,
            Self::Export | Self::Help | Self::Quit => true,
            Self::Add | Self::Remove | Self::Rename | Self::Rejoin | Self::Leave => group,
            Self::Members | Self::Verify | Self::Petname | Self::Disappear => open.is_some(),
            Self::Mute => open.is_some_and(|open| !open.muted),
            Self::Unmute => open.is_some_and(|open| open.muted),
            Self::Block => group || open.is_some_and(|open| direct && !open.blocked),
            Self::Unblock => group || open.is_some_and(|open| direct && open.blocked),
            Self::Accept => group || open.is_some_and(|open| direct && open.closed.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_words_and_unique() {
        for (at, entry) in ENTRIES.iter().enumerate() {
            assert!(entry.name.chars().all(|c| c.is_ascii_lowercase()), "{}", entry.name);
            assert!(ENTRIES[..at].iter().all(|other| other.name != entry.name), "{}", entry.name);
        }
    }
}
