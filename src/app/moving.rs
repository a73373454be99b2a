//! What a supernode needs to move into a data centre.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::{Ground, StartError};
use crate::committer::Committer;
use crate::config::Config;
use crate::disk::{Allowed, Disk};
use crate::engines::Local;
use crate::migration::peer::{self, KEY_FILE};
use crate::migration::{
    Clients, Exporter, Holdings, KeyError, Passing, PeerKey, Port, Shards, Supernode, signed_out,
};
use crate::relay::{Relay, today};

/// What runs beside a relay that may move.
pub(super) struct Moving {
    /// Of the port, where there is one.
    pub(super) address: Option<SocketAddr>,
    pub(super) tasks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Makes it ready, where there is a port for an importer or shards have begun to move.
pub(super) async fn prepare(
    config: &Config,
    ground: &Ground,
    local: &Local,
    committer: &Committer,
    disk: &Arc<Disk>,
) -> Result<Option<Moving>, StartError> {
    let Some(shards) = Shards::of(committer) else { return Ok(None) };
    if config.migration.is_none() && !shards.is_moving() {
        return Ok(None);
    }
    let (identity, metrics) = (Arc::clone(&ground.identity), ground.metrics.clone());
    let own = config.endpoints_for(&ground.addresses);
    let clients = Clients::new(shards.clone(), Arc::clone(&identity), metrics.clone(), own);
    let clients = Arc::new(clients);
    let passing = Arc::new(Passing::new(metrics.clone()));
    local.may_move(Arc::clone(&clients), Arc::clone(&passing));
    let mut moving = Moving { address: None, tasks: Vec::new() };
    if let Some(migration) = &config.migration {
        let path = ground.state.file(KEY_FILE);
        let key = PeerKey::open_or_make(&path)?;
        let tls = peer::server_config(&key, &migration.importer);
        let tls = tls.map_err(|_| KeyError::Damaged(path))?;
        let exporter = Exporter {
            shards,
            passing: Arc::clone(&passing),
            clients: Arc::clone(&clients),
            identity,
            metrics,
            supernode: Arc::new(Holder {
                committer: committer.clone(),
                allowed: disk.allowed(),
                disk: Arc::clone(disk),
            }),
        };
        let address = migration.listen;
        let failed = |source| StartError::Bind { address, source };
        let port = Port::bind(address, tls, exporter).await.map_err(failed)?;
        let address = port.address().map_err(failed)?;
        tracing::info!(%address, pin = %key.pin(), "an importer may connect");
        moving.address = Some(address);
        moving.tasks.push(Box::pin(port.run()));
    } else {
        tracing::warn!(
            "shards of this relay are being moved, or have moved, and no importer can connect: set \
             migration.listen and migration.importer"
        );
    }
    moving.tasks.push(Box::pin(clients.run()));
    moving.tasks.push(Box::pin(async move { passing.run().await }));
    Ok(Some(moving))
}

/// The record in force may be another one.
pub(super) fn look_at_the_realm(relay: &Relay, committer: &Committer) {
    let identity = relay.identity();
    if let Some(shards) = Shards::of(committer)
        && !identity.is_listed()
    {
        signed_out(&shards, identity.epoch());
    }
}

/// This relay, as an importer asks about it.
struct Holder {
    committer: Committer,
    allowed: Allowed,
    disk: Arc<Disk>,
}

impl Supernode for Holder {
    fn holdings(&self) -> Holdings {
        Holdings {
            frames: self.committer.totals().queued(),
            bytes: self.disk.files(),
            mailbox_bytes_max: self.allowed.mailbox_bytes_max(),
        }
    }

    fn today(&self) -> u32 {
        today().into()
    }
}
