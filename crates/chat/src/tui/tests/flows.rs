//! What keys, events and answers lead to.

use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use valise_chat_core::api::{
    Command, Connection, Event, Joined, Link, MessageState, Refusal, Relay, Sent, Words,
};

use super::stage::{DAY, MINUTE, NOON, Stage, conversation, conversations, mine, talk, text};
use crate::tui::model::popup::Popup;
use crate::tui::model::room::{PAGE, Place};
use crate::tui::model::{Effect, Input, Then};

fn read(conversation: i64, up_to: i64) -> Command {
    Command::Read { conversation, up_to }
}

fn older(conversation: i64, before: Option<i64>) -> Command {
    Command::Messages { conversation, before, limit: PAGE }
}

fn send(conversation: i64, text: &str) -> Command {
    Command::Send { conversation, text: text.to_owned(), key: None }
}

/// A slash command, typed.
fn slash(stage: &mut Stage, line: &str) -> Vec<Command> {
    stage.commands();
    stage.type_text(&format!("/{line}"));
    stage.press(KeyCode::Enter);
    stage.commands()
}

#[test]
fn enter_sends_and_alt_enter_does_not() {
    let mut stage = Stage::peopled(100, 30);
    stage.type_text("one");
    stage.press_with(KeyCode::Enter, KeyModifiers::ALT);
    stage.type_text("two");
    stage.ctrl('j');
    stage.type_text("three  ");
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Enter);
    assert_eq!(stage.commands(), [send(1, "one\ntwo\nthree")]);
    assert!(stage.model.room().unwrap().draft.is_empty());
    stage.type_text("  ");
    stage.press(KeyCode::Enter);
    assert_eq!(stage.commands(), []);
}

#[test]
fn a_refused_text_comes_back() {
    let mut stage = Stage::peopled(100, 30);
    stage.refuse(Then::Sent { conversation: 1, text: "precious".into() }, "full", "no room left");
    assert_eq!(stage.model.room().unwrap().draft.text(), "precious");
    assert!(stage.picture().contains("no room left"));
}

#[test]
fn a_sent_text_whose_event_is_late_is_asked_for() {
    let mut stage = Stage::peopled(100, 30);
    let then = || Then::Sent { conversation: 1, text: "x".into() };
    stage.answer(then(), &Sent { message: 9 });
    assert_eq!(stage.commands(), []);
    stage.answer(then(), &Sent { message: 77 });
    assert_eq!(stage.commands(), [older(1, None)]);
}

#[test]
fn drafts_stay_with_their_conversation() {
    let mut stage = Stage::peopled(100, 30);
    stage.type_text("for Bob");
    stage.press(KeyCode::Tab);
    stage.type_text("for the club");
    assert!(stage.picture().contains("draft: for Bob"));
    stage.press(KeyCode::BackTab);
    assert_eq!(stage.model.room().unwrap().draft.text(), "for Bob");
    stage.ctrl('c');
    assert!(stage.model.room().unwrap().draft.is_empty());
    stage.ctrl('z');
    assert_eq!(stage.model.room().unwrap().draft.text(), "for Bob");
}

#[test]
fn tab_goes_around() {
    let mut stage = Stage::peopled(100, 30);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(stage.model.open.unwrap());
        stage.press(KeyCode::Tab);
    }
    assert_eq!(seen, [1, 2, 3, 1]);
    stage.ctrl('p');
    stage.ctrl('p');
    assert_eq!(stage.model.open, Some(3));
}

