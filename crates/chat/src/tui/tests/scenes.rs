//! Pictures, compared with the committed ones in `tests/tui`. VALISE_WRITE_SNAPSHOTS=1 writes them
//! anew: look at the difference before it is committed.

use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use ratatui::style::{Color, Modifier};
use valise_chat_core::api::{
    Connection, Device, Event, Link, LinkRequest, Member, MessageState, Words,
};

use super::stage::{DAY, MINUTE, NOON, Stage, conversation, mine, text};
use crate::tui::model::action::Action;
use crate::tui::model::{Effect, Input, Then};

#[test]
fn a_conversation_in_a_usual_terminal() {
    Stage::peopled(100, 30).assert_picture("usual");
}

#[test]
fn the_first_screen_says_the_next_step() {
    Stage::empty(100, 30).assert_picture("welcome");
    Stage::empty(40, 12).assert_picture("welcome-small");
}

#[test]
fn a_narrow_terminal_shows_one_side() {
    let mut stage = Stage::peopled(40, 12);
    stage.assert_picture("narrow-list");
    stage.press(KeyCode::Enter);
    stage.assert_picture("narrow-talk");
    stage.resize(60, 20);
    stage.assert_picture("sixty");
    stage.resize(40, 12);
    stage.assert_picture("narrow-talk");
}

#[test]
fn the_smallest_terminals_show_what_matters() {
    let mut stage = Stage::peopled(20, 6);
    stage.press(KeyCode::Enter);
    stage.type_text("hello");
    stage.assert_picture("tiny");
    stage.resize(20, 3);
    stage.assert_picture("tiniest");
}

#[test]
fn help_fits_or_scrolls() {
    let mut stage = Stage::peopled(100, 60);
    stage.press(KeyCode::Char('?'));
    stage.assert_picture("help");
    stage.resize(40, 12);
    stage.assert_picture("help-small");
    let before = stage.picture();
    stage.press(KeyCode::PageDown);
    assert_ne!(stage.picture(), before);
    for _ in 0..20 {
        stage.press(KeyCode::PageDown);
    }
    let end = stage.picture();
    assert!(end.contains("/quit"), "{end}");
    // Beyond the end there is nothing to come back from.
    stage.press(KeyCode::PageUp);
    assert_ne!(stage.picture(), end);
}

#[test]
fn the_palette_finds_people_and_commands() {
    let mut stage = Stage::peopled(80, 24);
    stage.ctrl('k');
    stage.assert_picture("palette");
    stage.type_text("bo");
    stage.assert_picture("palette-found");
    stage.press(KeyCode::Esc);
    stage.press(KeyCode::Char('/'));
    stage.type_text("na Alice B.");
    stage.assert_picture("slash");
}

#[test]
fn an_invite_is_a_link_and_a_code() {
    let link = "valise://relay.example:7443/mfrggzdfmztwq2lknnwg23tpobyxe43u#\
                abcdefghijklmnopqrstuvwxyz";
    let mut stage = Stage::peopled(100, 32);
    stage.answer(Then::Invite, &Link { link: link.to_owned() });
    stage.assert_picture("invite");
    stage.resize(60, 14);
    stage.assert_picture("invite-small");
    // In the most usual terminal there is room for the code, alone.
    stage.resize(80, 24);
    assert!(!stage.picture().contains('▀'));
    stage.press(KeyCode::Char('q'));
    stage.assert_picture("invite-code");
    stage.press(KeyCode::Char('c'));
    assert!(stage.effects.contains(&Effect::Copy(link.to_owned())));
}

#[test]
fn words_are_compared_in_plain_words() {
    let mut stage = Stage::peopled(80, 24);
    let words = ["river", "lamp", "copper", "tiger", "sand", "violin", "north", "apple"];
    let words = Words {
        name: "Bob".to_owned(),
        words: words.map(str::to_owned).to_vec(),
        verified: false,
        next: "If all words are the same, nobody stands between you: press s. If one differs, \
               press d and write nothing secret."
            .to_owned(),
    };
    stage.answer(Then::Words { account: "bob".to_owned() }, &words);
    stage.assert_picture("words");
}

#[test]
fn questions_say_what_follows() {
    let mut stage = Stage::peopled(80, 24);
    let link = "valise://other.example:7443/realm#secret".to_owned();
    let message = "this link leads to other.example:7443, a relay that this profile does not know";
    stage.refuse(Then::Join { link }, "new_relay", message);
    stage.assert_picture("new-relay");
    stage.press(KeyCode::Esc);
    let request = LinkRequest {
        device: "d2".to_owned(),
        name: "phone".to_owned(),
        words: ["river", "lamp", "copper", "tiger"].map(str::to_owned).to_vec(),
    };
    stage.input(Input::Event(Event::LinkRequest { request }));
    stage.assert_picture("link-request");
}

#[test]
fn lists_to_pick_from() {
    let mut stage = Stage::peopled(80, 24);
    let device = |device: &str, name: &str, this| Device {
        device: device.to_owned(),
        name: name.to_owned(),
        since_ms: NOON - 40 * DAY,
        this,
    };
    stage.answer(Then::Devices, &vec![device("d1", "laptop", true), device("d2", "phone", false)]);
    stage.assert_picture("devices");
    let member = |name: &str, me, verified, devices| Member {
        account: name.to_lowercase(),
        name: name.to_owned(),
        devices,
        verified,
        me,
        other_key: false,
    };
    let mut members = vec![
        member("Alice", true, true, 2),
        member("Bob", false, true, 1),
        member("Dana", false, false, 3),
        member("somebody who claims to be Carol", false, false, 1),
    ];
    members[3].other_key = true;
    let then = Then::Members { conversation: 2, action: Action::Members, narrow: String::new() };
    stage.answer(then, &members);
    stage.assert_picture("members");
    stage.press(KeyCode::Esc);
    stage.press(KeyCode::Char('/'));
    stage.type_text("group Chess");
    stage.press(KeyCode::Enter);
    stage.press(KeyCode::Char(' '));
    stage.press(KeyCode::Down);
    stage.press(KeyCode::Char(' '));
    stage.assert_picture("new-group");
    stage.press(KeyCode::Esc);
    stage.press(KeyCode::Char('/'));
    stage.type_text("export");
    stage.press(KeyCode::Enter);
    stage.type_text("secret words");
    stage.assert_picture("passphrase");
}

