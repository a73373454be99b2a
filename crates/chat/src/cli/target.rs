//! Whom a command means: a number, a name, or the beginning of an id. What fits several is refused,
//! for anybody can call themselves like a friend of yours.

use valise_chat_core::api::{Contact, Conversation, ConversationNumber, Member};

use crate::printable::printable_line;

/// The beginning of an id counts from this length on.
const PREFIX_MIN: usize = 4;

/// Candidates that are named.
const CANDIDATES_SHOWN: usize = 8;

/// Nobody, or several, are meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nobody and nothing.
    #[error("there is no {what} {name:?}{}; `valise-chat {list}` shows all", perhaps(.similar))]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// By this.
        name: String,
        /// Names that are not it, and perhaps were meant.
        similar: Vec<String>,
        /// The command that lists them.
        list: &'static str,
    },
    /// Several.
    #[error("{name:?} can be {}; use the number or the id", .candidates.join(", or "))]
    Ambiguous {
        /// What was asked.
        name: String,
        /// What it fits.
        candidates: Vec<String>,
    },
    /// A contact without a conversation.
    #[error("there is no conversation with {name:?} yet; invite that person anew")]
    NoConversation {
        /// Whose.
        name: String,
    },
}

fn perhaps(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!(", but {}", similar.join(" and ")) }
}

/// One that may be meant.
#[derive(Debug, Clone)]
struct Candidate<'a, T> {
    value: T,
    names: Vec<&'a str>,
    id: &'a str,
    /// For people.
    shown: String,
}

/// The conversation that is meant: by its number, its title, or its person.
///
/// # Errors
/// [`TargetError`].
pub(super) fn conversation(
    name: &str,
    conversations: &[Conversation],
    contacts: &[Contact],
) -> Result<ConversationNumber, TargetError> {
    if let Ok(number) = name.trim_start_matches('#').parse()
        && conversations.iter().any(|known| known.number == number)
    {
        return Ok(number);
    }
    let mut candidates = Vec::new();
    for known in conversations {
        let contact =
            contacts.iter().find(|contact| Some(&contact.account) == known.account.as_ref());
        let mut names = vec![known.title.as_str()];
        names.extend(contact.into_iter().flat_map(|contact| [&*contact.name, &*contact.petname]));
        let shown = format!("{} ({})", known.number, printable_line(&known.title));
        let id = known.account.as_deref().unwrap_or_default();
        candidates.push(Candidate { value: known.number, names, id, shown });
    }
    match one(name, &candidates) {
        Err(None) => match contact(name, contacts) {
            Ok(_) => Err(TargetError::NoConversation { name: name.to_owned() }),
            Err(error @ TargetError::Ambiguous { .. }) => Err(error),
            Err(_) => Err(unknown("conversation", name, &candidates, "list")),
        },
        Err(Some(error)) => Err(error),
        Ok(number) => Ok(number),
    }
}

/// The contact's account that is meant.
///
/// # Errors
/// [`TargetError`].
pub(super) fn contact(name: &str, contacts: &[Contact]) -> Result<String, TargetError> {
    let candidates = contacts.iter().map(|contact| {
        let names = vec![contact.name.as_str(), contact.petname.as_str()];
        person(&contact.account, names)
    });
    person_of("contact", name, candidates.collect(), "contacts")
}

/// The member's account that is meant.
///
/// # Errors
/// [`TargetError`].
pub(super) fn member(name: &str, members: &[Member]) -> Result<String, TargetError> {
    let candidates = members.iter().map(|member| person(&member.account, vec![&member.name]));
    person_of("member", name, candidates.collect(), "group members")
}

/// The device that is meant, out of ids with names.
///
/// # Errors
/// [`TargetError`].
pub(super) fn device<'a>(
    name: &str,
    devices: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<String, TargetError> {
    let candidates = devices.map(|(id, called)| person(id, vec![called]));
    person_of("device", name, candidates.collect(), "devices")
}

fn person_of(
    what: &'static str,
    name: &str,
    candidates: Vec<Candidate<'_, String>>,
    list: &'static str,
) -> Result<String, TargetError> {
    let unknown = || unknown(what, name, &candidates, list);
    one(name, &candidates).map_err(|error| error.unwrap_or_else(unknown))
}

/// Nobody is taken for another whose name is only like what was said; those are named.
fn unknown<T>(
    what: &'static str,
    name: &str,
    candidates: &[Candidate<'_, T>],
    list: &'static str,
) -> TargetError {
    let folded = name.trim().to_lowercase();
    let is_similar = |candidate: &&Candidate<'_, T>| {
        let mut names = candidate.names.iter();
        !folded.is_empty() && names.any(|known| known.to_lowercase().contains(&folded))
    };
    let similar = candidates.iter().filter(is_similar).take(CANDIDATES_SHOWN);
    let similar = similar.map(|candidate| candidate.shown.clone()).collect();
    TargetError::Unknown { what, name: name.to_owned(), similar, list }
}

fn person<'a>(id: &'a str, names: Vec<&'a str>) -> Candidate<'a, String> {
    let called = names.iter().rev().find(|name| !name.is_empty()).copied().unwrap_or_default();
    let short = id.get(..12).unwrap_or(id);
    let shown = format!("{short} ({})", printable_line(called));
    Candidate { value: id.to_owned(), names, id, shown }
}

