//! The same script of clients gives the same transcripts on a supernode, on one node of a data centre,
//! and on three nodes between which the clients move. All of it is real: relays, sockets, servers.
//!
//! `VALISE_SCRIPTS=N` plays N scripts instead of a few; `VALISE_SCRIPT_SEED=S` begins at S
//! (`just scripts`). What one place may do otherwise than another is named by the rules in
//! `transcript.rs`.
//!
//! That it can find something was tried with broken builds. The seed is the first that finds it, of
//! those from 1 on:
//!
//! | broken | seed |
//! |---|---|
//! | a node does not tell `Replaced` | 1 |
//! | a node takes posts by a revoked capability | 2 |
//! | a node stores a repeated frame again | 1 |
//! | a node keeps a copy of each frame in another mailbox | 1 |
//! | a supernode keeps a copy of each frame in another mailbox | 1 |
//! | a node does not remove what was acknowledged when somebody detaches | 1 |
//! | a node removes more than was acknowledged | 1 |
//! | a node acknowledges one frame too few | 1 |
//! | a node does not tell `BundleLow` | 1 |
//! | a node hands an item out twice | 1 |
//! | a node tells whoever lost a slot that his value is stored | 3 |
//! | a node delivers the newest frame first | 1 |
//! | a node says `CaughtUp` before it has read anything | 1 |
//! | a supernode says `accepted` of a frame that is repeated by a revoked capability | 6 |
//!
//! `plaintexts.rs` finds a relay that logs, or counts, something of whoever signals.

mod acts;
mod book;
mod place;
mod plaintexts;
mod script;
mod stage;
mod transcript;

use place::Place;
use script::script;
use stage::{Manner, Stage};
use transcript::Transcripts;

/// Steps of a script.
const STEPS: usize = 60;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_gives_the_same_transcripts_everywhere() {
    let Some(one) = Place::data_centre(1).await else { return };
    let three = Place::data_centre(3).await.unwrap();
    let supernode = Place::supernode().await;
    let (first, count) = (number("VALISE_SCRIPT_SEED", 1), number("VALISE_SCRIPTS", 4));
    let mut copies = 0;
    for (play, seed) in (0..).zip(first..first + count) {
        let script = script(seed, STEPS);
        let manner = Manner::of_play(play);
        eprintln!("script {seed}");
        let (expected, of_one, of_three) = tokio::join!(
            Box::pin(Stage::play(&supernode, &script, manner)),
            Box::pin(Stage::play(&one, &script, manner)),
            Box::pin(Stage::play(&three, &script, manner)),
        );
        let [expected, of_one, of_three] = [expected, of_one, of_three].map(|s| s.transcripts);
        assert!(expected.len() > 3 * STEPS, "{} events", expected.len());
        compare(seed, "one node", &expected, &of_one);
        compare(seed, "three nodes", &expected, &of_three);
        copies += of_one.copies + of_three.copies;
    }
    eprintln!("{count} scripts from seed {first}; {copies} copies after takeovers");
    for place in [supernode, one, three] {
        place.finish().await;
    }
}

fn compare(seed: u64, place: &str, expected: &Transcripts, found: &Transcripts) {
    if let Some(differences) = expected.differences(found) {
        panic!("seed {seed}: a supernode, and then {place}:\n{differences}");
    }
}