#[test]
fn messages_are_asked_for_when_they_are_needed() {
    let mut stage = Stage::empty(80, 24);
    stage.answer(Then::Conversations, &conversations());
    assert_eq!(stage.commands(), [older(1, None)]);
    // A full page: there may be older ones. The top is far, until the reader goes there.
    let page = |from: i64| -> Vec<_> {
        (from..from + i64::from(PAGE)).map(|n| text(1, n, "Bob", "words", NOON - DAY)).collect()
    };
    stage.load(1, page(1_000));
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Home);
    assert_eq!(stage.commands(), [older(1, Some(1_000))]);
    stage.press(KeyCode::PageUp);
    assert_eq!(stage.commands(), []);
    // What comes above does not move what is read.
    let before = stage.picture();
    let seen = |picture: &str| picture.lines().nth(8).map(str::to_owned);
    stage
        .answer(Then::Messages { conversation: 1, before: Some(1_000) }, &page(900)[..50].to_vec());
    assert_eq!(seen(&stage.picture()), seen(&before));
    // Fewer than asked for: that was the first one.
    stage.press(KeyCode::Home);
    assert_eq!(stage.commands(), []);
    assert!(matches!(stage.model.room().unwrap().place, Place::At { message: 900, .. }));
    stage.press(KeyCode::End);
    assert_eq!(stage.model.room().unwrap().place, Place::End);
}

#[test]
fn what_was_seen_is_read_and_nothing_else() {
    let mut stage = Stage::peopled(100, 30);
    stage.wait(1_000);
    stage.commands();
    let bob = |number, at| Event::Message { message: text(1, number, "Bob", "new", at) };
    let said = |stage: &mut Stage, number| {
        stage.input(Input::Event(bob(number, NOON)));
        stage.commands()
    };
    assert_eq!(said(&mut stage, 20), [read(1, 20)]);
    // Not while something lies over it, the window is in the background, or the place is above.
    stage.ctrl('k');
    assert_eq!(said(&mut stage, 21), []);
    stage.press(KeyCode::Esc);
    assert_eq!(stage.commands(), [read(1, 21)]);
    stage.input(Input::Focus(false));
    assert_eq!(said(&mut stage, 22), []);
    stage.input(Input::Focus(true));
    assert_eq!(stage.commands(), [read(1, 22)]);
    stage.resize(100, 8);
    stage.press(KeyCode::PageUp);
    assert_eq!(said(&mut stage, 23), []);
    stage.press(KeyCode::Esc);
    assert_eq!(stage.commands(), [read(1, 23)]);
    // Going past a conversation is not reading it.
    stage.press(KeyCode::Tab);
    stage.load(2, vec![text(2, 40, "Dana", "?", NOON)]);
    stage.press(KeyCode::BackTab);
    stage.wait(1_000);
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Tab);
    stage.wait(1_000);
    assert_eq!(stage.commands(), [read(2, 40)]);
}

#[test]
fn in_a_narrow_terminal_a_message_in_the_list_is_not_read() {
    let mut stage = Stage::peopled(40, 12);
    stage.wait(1_000);
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Down);
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Enter);
    assert_eq!(stage.commands(), [older(2, None)]);
    stage.press(KeyCode::Esc);
    assert!(stage.picture().contains("Carol"));
}

#[test]
fn new_messages_do_not_move_what_is_read() {
    let mut stage = Stage::peopled(80, 12);
    stage.press(KeyCode::PageUp);
    let before = stage.picture();
    let talk_of = |picture: &str| {
        let rows = picture.lines().skip(2).take(6);
        rows.map(|row| row.chars().skip(26).collect::<String>()).collect::<Vec<_>>()
    };
    let message = text(1, 30, "Bob", "are you there?", NOON);
    stage.input(Input::Event(Event::Message { message }));
    assert_eq!(talk_of(&stage.picture()), talk_of(&before));
    let message = mine(1, 31, "from my phone", NOON, MessageState::Relayed);
    stage.input(Input::Event(Event::Message { message }));
    assert!(stage.picture().contains("from my phone"));
}

#[test]
fn states_and_disappearing_follow_the_engine() {
    let mut stage = Stage::peopled(100, 30);
    let state =
        |message, state| Input::Event(Event::MessageState { conversation: 1, message, state });
    stage.input(state(9, MessageState::Read));
    assert!(stage.picture().contains("read ✓✓"));
    assert!(stage.picture().contains("✓✓ and the cake"));
    stage.input(state(9, MessageState::Gone));
    assert!(!stage.picture().contains("▎ and the cake"));
    stage.input(state(12_345, MessageState::Read));
}

