//! Pipes bytes from one terminal to another, through a relay.
//!
//! ```text
//! cargo run -p valise-client --example pipe_file -- receive valise://127.0.0.1:7443/REALM > out
//! cargo run -p valise-client --example pipe_file -- send TICKET < in
//! ```
//!
//! The receiver prints the ticket. What is sent waits at the relay while the receiver is away, and
//! arrives whole and in order even if the relay is killed on the way. This example seals nothing:
//! the relay could read along. A chat client seals what it puts into a frame.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use data_encoding::HEXLOWER;
use tokio::runtime::Runtime;
use valise_client::proto::{RelayAddress, Token};
use valise_client::{
    Client, ConversationId, Dial, Envelope, Inbox, MESSAGE_BYTES_MAX, OwnerKeyPair, Settlement,
    StreamId, Ticket, TransportKind, Update, Updates, enroll,
};

/// Pipes bytes from one terminal to another, through a relay.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Go through HTTPS, as in networks that let nothing else out.
    #[arg(long, global = true)]
    websocket: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Prints a ticket, then writes what comes to standard output.
    Receive {
        /// The relay: valise://host:port/REALM
        address: RelayAddress,
        /// The invite code, if the relay asks for one.
        #[arg(long, value_parser = Token::from_text)]
        code: Option<Token>,
    },
    /// Sends standard input to whoever printed the ticket.
    Send {
        /// As the receiver printed it.
        ticket: Ticket,
    },
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A message's first byte.
const DATA: u8 = 0;
/// The last message: the SHA-256 of everything follows.
const END: u8 = 1;

/// A ticket is good for this many days.
const DAYS: u32 = 7;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let transport = if arguments.websocket { TransportKind::WebSocket } else { TransportKind::Raw };
    let dial = |address| Dial { transport, ..Dial::new(address) };
    let run = || -> Outcome<()> {
        let runtime = Runtime::new()?;
        match arguments.command {
            Command::Receive { address, code } => {
                runtime.block_on(receive(dial(address), code.as_ref()))
            }
            Command::Send { ticket } => send(&runtime, dial(ticket.address), ticket.capability),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pipe_file: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn receive(dial: Dial, code: Option<&Token>) -> Outcome<()> {
    let owner = Arc::new(OwnerKeyPair::generate());
    let enrolled = enroll(&dial, &owner, code, 1, DAYS).await?;
    let ticket = Ticket { address: dial.address.clone(), capability: enrolled.capabilities[0] };
    eprintln!("{ticket}");
    let (client, mut updates) = Client::start(dial);
    client.serve(owner, enrolled.member_token);
    let mut transfer = Transfer::default();
    loop {
        match updates.next().await {
            Some(Update::Message { payload, receipt, .. }) => {
                let is_complete = transfer.take(&payload)?;
                // Only what is written may be forgotten by the relay.
                client.acknowledge(receipt);
                if is_complete {
                    break;
                }
            }
            Some(Update::Replaced { .. }) => return Err("another receiver took over".into()),
            other => report(other)?,
        }
    }
    client.close().await;
    Ok(())
}

/// What has come so far.
struct Transfer {
    inbox: Inbox,
    /// The first sender's; anyone else with the ticket is ignored.
    stream: Option<StreamId>,
    hash: Context,
}

impl Default for Transfer {
    fn default() -> Self {
        Self { inbox: Inbox::default(), stream: None, hash: Context::new(&SHA256) }
    }
}

impl Transfer {
    /// Writes what is new; whether that was the end.
    fn take(&mut self, payload: &Bytes) -> Outcome<bool> {
        let Ok(Envelope { stream, first_counter, messages }) = Envelope::decode(payload) else {
            return Ok(false);
        };
        if *self.stream.get_or_insert(stream) != stream {
            return Ok(false);
        }
        let received = self.inbox.receive(stream, first_counter, messages.len() as u64);
        if received.gap.is_some() {
            return Err("the sender gave up a part; what came is incomplete".into());
        }
        let mut out = std::io::stdout().lock();
        for counter in received.fresh {
            let index = usize::try_from(counter - first_counter)?;
            match messages[index].split_first() {
                Some((&DATA, data)) => {
                    self.hash.update(data);
                    out.write_all(data)?;
                }
                Some((&END, sent)) => {
                    out.flush()?;
                    let hash = self.hash.clone().finish();
                    if hash.as_ref() != sent {
                        return Err("what arrived is not what was sent".into());
                    }
                    eprintln!("SHA-256 {}", HEXLOWER.encode(sent));
                    return Ok(true);
                }
                _ => return Err("the sender does not speak pipe_file".into()),
            }
        }
        out.flush()?;
        Ok(false)
    }
}

fn send(runtime: &Runtime, dial: Dial, capability: Token) -> Outcome<()> {
    let conversation = ConversationId(1);
    let (client, updates) = runtime.block_on(async { Client::start(dial) });
    let watch = runtime.spawn(watch(updates));
    client.open(conversation, StreamId::random(), vec![capability], 1);
    let mut hash = Context::new(&SHA256);
    let mut input = std::io::stdin().lock();
    while !watch.is_finished() {
        // Each message fills a frame; the outbox keeps one under way and the next ones ready.
        let mut message = vec![DATA];
        input.by_ref().take(MESSAGE_BYTES_MAX as u64 - 1).read_to_end(&mut message)?;
        if message.len() == 1 {
            break;
        }
        hash.update(&message[1..]);
        runtime.block_on(client.room());
        client.send(conversation, message.into())?;
    }
    let hash = hash.finish();
    if !watch.is_finished() {
        client.send(conversation, [&[END], hash.as_ref()].concat().into())?;
    }
    runtime.block_on(async {
        let settled = async {
            client.settled().await;
            client.close().await;
        };
        // The watch ends with the client, or before it, with an error.
        let (watched, ()) = tokio::join!(watch, settled);
        watched?
    })?;
    eprintln!("SHA-256 {}", HEXLOWER.encode(hash.as_ref()));
    Ok(())
}

/// Reads the sender's updates until the client ends.
async fn watch(mut updates: Updates) -> Outcome<()> {
    while let Some(update) = updates.next().await {
        match update {
            Update::Settled(settled) => {
                if let Settlement::GivenUp(reason) = settled.fate {
                    let reason = reason.map_or("an unknown reason", |reason| reason.name());
                    return Err(format!("the relay refused: {reason}").into());
                }
            }
            other => report(Some(other))?,
        }
    }
    Ok(())
}

/// What the user should know of the connection.
fn report(update: Option<Update>) -> Outcome<()> {
    match update {
        Some(Update::Disconnected { why, retry_in }) => {
            eprintln!("pipe_file: {why}; trying again in {:.1} s", retry_in.as_secs_f64());
            Ok(())
        }
        Some(Update::GaveUp(stop)) => Err(stop.into()),
        Some(Update::NotServed { .. }) => Err("the relay does not let the mailbox be read".into()),
        Some(_) => Ok(()),
        None => Err("the client ended".into()),
    }
}
