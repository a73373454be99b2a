//! What every start begins with: sockets, keys, a certificate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use valise_migration::{Boot, Epoch};
use valise_proto::RelayAddress;

use super::StartError;
use crate::config::Config;
use crate::identity::{
    DEVELOPMENT_LEAF, DEVELOPMENT_LEAF_KEY, Identity, Nodes, Notice, StateDirectory,
    development_certificate,
};
use crate::listener;
use crate::metrics::Metrics;
use crate::relay::today;
use crate::shards::Shards;
use crate::store::{ShardKey, Store, StoreError};
use crate::tls::{CertificateFiles, Tls};

/// What every start begins with.
pub(super) struct Ground {
    pub(super) sockets: Vec<TcpListener>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) state: StateDirectory,
    pub(super) address: RelayAddress,
    pub(super) identity: Arc<Identity>,
    pub(super) notices: Vec<Notice>,
    pub(super) tls: Tls,
    pub(super) ca: Option<PathBuf>,
    pub(super) metrics: Metrics,
}

impl Ground {
    /// Binds, and opens keys and certificate.
    pub(super) fn prepare(config: &Config, nodes: Nodes) -> Result<Self, StartError> {
        let sockets = bind_all(config)?;
        let addresses: Vec<SocketAddr> =
            sockets.iter().map(|socket| socket.local_addr().expect("it is bound")).collect();
        let state = StateDirectory::open(&config.state_directory)?;
        let endpoints = config.endpoints_for(&addresses);
        let (identity, notices) = Identity::open_as(nodes, &state, &endpoints, u32::from(today()))?;
        let (files, ca) = certificate(config, &state)?;
        let tls = Tls::load(files)?;
        let address = address(&endpoints, &identity);
        let (identity, metrics) = (Arc::new(identity), Metrics::new());
        Ok(Self { sockets, addresses, state, address, identity, notices, tls, ca, metrics })
    }

    /// The realm's shards, as the store has left them.
    pub(super) fn shards(&self, store: &dyn Store) -> Result<Arc<Shards>, StoreError> {
        let mut boot = [0; 16];
        aws_lc_rs::rand::fill(&mut boot).expect("the system has random bytes");
        let identity = &self.identity;
        let record = identity.record().verify(&identity.realm());
        let epoch = Epoch(record.map(|record| record.epoch).unwrap_or_default());
        let key = ShardKey::new(&identity.shard_key());
        let shards = Shards::new(key, Boot(u128::from_be_bytes(boot)), epoch);
        if let Some(logs) = store.logs() {
            shards.restart(logs)?;
        }
        Ok(Arc::new(shards))
    }
}

/// Binds every configured address. One that was not configured moves to the next free port.
fn bind_all(config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let bind =
        |address| listener::bind(address).map_err(|source| StartError::Bind { address, source });
    if !config.listen_or_next_free {
        return config.listen.iter().map(|address| bind(*address)).collect();
    }
    let first = config.listen[0];
    let free = (first.port()..first.port().saturating_add(PORTS_TRIED))
        .find_map(|port| listener::bind(SocketAddr::new(first.ip(), port)).ok());
    free.map_or_else(|| bind(first).map(|socket| vec![socket]), |socket| Ok(vec![socket]))
}

/// How many ports are tried when none was configured.
const PORTS_TRIED: u16 = 100;

fn certificate(
    config: &Config,
    state: &StateDirectory,
) -> Result<(CertificateFiles, Option<PathBuf>), StartError> {
    if let Some(files) = &config.certificate {
        return Ok((files.clone(), None));
    }
    let ca = development_certificate(state)?;
    let certificate = state.file(DEVELOPMENT_LEAF);
    Ok((CertificateFiles { certificate, key: state.file(DEVELOPMENT_LEAF_KEY) }, Some(ca)))
}

fn address(endpoints: &[String], identity: &Identity) -> RelayAddress {
    let first = endpoints.first().expect("there is always an endpoint");
    let text = format!("valise://{first}/{}", identity.realm().to_text());
    text.parse().expect("the configuration has checked the endpoint")
}