#[test]
fn pasted_text_is_only_text() {
    let mut stage = Stage::peopled(100, 30);
    stage.input(Input::Paste("/quit\r\n?\n/leave\n".into()));
    assert_eq!(stage.commands(), []);
    assert!(stage.model.popup.is_none());
    assert_eq!(stage.model.room().unwrap().draft.text(), "/quit\n?\n/leave\n");
    // Into a command it goes as one line.
    stage.ctrl('c');
    stage.type_text("/join ");
    stage.input(Input::Paste("valise://relay:1/realm#secret\n".into()));
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Enter);
    let link = "valise://relay:1/realm#secret".to_owned();
    assert_eq!(stage.commands(), [Command::Join { link, allow_relay: false }]);
}

#[test]
fn a_message_may_begin_with_a_slash() {
    let mut stage = Stage::peopled(100, 30);
    stage.type_text("//etc is a directory");
    stage.press(KeyCode::Enter);
    assert_eq!(stage.commands(), [send(1, "/etc is a directory")]);
}

#[test]
fn on_the_first_screen_a_pasted_link_is_asked_about() {
    let mut stage = Stage::empty(100, 30);
    stage.input(Input::Paste("valise://relay:1/realm#secret".into()));
    assert!(matches!(&stage.model.popup, Some(Popup::Field(field)) if !field.input.is_empty()));
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Enter);
    let link = "valise://relay:1/realm#secret".to_owned();
    assert_eq!(stage.commands(), [Command::Join { link: link.clone(), allow_relay: false }]);
    // A relay that is new is contacted only when the user says so.
    stage.refuse(Then::Join { link: link.clone() }, "new_relay", "relay:1 is new");
    stage.press(KeyCode::Enter);
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Char('y'));
    let joined = Command::Join { link: link.clone(), allow_relay: true };
    assert_eq!(stage.commands(), [joined]);
    stage.answer(Then::Join { link }, &Joined { conversation: 5 });
    stage.answer(Then::Conversations, &vec![conversation(4, "Old", 0), conversation(5, "Eve", 0)]);
    assert_eq!(stage.model.opened().unwrap().title, "Eve");
}

#[test]
fn a_relay_that_is_new_is_asked_about_and_can_be_forbidden() {
    let mut stage = Stage::peopled(100, 30);
    let relay = Relay {
        relay: "valise://far.example:7443/realm".to_owned(),
        allowed: false,
        own: false,
        people: vec!["Dana".to_owned()],
    };
    stage.input(Input::Event(Event::Relay { relay: relay.clone() }));
    assert!(stage.picture().contains("Dana: at the relay far.example:7443"), "{}", stage.picture());
    stage.press(KeyCode::Enter);
    assert_eq!(stage.commands(), [], "Enter alone decides nothing");
    stage.press(KeyCode::Char('y'));
    let decide = |allow| Command::AllowRelay { relay: relay.relay.clone(), allow };
    assert_eq!(stage.commands(), [decide(true)]);
    // Whoever does something else is only told.
    stage.press(KeyCode::Char('/'));
    stage.input(Input::Event(Event::Relay { relay: relay.clone() }));
    assert!(matches!(stage.model.popup, Some(Popup::Palette(_))));
    stage.press(KeyCode::Esc);
    // The list allows and forbids.
    assert_eq!(slash(&mut stage, "relays"), [Command::Relays {}]);
    for allowed in [false, true] {
        stage.answer(Then::Relays, &vec![Relay { allowed, ..relay.clone() }]);
        stage.press(KeyCode::Enter);
        stage.press(KeyCode::Char('y'));
        assert_eq!(stage.commands(), [decide(!allowed)]);
    }
}