/// The one that fits; the error is `None` if none does. A whole name or id counts before the
/// beginning of an id.
fn one<T: Clone>(name: &str, candidates: &[Candidate<'_, T>]) -> Result<T, Option<TargetError>> {
    let name = name.trim();
    let folded = name.to_lowercase();
    if folded.is_empty() {
        return Err(None);
    }
    let is_named = |candidate: &Candidate<'_, T>| {
        candidate.id == folded || candidate.names.iter().any(|known| known.to_lowercase() == folded)
    };
    let begins = |candidate: &Candidate<'_, T>| {
        folded.len() >= PREFIX_MIN && candidate.id.starts_with(&folded)
    };
    let mut fitting: Vec<_> = candidates.iter().filter(|candidate| is_named(candidate)).collect();
    if fitting.is_empty() {
        fitting = candidates.iter().filter(|candidate| begins(candidate)).collect();
    }
    match fitting.as_slice() {
        [] => Err(None),
        [only] => Ok(only.value.clone()),
        several => {
            let shown = several.iter().take(CANDIDATES_SHOWN).map(|one| one.shown.clone());
            let candidates = shown.collect();
            Err(Some(TargetError::Ambiguous { name: name.to_owned(), candidates }))
        }
    }
}

#[cfg(test)]
mod tests {
    use valise_chat_core::api::ConversationKind;

    use super::*;

    fn direct(number: i64, title: &str, account: &str) -> Conversation {
        Conversation {
            number,
            kind: ConversationKind::Direct,
            title: title.to_owned(),
            account: Some(account.to_owned()),
            members: 2,
            unread: 0,
            last: None,
            muted: false,
            blocked: false,
            verified: false,
            disappear_seconds: 0,
            closed: None,
            waiting: None,
        }
    }

    fn group(number: i64, title: &str) -> Conversation {
        let direct = direct(number, title, "");
        Conversation { kind: ConversationKind::Group, account: None, ..direct }
    }

    fn known(account: &str, name: &str, petname: &str) -> Contact {
        Contact {
            account: account.to_owned(),
            name: name.to_owned(),
            petname: petname.to_owned(),
            verified: false,
            blocked: false,
            conversation: None,
            identity_reset: false,
        }
    }

    #[test]
    fn conversations_are_found_by_number_name_and_id() {
        let conversations = [
            direct(1, "Ann", "aaaa1111"),
            direct(2, "Sis", "aaaa2222"),
            group(3, "Friends"),
            group(4, "1"),
        ];
        let contacts = [known("aaaa1111", "Ann", ""), known("aaaa2222", "Beth", "Sis")];
        let find = |name: &str| conversation(name, &conversations, &contacts);
        let table = [
            ("1", 1),
            ("#3", 3),
            ("ann", 1),
            ("Sis", 2),
            ("beth", 2),
            (" Friends ", 3),
            ("aaaa2", 2),
            ("AAAA1111", 1),
        ];
        for (name, number) in table {
            assert_eq!(find(name), Ok(number), "{name}");
        }
        for name in ["", "5", "Ann2", "aaa", "zzzz"] {
            assert!(matches!(find(name), Err(TargetError::Unknown { .. })), "{name}");
        }
        assert!(matches!(find("aaaa"), Err(TargetError::Ambiguous { .. })));
    }

    /// A first name alone is not obeyed: whoever calls themselves so would get what is for another.
    #[test]
    fn who_is_perhaps_meant_is_named_and_not_taken() {
        let contacts = [known("aaaa1111bbbb2222", "Ann Lee", ""), known("cccc", "Bob", "")];
        let text = contact("ann", &contacts).unwrap_err().to_string();
        let expected = "there is no contact \"ann\", but aaaa1111bbbb (Ann Lee); `valise-chat \
                        contacts` shows all";
        assert_eq!(text, expected);
        let text = contact("Zed", &contacts).unwrap_err().to_string();
        assert_eq!(text, "there is no contact \"Zed\"; `valise-chat contacts` shows all");
        let conversations = [direct(1, "Ann Lee", "aaaa1111bbbb2222")];
        let text = conversation("lee", &conversations, &contacts).unwrap_err().to_string();
        assert!(text.contains("no conversation \"lee\", but 1 (Ann Lee);"), "{text}");
    }

    #[test]
    fn nobody_takes_the_name_of_another() {
        let conversations = [direct(1, "Bob", "bbbb1111"), direct(2, "bob", "bbbb2222")];
        let error = conversation("Bob", &conversations, &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("1 (Bob)") && text.contains("2 (bob)"), "{text}");
    }

    #[test]
    fn a_contact_without_a_conversation_says_so() {
        let error = conversation("Ann", &[], &[known("aaaa1111", "Ann", "")]).unwrap_err();
        assert!(matches!(error, TargetError::NoConversation { .. }));
    }

    #[test]
    fn devices_are_found_by_name_and_id() {
        let devices = [("dddd1111", "laptop"), ("dddd2222", "phone")];
        assert_eq!(device("phone", devices.into_iter()), Ok("dddd2222".to_owned()));
        assert_eq!(device("dddd1", devices.into_iter()), Ok("dddd1111".to_owned()));
        assert!(device("dddd", devices.into_iter()).is_err());
    }
}
