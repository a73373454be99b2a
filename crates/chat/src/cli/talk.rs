//! Messages and conversations.

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use valise_chat_core::TEXT_BYTES_MAX;
use valise_chat_core::api::{
    Command, Conversation, ConversationNumber, Event, Message, MessageNumber, MessageState, Sent,
};

use super::arguments::{History, Send, Tail};
use super::duration;
use super::exit::Failure;
use super::output::{Output, Titles, input, say, state};
use super::session::Session;
use crate::api::Happening;
use crate::printable::printable_line;

/// Messages asked for at a time.
const PAGE: u32 = 200;

/// Characters of a last message that a list shows.
const SNIPPET: usize = 40;

/// `send`.
///
/// # Errors
/// [`Failure`]; [`Failure::NotYet`] when the relay has not got it in time.
pub(super) async fn send(
    session: &mut Session,
    mut send: Send,
    output: &Output,
) -> Result<(), Failure> {
    let text = text_of(&send).await?;
    if !session.is_local() {
        // So that it is sent once, though it may have to be said twice.
        let key = || data_encoding::HEXLOWER.encode(&valise_client::random::bytes::<16>());
        send.key.get_or_insert_with(key);
    }
    let (message, state) = loop {
        match send_once(session, &send, &text).await {
            Err(failure) if session.is_lost(&failure) => session.reopen().await?,
            sent => break sent?,
        }
    };
    if send.json {
        output.json(&serde_json::json!({ "message": message, "state": state }))?;
    }
    match state {
        MessageState::Sending if send.wait == 0 => Ok(()),
        MessageState::Sending => {
            let conversation = session.conversation(&send.to).await?;
            let known = session.conversations().await?.into_iter();
            let waiting =
                known.filter(|known| known.number == conversation).find_map(|k| k.waiting);
            Err(Failure::NotYet(waiting.unwrap_or_else(|| {
                "the relay has not got the message yet; it is kept, and sent when valise-chat runs \
                 and the relay can be reached"
                    .to_owned()
            })))
        }
        MessageState::Failed => {
            let text = "the message reached nobody, or not everybody; see `valise-chat history`";
            Err(Failure::Unavailable(text.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Says it, and waits for the relay; how far the message is then.
async fn send_once(
    session: &Session,
    send: &Send,
    text: &str,
) -> Result<(MessageNumber, MessageState), Failure> {
    let conversation = session.conversation(&send.to).await?;
    let mut events = session.api.events();
    let command = Command::Send { conversation, text: text.to_owned(), key: send.key.clone() };
    let Sent { message } = session.ask(command).await?;
    let relayed = async {
        while state_of(session, conversation, message).await? == MessageState::Sending {
            // Other messages may wait for other relays: only this one counts.
            while !may_concern(&events.next().await, message) {}
        }
        Ok::<(), Failure>(())
    };
    let patience = Duration::from_secs(u64::from(send.wait));
    tokio::time::timeout(patience, relayed).await.unwrap_or(Ok(()))?;
    Ok((message, state_of(session, conversation, message).await?))
}

/// How far a message of ours is.
async fn state_of(
    session: &Session,
    conversation: ConversationNumber,
    message: MessageNumber,
) -> Result<MessageState, Failure> {
    let before = Some(message + 1);
    let last: Vec<Message> =
        session.ask(Command::Messages { conversation, before, limit: 1 }).await?;
    // A message that has disappeared meanwhile was read before.
    let found = last.into_iter().find(|found| found.number == message);
    Ok(found.map_or(MessageState::Gone, |found| found.state))
}

/// Whether a message's state may be another after this.
fn may_concern(happening: &Happening, message: MessageNumber) -> bool {
    match happening {
        Happening::Event(Event::MessageState { message: changed, .. }) => *changed == message,
        Happening::Event(_) => false,
        Happening::Missed | Happening::Ended(_) => true,
    }
}

async fn text_of(send: &Send) -> Result<String, Failure> {
    let text = if send.text.is_empty() || send.text == ["-"] {
        if io::stdin().is_terminal() {
            say("Write the message; Ctrl-D on a line of its own sends it.");
        }
        let read = || {
            let mut bytes = Vec::new();
            // The line's end and one byte more than allowed are enough to be refused.
            let most = TEXT_BYTES_MAX as u64 + 2;
            io::stdin().lock().take(most).read_to_end(&mut bytes).map(|_| bytes)
        };
        let bytes = input(read).await.map_err(Failure::file("read the message"))?;
        message_of(bytes)?
    } else {
        send.text.join(" ")
    };
    if text.is_empty() {
        return Err(Failure::Usage("there is nothing to send: the message is empty".to_owned()));
    }
    Ok(text)
}

/// The text of what was read, without the end of its last line.
fn message_of(mut bytes: Vec<u8>) -> Result<String, Failure> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.len() > TEXT_BYTES_MAX {
        let text = format!("the message is too long: it has at most {TEXT_BYTES_MAX} bytes");
        return Err(Failure::Data(text));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::Data(
            "the message is not UTF-8 text: convert it, for example with iconv".to_owned(),
        )
    })
}

/// `list`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn list(session: &Session, is_json: bool, output: &Output) -> Result<(), Failure> {
    let conversations = session.conversations().await?;
    if is_json {
        return output.json(&conversations);
    }
    for known in &conversations {
        output.line(list_line(known, output))?;
    }
    if conversations.is_empty() {
        say("There is no conversation yet: `valise-chat invite` makes a link for somebody.");
    }
    Ok(())
}

fn list_line(known: &Conversation, output: &Output) -> String {
    let mut line = format!("{:>4}  {}", known.number, output.strong(&known.title));
    let mut marks = Vec::new();
    if known.unread > 0 {
        marks.push(format!("{} unread", known.unread));
    }
    if known.members > 2 {
        marks.push(format!("{} people", known.members));
    }
    if known.disappear_seconds > 0 {
        marks.push(format!("disappear {}", duration::words(known.disappear_seconds)));
    }
    let flags = [
        (known.verified, "verified"),
        (known.muted, "muted"),
        (known.blocked, "blocked"),
        (known.closed.is_some(), "closed"),
    ];
    marks.extend(flags.iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| (*mark).to_owned()));
    if !marks.is_empty() {
        line.push_str(&format!("  ({})", marks.join(", ")));
    }
    if let Some(last) = &known.last {
        let text = printable_line(&last.text);
        let snippet: String = text.chars().take(SNIPPET).collect();
        let more = if text.chars().nth(SNIPPET).is_some() { "…" } else { "" };
        let by = if last.mine { format!("  {}", state(last.state)) } else { String::new() };
        line.push_str(&format!("  {}  {snippet}{more}{by}", output.time(last.sent_ms)));
    }
    line
}

/// `history`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn history(
    session: &Session,
    history: &History,
    output: &Output,
) -> Result<(), Failure> {
    let conversation = session.conversation(&history.to).await?;
    let limit = history.limit;
    let messages: Vec<Message> =
        session.ask(Command::Messages { conversation, before: None, limit }).await?;
    for message in &messages {
        show(message, None, history.json, output)?;
    }
    Ok(())
}