#[test]
fn the_connection_is_seen() {
    let mut stage = Stage::peopled(100, 10);
    let why = "connection refused by relay.example:7443".to_owned();
    let offline = Connection::Offline { why, retry_in_ms: 8_000 };
    stage.input(Input::Event(Event::Connection(offline)));
    stage.wait(1_500);
    stage.assert_picture("offline");
    stage.resize(20, 6);
    assert!(stage.picture().contains("○ offline, 7 s"));
    stage.resize(100, 10);
    stage.wait(60_000);
    assert!(stage.picture().contains("trying again"));
    stage.input(Input::Event(Event::Connection(Connection::Connecting)));
    assert!(stage.picture().contains("connecting…"));
}

#[test]
fn a_closed_conversation_says_why_and_what_to_do() {
    let mut stage = Stage::peopled(80, 24);
    let mut bob = conversation(1, "Bob", 0);
    bob.closed = Some(
        "Bob's identity is new, and the old one did not sign it. Ask Bob in person, then /accept."
            .to_owned(),
    );
    bob.disappear_seconds = 86_400;
    stage.input(Input::Event(Event::Conversation { conversation: bob }));
    stage.assert_picture("closed");
}

#[test]
fn new_messages_are_marked_and_a_draft_grows() {
    let mut stage = Stage::peopled(80, 24);
    stage.press(KeyCode::Tab);
    let messages = (30..44)
        .map(|n| {
            let name = if n % 3 == 0 { "Dana" } else { "Erik" };
            text(2, n, name, &format!("message {n}"), NOON - (50 - n as u64) * MINUTE)
        })
        .collect();
    stage.load(2, messages);
    stage.type_text("first");
    stage.press_with(KeyCode::Enter, KeyModifiers::ALT);
    stage.input(Input::Paste("second line\nthird, which is so long that it takes two rows".into()));
    stage.assert_picture("draft");
    stage.press(KeyCode::PageUp);
    stage.assert_picture("scrolled");
}

#[test]
fn foreign_text_does_no_harm() {
    let mut stage = Stage::empty(80, 16);
    let mut evil = conversation(7, "Ev\u{202e}il\u{1b}[2J\nname", 0);
    let long = "👩‍👩‍👧‍👦".repeat(40) + &"\u{301}".repeat(50) + "\u{200d}\u{200d} end";
    let messages = vec![
        text(
            7,
            1,
            "Ev\u{202e}il",
            "\u{1b}]0;owned\u{7}\u{1b}[31mred\r\nand\u{202e}backwards",
            NOON,
        ),
        text(7, 2, "Ev\u{202e}il", &long, NOON),
        text(7, 3, "Ev\u{202e}il", "\u{9b}31m \u{2066}\u{2069} \u{0} tab\there", NOON),
    ];
    evil.last = messages.first().cloned();
    stage.answer(Then::Conversations, &vec![evil]);
    stage.load(7, messages);
    let picture = stage.picture();
    let harmful = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}\u{2069}".contains(c);
    assert!(!picture.contains(harmful), "{picture:?}");
    stage.assert_picture("harmless");
}

#[test]
fn nothing_panics_at_any_size() {
    for open_help in [false, true] {
        for width in (1..70).chain([100, 300]) {
            for height in (1..16).chain([40]) {
                let mut stage = Stage::peopled(width, height);
                stage.press(KeyCode::Enter);
                stage.type_text("some words that are longer than a row");
                stage.press(KeyCode::PageUp);
                if open_help {
                    stage.press(KeyCode::F(1));
                    stage.press(KeyCode::PageDown);
                }
                stage.draw();
                stage.ctrl('k');
                stage.draw();
                stage.answer(Then::Invite, &Link { link: "valise://x:1/y#z".to_owned() });
                stage.draw();
            }
        }
    }
}

/// Without colour nothing is coloured, and read still differs from delivered.
#[test]
fn without_colour() {
    let mut stage = Stage::peopled(100, 30);
    stage.model.colour = false;
    let messages = vec![
        mine(1, 1, "first", NOON, MessageState::Read),
        mine(1, 2, "second", NOON, MessageState::Delivered),
        mine(1, 3, "third", NOON, MessageState::Failed),
    ];
    stage.load(1, messages);
    let mut seen = Vec::new();
    for popup in ["", "?", "/", "i"] {
        stage.type_text(popup);
        let backend = stage.draw();
        for cell in &backend.buffer().content {
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "{cell:?}");
            let allowed = Modifier::BOLD | Modifier::UNDERLINED | Modifier::REVERSED;
            assert!(allowed.contains(cell.modifier), "{cell:?}");
            if popup.is_empty() && cell.symbol() == "✓" {
                seen.push(cell.modifier.contains(Modifier::UNDERLINED));
            }
        }
        stage.press(KeyCode::Esc);
    }
    // Bob's first message was read in the older talk as well.
    assert!(seen.contains(&true) && seen.contains(&false), "{seen:?}");
}
