//! Many clients that join long before they attach, so that attaching can be measured alone.

use valise_client::connect;

use super::Failure;
use super::crew::{Enrolled, Relay, some_at_a_time};
use crate::account::{self, Account, AccountError};
use crate::progress::Progress;

/// Owners that join on one connection.
const JOINS_PER_CONNECTION: usize = 50;

/// Lets every owner join, many on one connection, so that the connections that are measured later
/// only attach.
pub(super) async fn join_all(relay: &Relay, clients: usize) -> Result<Vec<Account>, Failure> {
    let progress = Progress::counting("joining", clients as u64);
    let mut accounts = Vec::with_capacity(clients);
    while accounts.len() < clients {
        let dial = relay.dial(accounts.len());
        let (connection, _incoming) = connect(&dial).await.map_err(AccountError::Connect)?;
        for _ in 0..JOINS_PER_CONNECTION.min(clients - accounts.len()) {
            accounts.push(account::join(&connection, relay.codes.get(accounts.len())).await?);
            progress.advance();
        }
        connection.close().await;
    }
    Ok(accounts)
}

pub(super) async fn attach_all(
    relay: &Relay,
    accounts: Vec<Account>,
) -> Result<Vec<(Account, account::Live)>, Failure> {
    let one = |(number, account): (usize, Account)| {
        let dial = relay.dial(number);
        async move {
            let live = Box::pin(account.attach_patiently(&dial)).await?;
            Ok((account, live))
        }
    };
    let mut attached = Vec::with_capacity(accounts.len());
    let accounts = accounts.into_iter().enumerate();
    some_at_a_time("connecting", accounts, one, |one| attached.push(one)).await?;
    Ok(attached)
}

/// Everyone gets a capability for its own mailbox: the one message goes to oneself.
pub(super) async fn issue_all(
    attached: Vec<(Account, account::Live)>,
) -> Result<Vec<Enrolled>, Failure> {
    let one = |(account, live): (Account, account::Live)| async move {
        let capabilities = live.capabilities(1).await?;
        Ok(Enrolled { account, live, capabilities })
    };
    let mut enrolled = Vec::with_capacity(attached.len());
    some_at_a_time("capabilities", attached.into_iter(), one, |one| enrolled.push(one)).await?;
    Ok(enrolled)
}
