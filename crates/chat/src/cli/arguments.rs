//! The command line: what can be asked for, and the words that explain it.

// What a structure holds is said by its variant of `Action`, once: it is the help text.
#![allow(missing_docs)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use valise_pages::Shell;
use valise_proto::{RelayAddress, Token};

pub use super::relays::{RelayAction, Relays};

const AFTER_HELP: &str = "\
To begin:
  valise-chat init --relay valise://HOST:PORT/REALM --name Ann    your account, on a relay you know
  valise-chat invite                                              a link and a QR code for one person
  valise-chat join LINK --name Bob                                that person; an account is made, if there is none
  valise-chat                                                     chat

For scripts: send, tail --json, and daemon --stdio (JSON-RPC). What is asked goes to the process
that holds the profile, if one does; so `send` works while the terminal UI is open.

Environment: VALISE_CHAT_PROFILE, VALISE_CHAT_PASSPHRASE_FILE, VALISE_CHAT_PASSPHRASE, NO_COLOR.

Exit codes (sysexits): 0 done, 64 wrong use, 65 wrong data, 66 no such profile, 69 the relay or the
other side cannot do it, 70 a fault of this program, 73 a file cannot be made, 74 disk or terminal
failed, 75 not now, try again, 77 not allowed.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "valise-chat",
    version,
    about = "Chat that only the two ends can read, over a Valise relay",
    after_help = AFTER_HELP
)]
pub struct Arguments {
    /// Where and how.
    #[command(flatten)]
    pub place: Place,
    /// What to do; none: the terminal UI.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What every command needs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Profile")]
pub struct Place {
    /// The profile's directory [default: valise-chat/default in the XDG data directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub profile: Option<PathBuf>,
    /// A file whose first line is the profile's passphrase
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "no_passphrase")]
    pub passphrase_file: Option<PathBuf>,
    /// A new profile's secret is random and kept in the system's keyring, which opens with the login
    #[arg(long, global = true, conflicts_with_all = ["passphrase_file", "no_passphrase"])]
    pub keyring: bool,
    /// A new profile has no passphrase: whoever gets its files can read everything
    #[arg(long, global = true)]
    pub no_passphrase: bool,
    /// Relays of others may be on this machine or in a private network
    #[arg(long, global = true)]
    pub allow_private_relays: bool,
    /// Reach every relay through this SOCKS5 proxy, so that none sees your network address
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub proxy: Option<String>,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Make a profile: a new account on a relay, or with --link a new device of your account
    Init(Init),
    /// Make a link for one person, and wait until that person has joined
    Invite(Invite),
    /// Follow the link that somebody gave you; makes a profile on its relay if you have none
    Join(Join),
    /// Send a message, and wait until the relay has it
    Send(Send),
    /// Show messages as they come
    Tail(Tail),
    /// List the conversations, the newest first
    List(Json),
    /// Show the last messages of a conversation
    History(History),
    /// List the people you know
    Contacts(Json),
    /// Talk with several people
    #[command(subcommand)]
    Group(Group),
    /// List the devices of your account, or link and remove them
    Devices(Devices),
    /// List the relays of others that you write to, or allow and forbid them
    Relays(Relays),
    /// Compare words with somebody, to know that nobody sits between you
    Verify(Verify),
    /// Trust somebody whose account key has changed; ask that person before
    Trust {
        /// A contact's name, petname, or the beginning of its account id
        who: String,
    },
    /// Change your own name, as others see it
    Name {
        /// The new name
        name: String,
    },
    /// Give a contact a name of your own, that only you see; an empty one takes it away
    Petname {
        /// A contact's name, petname, or the beginning of its account id
        who: String,
        /// The name that you see from now on
        name: String,
    },
    /// Take nothing from a contact any more
    Block {
        /// A contact's name, petname, or the beginning of its account id
        who: String,
    },
    /// Take messages from a contact again
    Unblock {
        /// A contact's name, petname, or the beginning of its account id
        who: String,
    },
    /// Do not count a conversation's messages as unread
    Mute {
        /// A conversation's number or name
        to: String,
    },
    /// Count a conversation's messages as unread again
    Unmute {
        /// A conversation's number or name
        to: String,
    },
    /// Let messages from now on disappear after they were shown
    Disappear {
        /// A conversation's number or name
        to: String,
        /// How long they stay: 30s, 5m, 8h, 7d, 4w; or off
        #[arg(value_parser = super::duration::seconds)]
        duration: u32,
    },
    /// Write a file that brings the account back on another device
    Export(Export),
    /// Make a profile from an exported file; the account's devices until now are given up
    Restore(Restore),
    /// Hold the profile and serve it to other front ends and to bots, as JSON-RPC
    Daemon {
        /// Serve standard input and output too, one object per line, and end with the input
        #[arg(long)]
        stdio: bool,
    },
    /// Change what opens the profile: a passphrase, the keyring, or nothing
    Passphrase(ChangePassphrase),
    /// Revoke what was handed out and remove every file of the profile
    RemoveProfile(RemoveProfile),
    /// Show who you are, and whether the relay is connected
    Status(Json),
    /// Print the script by which a shell completes the commands
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the man pages and shell completions of this program
    #[command(hide = true)]
    Man {
        /// The directory to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

impl Action {
    /// Whether doing it twice is as doing it once: it looks, or makes something so.
    pub(super) fn is_repeatable(&self) -> bool {
        match self {
            Self::List(_)
            | Self::History(_)
            | Self::Contacts(_)
            | Self::Group(Group::Members { .. })
            | Self::Verify(_)
            | Self::Name { .. }
            | Self::Petname { .. }
            | Self::Block { .. }
            | Self::Unblock { .. }
            | Self::Mute { .. }
            | Self::Unmute { .. }
            | Self::Disappear { .. }
            | Self::Status(_) => true,
            Self::Devices(devices) => {
                matches!(devices.action, None | Some(DeviceAction::Requests(_)))
            }
            Self::Relays(_) => true,
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Init {
    /// The relay that keeps your mailbox
    #[arg(long, value_name = "valise://HOST:PORT/REALM", required_unless_present = "link")]
    pub relay: Option<RelayAddress>,
    /// The link that `devices link` showed on a device of your account
    #[arg(long, value_name = "LINK", conflicts_with = "relay")]
    pub link: Option<String>,
    /// The relay's invite code, if it asks for one
    #[arg(long, value_name = "CODE", value_parser = Token::from_text, conflicts_with = "link")]
    pub code: Option<Token>,
    /// Your name, as others see it
    #[arg(long, conflicts_with = "link")]
    pub name: Option<String>,
    /// What your other devices call this one [default: the name of this machine]
    #[arg(long, value_name = "NAME")]
    pub device_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Invite {
    /// Show the link and end: do not wait until it was followed
    #[arg(long)]
    pub no_wait: bool,
    /// Do not show a QR code
    #[arg(long)]
    pub no_qr: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Join {
    /// valise://HOST:PORT/REALM#SECRET
    pub link: String,
    /// The link's relay may be contacted though you do not know it: it sees your network address
    #[arg(long)]
    pub allow_relay: bool,
    /// Your name, as others see it, for a profile that is made now
    #[arg(long)]
    pub name: Option<String>,
    /// The relay's invite code, if it asks for one, for a profile that is made now
    #[arg(long, value_name = "CODE", value_parser = Token::from_text)]
    pub code: Option<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Send {
    /// A conversation's number, the name of a contact or group, or the beginning of an account id
    pub to: String,
    /// The message; none or `-`: from standard input
    pub text: Vec<String>,
    /// How long to wait for the relay, then exit 75; the message is kept and sent later in any case
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub wait: u32,
    /// Sending again with the same key does nothing: for scripts that try again
    #[arg(long)]
    pub key: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Tail {
    /// One JSON object per message and line
    #[arg(long)]
    pub json: bool,
    /// Only this conversation
    #[arg(long, value_name = "TO")]
    pub conversation: Option<String>,
    /// Begin with the messages after this number; 0: all
    #[arg(long, value_name = "NUMBER")]
    pub since: Option<i64>,
    /// Count what is shown as read, and say so to its senders
    #[arg(long)]
    pub read: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct History {
    /// A conversation's number, the name of a contact or group, or the beginning of an account id
    pub to: String,
    /// How many messages
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// One JSON object per message and line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Json {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Group {
    /// Make a group with people you know
    Create {
        /// The group's name
        name: String,
        /// Contacts
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Add a contact
    Add {
        /// The group's number or name
        group: String,
        /// A contact
        who: String,
    },
    /// Remove a member; what comes after it cannot read
    Remove {
        /// The group's number or name
        group: String,
        /// A member's name or the beginning of its account id
        who: String,
    },
    /// Leave a group
    Leave {
        /// The group's number or name
        group: String,
    },
    /// Give a group another name
    Rename {
        /// The group's number or name
        group: String,
        /// The new name
        name: String,
    },
    /// List the members
    Members {
        /// The group's number or name
        group: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask to be added again to a group that this device has lost track of
    Rejoin {
        /// The group's number or name
        group: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Devices {
    /// None: list them
    #[command(subcommand)]
    pub action: Option<DeviceAction>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DeviceLink {
    #[command(flatten)]
    pub shown: Invite,
    /// The relay's invite code for the new device, if the relay asks for one
    #[arg(long, value_name = "CODE", value_parser = Token::from_text)]
    pub code: Option<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum DeviceAction {
    /// Show the link for a new device (`init --link` there), and wait until it asks
    Link(DeviceLink),
    /// List the devices that ask to be linked
    Requests(Json),
    /// Link a device, after you have compared the words on both screens
    Confirm {
        /// The device's id or its beginning
        device: String,
    },
    /// Refuse a device
    Reject {
        /// The device's id or its beginning
        device: String,
    },
    /// Remove a device from the account, for example a lost one
    Remove {
        /// The device's id, its beginning, or its name
        device: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Verify {
    /// A contact's name, petname, or the beginning of its account id
    pub who: String,
    /// The words were the same on both sides
    #[arg(long, conflicts_with = "different")]
    pub same: bool,
    /// The words were not the same
    #[arg(long)]
    pub different: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Export {
    /// The file to make
    pub file: PathBuf,
    /// A file whose first line is the passphrase for the exported file
    #[arg(long, value_name = "FILE")]
    pub file_passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Restore {
    /// The exported file
    pub file: PathBuf,
    /// A file whose first line is the passphrase of the exported file
    #[arg(long, value_name = "FILE")]
    pub file_passphrase_file: Option<PathBuf>,
    /// The relay's invite code, if it asks for one
    #[arg(long, value_name = "CODE", value_parser = Token::from_text)]
    pub code: Option<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ChangePassphrase {
    /// A file whose first line is the new passphrase; without it one is asked for
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to_keyring", "to_none"])]
    pub new_passphrase_file: Option<PathBuf>,
    /// From now on the system's keyring keeps a random secret that opens the profile
    #[arg(long, conflicts_with = "to_none")]
    pub to_keyring: bool,
    /// From now on nothing is needed: whoever gets the profile's files can read everything
    #[arg(long)]
    pub to_none: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RemoveProfile {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The passphrase is forgotten: only remove the files; what was handed out ends by itself
    #[arg(long)]
    pub files_only: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("valise-chat").chain(line.split_whitespace()))
    }

    fn action(line: &str) -> Action {
        parse(line).unwrap().action.unwrap()
    }

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_command_is_the_terminal() {
        let arguments = parse("--profile /p --no-passphrase").unwrap();
        assert_eq!(arguments.action, None);
        assert_eq!(arguments.place.profile, Some("/p".into()));
    }

    #[test]
    fn lines_are_understood() {
        let invite = Invite { no_wait: true, no_qr: false };
        let send = Send {
            to: "Ann".to_owned(),
            text: vec!["see".to_owned(), "you".to_owned()],
            wait: 3,
            key: None,
            json: false,
        };
        let table = [
            ("invite --no-wait", Action::Invite(invite.clone())),
            ("send Ann see you --wait 3", Action::Send(send)),
            ("list --json", Action::List(Json { json: true })),
            ("disappear 4 8h", Action::Disappear { to: "4".to_owned(), duration: 28_800 }),
            ("disappear 4 off", Action::Disappear { to: "4".to_owned(), duration: 0 }),
            (
                "group create Friends Ann Bob",
                Action::Group(Group::Create {
                    name: "Friends".to_owned(),
                    members: vec!["Ann".to_owned(), "Bob".to_owned()],
                }),
            ),
            ("devices", Action::Devices(Devices { action: None, json: false })),
            (
                "devices link --no-wait",
                Action::Devices(Devices {
                    action: Some(DeviceAction::Link(DeviceLink { shown: invite, code: None })),
                    json: false,
                }),
            ),
            ("daemon --stdio", Action::Daemon { stdio: true }),
        ];
        for (line, expected) in table {
            assert_eq!(action(line), expected, "{line}");
        }
        let address = format!("valise://relay.example:7443/{}", "a".repeat(32));
        for line in [format!("init --relay {address} --name Ann"), "init --link L".to_owned()] {
            assert!(matches!(action(&line), Action::Init(_)), "{line}");
        }
        // Options of the profile may stand before and after the command.
        for line in ["--profile /p list", "list --profile /p"] {
            assert_eq!(parse(line).unwrap().place.profile, Some("/p".into()), "{line}");
        }
    }

    #[test]
    fn lines_are_refused() {
        let table = [
            "init",
            "init --name Ann",
            "init --relay nowhere",
            "init --link L --name Ann",
            "send",
            "group create Friends",
            "group remove Friends",
            "disappear 4 soon",
            "verify Ann --same --different",
            "history Ann --limit 0",
            "list --passphrase-file f --no-passphrase",
            "list --keyring --no-passphrase",
            "list --keyring --passphrase-file f",
            "passphrase --to-keyring --to-none",
            "passphrase --to-none --new-passphrase-file f",
            "fly",
        ];
        for line in table {
            assert!(parse(line).is_err_and(|error| error.use_stderr()), "{line}");
        }
    }
}
