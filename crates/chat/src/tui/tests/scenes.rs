//! Pictures, compared with the committed ones in `tests/tui`.

use super::stage::Stage;

#[test]
fn a_conversation_in_a_usual_terminal() {
    Stage::peopled(100, 30).assert_picture("usual");
}
