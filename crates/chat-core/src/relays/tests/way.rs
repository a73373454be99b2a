//! A way to a relay that can go quiet and can break, and that counts who takes it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use valise_client::SocksProxy;
use valise_client::proto::RelayAddress;

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) enum Mood {
    #[default]
    Friendly,
    /// Everything stays open, and nothing is carried.
    Quiet,
    /// What is open breaks.
    Broken,
}

pub(super) struct Way {
    pub(super) address: RelayAddress,
    mood: watch::Sender<Mood>,
    /// So many have come, so many are there.
    counts: Arc<watch::Sender<(u32, u32)>>,
}

impl Way {
    pub(super) async fn to(relay: &RelayAddress) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mood, moods) = watch::channel(Mood::default());
        let counts = Arc::new(watch::Sender::new((0, 0)));
        let (target, counted) = (relay.port, counts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counted.send_modify(|(come, there)| (*come, *there) = (*come + 1, *there + 1));
                let (counted, moods) = (counted.clone(), moods.clone());
                tokio::spawn(async move {
                    carry(client, target, moods).await;
                    counted.send_modify(|(_, there)| *there -= 1);
                });
            }
        });
        let address = RelayAddress { port, host: "127.0.0.1".to_owned(), realm: relay.realm };
        Self { address, mood, counts }
    }

    pub(super) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(super) fn come(&self) -> u32 {
        self.counts.borrow().0
    }

    /// Waits until so many are there.
    pub(super) async fn there(&self, count: u32) {
        self.counts.subscribe().wait_for(|(_, there)| *there == count).await.unwrap();
    }
}

async fn carry(mut client: TcpStream, target: u16, mut moods: watch::Receiver<Mood>) {
    let mut relay = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
    loop {
        let mood = *moods.borrow_and_update();
        match mood {
            // What lies in the copy's buffer is lost with it, so a connection that was quiet once
            // is of no use any more.
            Mood::Friendly => tokio::select! {
                _ = copy_bidirectional(&mut client, &mut relay) => return,
                _ = moods.changed() => {}
            },
            Mood::Quiet => drop(moods.changed().await),
            Mood::Broken => return,
        }
    }
}

/// A SOCKS5 proxy for which every host is this machine. It notes the names it is asked for.
pub(super) async fn proxy() -> (SocksProxy, watch::Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (names, asked) = watch::channel(Vec::new());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut greeting = [0; 3];
            client.read_exact(&mut greeting).await.unwrap();
            client.write_all(&[5, 0]).await.unwrap();
            let mut head = [0; 4];
            client.read_exact(&mut head).await.unwrap();
            let host = match head {
                [5, 1, 0, 1] => Ipv4Addr::from(client.read_u32().await.unwrap()).to_string(),
                [5, 1, 0, 3] => {
                    let mut name = vec![0; client.read_u8().await.unwrap().into()];
                    client.read_exact(&mut name).await.unwrap();
                    String::from_utf8(name).unwrap()
                }
                other => panic!("asked for {other:?}"),
            };
            let port = client.read_u16().await.unwrap();
            names.send_modify(|names| names.push(host));
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            let mut relay = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut relay).await });
        }
    });
    (SocksProxy { host: "127.0.0.1".to_owned(), port, credentials: None }, asked)
}