#[test]
fn commands_reach_the_engine() {
    let account = || "bob".to_owned();
    let stage = &mut Stage::peopled(100, 30);
    assert_eq!(slash(stage, "invite"), [Command::Invite {}]);
    assert_eq!(slash(stage, "mute"), [Command::Mute { conversation: 1, muted: true }]);
    let name = "Alice B.".to_owned();
    assert_eq!(slash(stage, "name Alice B."), [Command::Rename { name }]);
    let name = "Robert".to_owned();
    assert_eq!(slash(stage, "petname Robert"), [Command::Petname { account: account(), name }]);
    assert_eq!(slash(stage, "verify"), [Command::Verify { account: account() }]);
    assert_eq!(slash(stage, "devices"), [Command::Devices {}, Command::LinkRequests {}]);
    assert_eq!(slash(stage, "members"), [Command::Members { conversation: 1 }]);
    // What cannot be undone asks first, and Enter is no answer.
    assert_eq!(slash(stage, "block"), []);
    stage.press(KeyCode::Enter);
    assert_eq!(stage.commands(), []);
    stage.press(KeyCode::Char('y'));
    assert_eq!(stage.commands(), [Command::Block { account: account(), blocked: true }]);
    assert_eq!(slash(stage, "disappear"), []);
    stage.type_text("1 day");
    stage.press(KeyCode::Enter);
    assert_eq!(stage.commands(), [Command::Disappear { conversation: 1, seconds: 86_400 }]);
    // A group's commands are for groups.
    assert_eq!(slash(stage, "leave"), []);
    assert!(stage.picture().contains("not here: open the group"));
    stage.press(KeyCode::Tab);
    stage.load(2, vec![]);
    assert_eq!(slash(stage, "leave"), []);
    stage.press(KeyCode::Char('y'));
    assert_eq!(stage.commands(), [Command::GroupLeave { conversation: 2 }]);
    let name = "Sci-fi".to_owned();
    assert_eq!(slash(stage, "rename Sci-fi"), [Command::GroupRename { conversation: 2, name }]);
    assert_eq!(slash(stage, "add car"), []);
    stage.press(KeyCode::Enter);
    let account = "carol".to_owned();
    assert_eq!(stage.commands(), [Command::GroupAdd { conversation: 2, account }]);
}

#[test]
fn a_group_is_made_of_those_who_are_ticked() {
    let mut stage = Stage::peopled(100, 30);
    assert_eq!(slash(&mut stage, "group"), []);
    stage.type_text("Chess");
    stage.press(KeyCode::Enter);
    stage.press(KeyCode::Down);
    stage.press(KeyCode::Char(' '));
    stage.press(KeyCode::Enter);
    let create = Command::GroupCreate { name: "Chess".into(), members: vec!["carol".into()] };
    assert_eq!(stage.commands(), [create]);
}

#[test]
fn words_that_differ_are_said_to_differ() {
    let mut stage = Stage::peopled(100, 30);
    let words = Words {
        name: "Bob".into(),
        words: vec!["river".into()],
        verified: false,
        next: "compare".into(),
    };
    stage.answer(Then::Words { account: "bob".into() }, &words);
    stage.press(KeyCode::Char('d'));
    let account = "bob".to_owned();
    assert_eq!(stage.commands(), [Command::MarkVerified { account, verified: false }]);
    stage.answer(Then::Marked { name: "Bob".into(), verified: false }, &());
    assert!(stage.picture().contains("not verified: somebody may stand between"));
}

#[test]
fn an_export_needs_the_same_passphrase_twice() {
    let mut stage = Stage::peopled(100, 30);
    slash(&mut stage, "export");
    for (line, asks_again) in [("short", true), ("correct horse", true), ("correct hose", true)] {
        stage.type_text(line);
        stage.press(KeyCode::Enter);
        assert_eq!(stage.model.popup.is_some(), asks_again, "{line}");
        assert_eq!(stage.commands(), []);
    }
    for _ in 0..2 {
        stage.type_text("correct horse");
        assert!(!stage.picture().contains("correct"), "the passphrase is on the screen");
        stage.press(KeyCode::Enter);
    }
    let passphrase = "correct horse".to_owned();
    assert_eq!(stage.commands(), [Command::Export { passphrase }]);
    let file = valise_chat_core::api::Exported { file: "Zm9v".into() };
    stage.answer(Then::Exported, &file);
    let name = "valise-2026-11-24.export".to_owned();
    assert!(stage.effects.contains(&Effect::Write { name, contents: b"foo".to_vec() }));
    stage.input(Input::Written(Err("there is such a file".into())));
    assert!(stage.picture().contains("not saved: there is such a file"));
}

