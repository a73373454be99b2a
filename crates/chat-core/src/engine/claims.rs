//! Members of a group who use the account of somebody we know under another root key. Whoever added
//! them has vouched for them, and nobody else: they are shown as what they are, never as the contact.

use super::core::Core;
use super::fault::Fault;
use super::records::state;
use crate::identity::{AccountId, RootPublicKey};
use crate::mls::Leaf;
use crate::vault::Transaction;
use crate::wire::group_info::Kind;

/// What to do about one, after who it is.
const NEXT: &str = "Nothing it says is shown, but what you write here, it can read.";

impl Core {
    /// Whether a leaf uses another root key than the one that is known of its account.
    pub(super) fn is_claimed(&self, tx: &Transaction<'_>, leaf: &Leaf) -> Result<bool, Fault> {
        self.is_other_root(tx, leaf.account, leaf.root_key)
    }

    /// Whether this is not the root key that is known of the account.
    pub(super) fn is_other_root(
        &self,
        tx: &Transaction<'_>,
        account: AccountId,
        root_key: RootPublicKey,
    ) -> Result<bool, Fault> {
        let known = match tx.find::<state::Person>(account.as_bytes())? {
            Some((_, person)) => self.root_of(&person),
            None => None,
        };
        Ok(known.is_some_and(|(_, root)| root != *root_key.as_bytes()))
    }

    /// What a member of a group is called.
    pub(super) fn member_name(&self, tx: &Transaction<'_>, leaf: &Leaf) -> Result<String, Fault> {
        let name = self.name_of(tx, leaf.account.as_bytes(), Some(&leaf.member.name))?;
        Ok(if self.is_claimed(tx, leaf)? {
            format!("somebody who claims to be {name}")
        } else {
            name
        })
    }

    /// What the account is called in a group that it is in.
    pub(super) fn name_there(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        account: &[u8],
    ) -> Result<String, Fault> {
        let roster = self.group(tx, row)?.roster();
        match roster.iter().find(|leaf| leaf.account.as_bytes()[..] == *account) {
            Some(leaf) => self.member_name(tx, leaf),
            None => self.name_of(tx, account, None),
        }
    }

    /// Somebody was added: the words of the notice.
    pub(super) fn added_words(
        &self,
        tx: &Transaction<'_>,
        leaf: &Leaf,
        adder: &str,
    ) -> Result<String, Fault> {
        let who = self.member_name(tx, leaf)?;
        if !self.is_claimed(tx, leaf)? {
            return Ok(format!("{who} was added by {adder}"));
        }
        let (who, name) = (capital(&who), self.name_of(tx, leaf.account.as_bytes(), None)?);
        let ask = if adder == "you" { "Remove it" } else { &format!("Ask {adder} who that is") };
        Ok(format!(
            "{who} was added by {adder}, with another account key than the one you know of {name}. {NEXT} {ask}, or leave \
             the group."
        ))
    }

    /// Tells of everybody in a group who uses a known account with another key: of one account, or of
    /// all. Called when the group is new here, or when the account's key is.
    pub(super) fn tell_claims(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        of: Option<&[u8]>,
    ) -> Result<(), Fault> {
        let Some(stored) = tx.get::<state::Group>(row)? else { return Ok(()) };
        if stored.kind != Kind::Group as u32 || !stored.active {
            return Ok(());
        }
        let mut told = Vec::new();
        for leaf in self.group(tx, row)?.roster() {
            let account = leaf.account.as_bytes();
            if of.is_some_and(|of| of != account) || told.contains(account) {
                continue;
            }
            told.push(*account);
            if self.is_claimed(tx, &leaf)? {
                let who = capital(&self.member_name(tx, &leaf)?);
                let name = self.name_of(tx, account, None)?;
                let text = format!(
                    "{who} is in this group, with another account key than the one you know of {name}. {NEXT} Ask who \
                     added it, or leave the group."
                );
                self.add_notice(tx, stored.conversation, &text)?;
            }
        }
        Ok(())
    }

    /// An account's key is known now, or is another one: groups may have somebody else under it.
    pub(super) fn tell_claims_of(
        &mut self,
        tx: &Transaction<'_>,
        account: &[u8],
    ) -> Result<(), Fault> {
        for (row, _) in tx.all::<state::Group>()? {
            self.tell_claims(tx, row, Some(account))?;
        }
        Ok(())
    }
}

/// A sentence begins with it.
fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
