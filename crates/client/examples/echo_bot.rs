//! A bot that sends back what it is told, and a way to talk to it.
//!
//! ```text
//! cargo run -p valise-client --example echo_bot -- valise://127.0.0.1:7443/REALM
//! cargo run -p valise-client --example echo_bot -- ask TICKET hello
//! ```
//!
//! The bot prints its ticket. A question carries a capability for the asker's own mailbox, for
//! posts have no sender: whoever wants an answer says where to. This example seals nothing: the
//! relay could read along. A chat client seals what it puts into a frame.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use valise_client::proto::{RelayAddress, Token};
use valise_client::{
    Client, ConversationId, Dial, Envelope, Inbox, OwnerKeyPair, Settlement, StreamId, Ticket,
    TransportKind, Update, Updates, enroll,
};

/// A bot that sends back what it is told, and a way to talk to it.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    ask: Option<Ask>,
    /// The relay to serve the bot at: valise://host:port/REALM
    #[arg(required = true)]
    address: Option<RelayAddress>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Ask {
    /// Tells the bot something, and prints what comes back.
    Ask {
        /// As the bot printed it.
        ticket: Ticket,
        /// What to say.
        #[arg(required = true)]
        text: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(clap::Args)]
struct Options {
    /// The invite code, if the relay asks for one.
    #[arg(long, value_parser = Token::from_text)]
    code: Option<Token>,
    /// Go through HTTPS, as in networks that let nothing else out.
    #[arg(long)]
    websocket: bool,
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Capabilities are good for this many days.
const DAYS: u32 = 30;

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Askers the bot remembers. With one more it starts over with nobody, and with new streams.
const ASKERS_MAX: usize = 1_000;

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { ask, address, options } = Arguments::parse();
    let outcome = match (ask, address) {
        (Some(Ask::Ask { ticket, text, options }), _) => {
            ask_bot(ticket, &text.join(" "), options).await
        }
        (None, Some(address)) => run_bot(address, options).await,
        (None, None) => Err("give a relay's address, or ask".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_bot: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A client with a mailbox of its own, and a capability for it.
async fn join(address: RelayAddress, options: &Options) -> Outcome<(Client, Updates, Token)> {
    let transport = if options.websocket { TransportKind::WebSocket } else { TransportKind::Raw };
    let dial = Dial { transport, ..Dial::new(address) };
    let owner = Arc::new(OwnerKeyPair::generate());
    let enrolled = enroll(&dial, &owner, options.code.as_ref(), 1, DAYS).await?;
    let (client, updates) = Client::start(dial);
    client.serve(owner, enrolled.member_token);
    Ok((client, updates, enrolled.capabilities[0]))
}

async fn run_bot(address: RelayAddress, options: Options) -> Outcome<()> {
    let (client, mut updates, capability) = join(address.clone(), &options).await?;
    let ticket = Ticket { address, capability };
    println!("{ticket}");
    println!("Talk to it from another terminal:");
    println!("cargo run -p valise-client --example echo_bot -- ask {ticket} hello");
    let (mut inbox, mut askers) = (Inbox::default(), HashMap::new());
    while let Some(update) = updates.next().await {
        let Update::Message { payload, receipt, .. } = update else {
            report(update)?;
            continue;
        };
        for question in fresh(&mut inbox, &payload) {
            let Some((back, text)) = question.split_at_checked(Token::LEN) else { continue };
            let back = Token::try_from(back)?;
            if askers.len() == ASKERS_MAX {
                askers.drain().for_each(|(_, asker)| client.forget(asker));
            }
            let next = ConversationId(askers.len() as u64);
            let asker = *askers.entry(back).or_insert_with(|| {
                client.open(next, StreamId::random(), vec![back], 1);
                next
            });
            client.send(asker, question.slice_ref(text))?;
        }
        client.acknowledge(receipt);
    }
    Ok(())
}

async fn ask_bot(ticket: Ticket, text: &str, options: Options) -> Outcome<()> {
    let (client, mut updates, back) = join(ticket.address, &options).await?;
    let conversation = ConversationId(1);
    client.open(conversation, StreamId::random(), vec![ticket.capability], 1);
    client.send(conversation, [back.as_bytes(), text.as_bytes()].concat().into())?;
    let mut inbox = Inbox::default();
    let answer = tokio::time::timeout(PATIENCE, async {
        while let Some(update) = updates.next().await {
            match update {
                Update::Message { payload, receipt, .. } => {
                    client.acknowledge(receipt);
                    if let Some(answer) = fresh(&mut inbox, &payload).pop() {
                        return Ok(answer);
                    }
                }
                other => report(other)?,
            }
        }
        Err("the client ended".into())
    });
    let answer: Outcome<Bytes> =
        answer.await.unwrap_or_else(|_| Err("no answer; is the bot running?".into()));
    println!("{}", String::from_utf8_lossy(&answer?));
    client.close().await;
    Ok(())
}

/// The messages of a frame that are new.
fn fresh(inbox: &mut Inbox, payload: &Bytes) -> Vec<Bytes> {
    let Ok(mut envelope) = Envelope::decode(payload) else { return Vec::new() };
    let count = envelope.messages.len();
    let received = inbox.receive(envelope.stream, envelope.first_counter, count as u64);
    let fresh = received.fresh.end - received.fresh.start;
    // What is new is at the end.
    envelope.messages.split_off(count - usize::try_from(fresh).unwrap_or(count).min(count))
}

/// What the user should know of the connection.
fn report(update: Update) -> Outcome<()> {
    match update {
        Update::Disconnected { why, retry_in } => {
            eprintln!("echo_bot: {why}; trying again in {:.1} s", retry_in.as_secs_f64());
        }
        Update::Settled(settled) => {
            if let Settlement::GivenUp(reason) = settled.fate {
                let reason = reason.map_or("an unknown reason", |reason| reason.name());
                eprintln!("echo_bot: the relay refused a message: {reason}");
            }
        }
        Update::GaveUp(stop) => return Err(stop.into()),
        Update::NotServed { .. } => return Err("the relay does not let the mailbox be read".into()),
        _ => {}
    }
    Ok(())
}
