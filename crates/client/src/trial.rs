//! Finding a place of a realm that answers and proves the realm.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;
use valise_proto::RelayAddress;

use crate::limits::NEXT_PLACE_WAIT;
use crate::places::Places;
use crate::{ConnectError, Connection, Dial, Incoming, OpeningError, connect};

/// A connection to one of several places, or why there is none.
#[derive(Default)]
pub(crate) struct Trial {
    /// Those that were tried in vain.
    failed: Vec<(RelayAddress, ConnectError)>,
    pub(crate) reached: Option<Reached>,
}

/// A connection, and where it leads.
pub(crate) struct Reached {
    pub(crate) connection: Connection,
    pub(crate) incoming: Incoming,
    pub(crate) at: RelayAddress,
}

/// Connects to the first of these places that can be reached and proves the realm. One that takes
/// long is not waited for alone.
pub(crate) async fn reach(dial: Dial, places: Vec<RelayAddress>) -> Trial {
    // A proxy may be slow for all of them.
    let patience = if dial.proxy.is_some() { dial.timeout } else { NEXT_PLACE_WAIT };
    let mut places = places.into_iter();
    let mut failed = Vec::new();
    let mut trying = FuturesUnordered::new();
    loop {
        if let Some(at) = places.next() {
            let dial = Dial { address: at.clone(), ..dial.clone() };
            trying.push(async move { (connect(&dial).await, at) });
        }
        tokio::select! {
            tried = trying.next() => match tried {
                None => return Trial { failed, reached: None },
                Some((Ok((connection, incoming)), at)) => {
                    return Trial { failed, reached: Some(Reached { connection, incoming, at }) };
                }
                Some((Err(error), at)) => failed.push((at, error)),
            },
            () = sleep(patience), if places.len() > 0 => {}
        }
    }
}

impl Trial {
    /// Nothing was found out: the time was over.
    pub(crate) fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.reached.is_none()
    }

    /// Remembers what was found. The error, where nothing was reached: that of the address that was
    /// given, if it was tried.
    pub(crate) fn learn(
        self,
        given: &RelayAddress,
        places: &mut Places,
    ) -> Result<Reached, ConnectError> {
        for (at, error) in &self.failed {
            match error {
                // It may not have heard of the newest record yet.
                ConnectError::Opening(OpeningError::EpochBehind { .. }) => places.silent(at),
                ConnectError::Opening(_) if at != given => places.untrusted(at),
                _ => places.silent(at),
            }
        }
        let Some(reached) = self.reached else {
            let mut errors = self.failed;
            let is_final = |error: &ConnectError| matches!(error, ConnectError::Opening(_));
            let by_given = errors.iter().position(|(at, error)| {
                at == given && !(places.given_is_left() && is_final(error))
            });
            let told = by_given.or_else(|| errors.iter().position(|(_, error)| !is_final(error)));
            let (_, error) = errors.swap_remove(told.unwrap_or(errors.len() - 1));
            return Err(error);
        };
        let connection = &reached.connection;
        places.reached(&reached.at, connection.record(), &connection.welcome().realm_record);
        Ok(reached)
    }
}