#[test]
fn ctrl_c_closes_then_clears_then_asks() {
    let mut stage = Stage::peopled(100, 30);
    stage.type_text("words");
    stage.ctrl('k');
    for _ in 0..3 {
        stage.ctrl('c');
        assert!(!stage.effects.contains(&Effect::Quit));
    }
    assert!(stage.picture().contains("Ctrl-C once more to quit"));
    stage.wait(10_000);
    stage.ctrl('c');
    assert!(!stage.effects.contains(&Effect::Quit));
    stage.ctrl('c');
    assert!(stage.effects.contains(&Effect::Quit));
}

#[test]
fn quit_and_help_are_always_there() {
    for popup in [None, Some('k')] {
        let mut stage = Stage::peopled(100, 30);
        popup.into_iter().for_each(|key| stage.ctrl(key));
        stage.press(KeyCode::F(1));
        assert!(matches!(stage.model.popup, Some(Popup::Help { .. })));
        stage.ctrl('q');
        assert_eq!(stage.effects.last(), Some(&Effect::Quit));
    }
}

#[test]
fn missed_events_lead_to_asking_again() {
    let mut stage = Stage::peopled(100, 30);
    stage.type_text("draft");
    stage.input(Input::Refresh);
    let asked = stage.commands();
    assert!(asked.contains(&Command::Conversations {}), "{asked:?}");
    assert!(asked.contains(&older(1, None)), "{asked:?}");
    stage.load(1, talk());
    assert_eq!(stage.model.room().unwrap().draft.text(), "draft");
}

#[test]
fn conversations_come_and_go() {
    let mut stage = Stage::peopled(100, 30);
    let conversation = conversation(9, "Frank", 1);
    stage.input(Input::Event(Event::Conversation { conversation }));
    assert_eq!(stage.model.conversations[0].title, "Frank");
    assert_eq!(stage.model.open, Some(1));
    // A message moves its conversation to the top; one of an unknown conversation asks for the list.
    let message = text(2, 50, "Dana", "news", NOON + MINUTE);
    stage.input(Input::Event(Event::Message { message }));
    assert_eq!(stage.model.conversations[0].number, 2);
    stage.commands();
    let message = text(99, 51, "Gus", "hello", NOON + MINUTE);
    stage.input(Input::Event(Event::Message { message }));
    assert_eq!(stage.commands(), [Command::Conversations {}]);
    // The open one is gone: another one is opened.
    stage.answer(Then::Conversations, &conversations()[1..].to_vec());
    assert_eq!(stage.model.open, Some(2));
    stage.answer(Then::Conversations, &conversations()[..0].to_vec());
    assert!(stage.picture().contains("Welcome"));
}

#[test]
fn an_invite_that_was_followed_leads_to_the_person() {
    let mut stage = Stage::peopled(100, 30);
    for (then, opens) in [(Then::Invite, 9), (Then::DeviceLink, 1)] {
        stage.answer(then, &Link { link: "valise://x:1/y#z".into() });
        assert!(matches!(stage.model.popup, Some(Popup::Link(_))));
        let conversation = conversation(opens, "Frank", 0);
        stage.input(Input::Event(Event::Conversation { conversation }));
        assert_eq!(stage.model.popup.is_none(), opens == 9);
        assert_eq!(stage.model.open, Some(9));
    }
}

#[test]
fn answers_of_another_version_are_said_and_not_fatal() {
    let mut stage = Stage::peopled(100, 30);
    stage.answer(Then::Conversations, &"nonsense");
    assert!(stage.picture().contains("another version"));
    let refusal = Refusal { code: "x".into(), message: "because".into() };
    stage.input(Input::Answer(Then::Nothing, Err(refusal)));
    assert!(stage.picture().contains("because"));
    stage.wait(10_000);
    assert!(!stage.picture().contains("because"));
    stage.input(Input::Event(Event::Connection(Connection::Stopped { why: "gone".into() })));
    assert!(stage.picture().contains("✕ stopped: gone"));
}