/// `tail`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn tail(
    session: &mut Session,
    tail: &Tail,
    output: &Output,
) -> Result<(), Failure> {
    let only = match &tail.conversation {
        Some(name) => Some(session.conversation(name).await?),
        None => None,
    };
    let mut titles = Titles::new();
    let mut shown = match tail.since {
        Some(since) => since,
        None => newest(&session.conversations().await?),
    };
    'engines: loop {
        // Events first: what comes between the two is then in both, and shown once.
        let mut events = session.api.events();
        let mut happening = Happening::Missed;
        loop {
            let messages = match happening {
                Happening::Missed => {
                    let conversations = session.conversations().await?;
                    titles.extend(conversations.iter().map(|c| (c.number, c.title.clone())));
                    since(session, &conversations, shown, only).await?
                }
                Happening::Event(Event::Message { message }) => vec![message],
                Happening::Event(Event::Conversation { conversation }) => {
                    titles.insert(conversation.number, conversation.title);
                    Vec::new()
                }
                Happening::Event(_) => Vec::new(),
                Happening::Ended(None) if !session.is_local() => {
                    session.reopen().await?;
                    continue 'engines;
                }
                Happening::Ended(None) => return Ok(()),
                Happening::Ended(Some(why)) => return Err(Failure::NotYet(why)),
            };
            for message in messages {
                if message.number <= shown || only.is_some_and(|only| only != message.conversation)
                {
                    continue;
                }
                shown = message.number;
                let title = titles.get(&message.conversation).filter(|_| only.is_none());
                show(&message, title.map(String::as_str), tail.json, output)?;
                if tail.read && !message.mine {
                    let (conversation, up_to) = (message.conversation, message.number);
                    session.tell(Command::Read { conversation, up_to }).await?;
                }
            }
            happening = events.next().await;
        }
    }
}

fn newest(conversations: &[Conversation]) -> MessageNumber {
    let last = conversations.iter().filter_map(|known| known.last.as_ref());
    last.map(|last| last.number).max().unwrap_or(0)
}

/// All messages after a number, in order.
async fn since(
    session: &Session,
    conversations: &[Conversation],
    after: MessageNumber,
    only: Option<ConversationNumber>,
) -> Result<Vec<Message>, Failure> {
    let mut found: Vec<Message> = Vec::new();
    for known in conversations {
        let is_wanted = only.is_none_or(|only| only == known.number);
        if !is_wanted || known.last.as_ref().is_none_or(|last| last.number <= after) {
            continue;
        }
        let (conversation, mut before) = (known.number, None);
        loop {
            let command = Command::Messages { conversation, before, limit: PAGE };
            let page: Vec<Message> = session.ask(command).await?;
            before = page.first().map(|first| first.number);
            let is_last = page.len() < PAGE as usize || before.is_none_or(|first| first <= after);
            found.extend(page.into_iter().filter(|message| message.number > after));
            if is_last {
                break;
            }
        }
    }
    found.sort_by_key(|message| message.number);
    Ok(found)
}

fn show(
    message: &Message,
    title: Option<&str>,
    is_json: bool,
    output: &Output,
) -> Result<(), Failure> {
    if is_json { output.json(message) } else { output.message(message, title) }
}

/// `mute` and `unmute`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn mute(session: &Session, to: &str, muted: bool) -> Result<(), Failure> {
    let conversation = session.conversation(to).await?;
    session.tell(Command::Mute { conversation, muted }).await
}

/// `disappear`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn disappear(session: &Session, to: &str, seconds: u32) -> Result<(), Failure> {
    let conversation = session.conversation(to).await?;
    session.tell(Command::Disappear { conversation, seconds }).await
}
