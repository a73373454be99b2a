//! A short stay at a realm, by somebody who is not served there yet: to become a member, to read a
//! slot. While the realm is being moved, what one place refuses `moved` is asked at the next one.

use tokio::time::sleep;
use valise_proto::RelayAddress;

use crate::limits::MOVED_TRIES;
use crate::places::Places;
use crate::trial::{Reached, reach};
use crate::{Backoff, ConnectError, Connection, Dial, RequestError, random};

/// A visitor of a realm; connected from the first question on. Dropped, the connection is closed.
pub struct Visit {
    // Static after construction.
    dial: Dial,
    // Changed by what is asked.
    places: Places,
    reached: Option<Reached>,
    /// The place that has said `moved` last: it is asked again after all others.
    left: Option<RelayAddress>,
}

/// A visitor got no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// The realm could not be reached, or not be trusted.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It said no.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Visit {
    /// Of the realm that is dialled; connects to nobody yet.
    pub fn new(dial: &Dial) -> Self {
        Self { dial: dial.clone(), places: Places::new(dial), reached: None, left: None }
    }

    /// Asks something. What is refused `moved` is asked again at another place that the realm's
    /// record lists, and so to and fro for some seconds; a last refusal is the answer.
    ///
    /// # Errors
    /// [`VisitError`].
    pub async fn ask<T, F: Future<Output = Result<T, RequestError>>>(
        &mut self,
        request: impl Fn(Connection) -> F,
    ) -> Result<T, VisitError> {
        let mut tries = 0;
        loop {
            let reached = self.reached().await?;
            match request(reached.connection.clone()).await {
                Err(error) if error.is_moved() && tries + 1 < MOVED_TRIES => tries += 1,
                answer => return Ok(answer?),
            }
            if let Some(reached) = self.reached.take() {
                self.places.said_moved(&reached.at);
                self.left = Some(reached.at);
            }
            // The other side is asked at once, when this was the first.
            if tries > 1 {
                sleep(Backoff::RETRY.wait(tries, random::fraction())).await;
            }
        }
    }

    async fn reached(&mut self) -> Result<&Reached, ConnectError> {
        let reached = match self.reached.take() {
            Some(reached) => reached,
            None => {
                let mut dial = self.dial.clone();
                dial.realm_epoch = dial.realm_epoch.max(self.places.epoch());
                let places = match &self.left {
                    Some(left) => [self.places.others(left), vec![left.clone()]].concat(),
                    None => self.places.candidates(),
                };
                let trial = reach(dial, places).await;
                trial.learn(&self.dial.address, &mut self.places)?
            }
        };
        Ok(self.reached.insert(reached))
    }

    /// Says goodbye.
    pub async fn close(self) {
        if let Some(reached) = self.reached {
            reached.connection.close().await;
        }
    }
}
