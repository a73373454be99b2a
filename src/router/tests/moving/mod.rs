//! A supernode's engine while its shards move, over a real store: random things happen to it, its
//! logs are read as an importer reads them, and whoever has read them has what the store has.
//!
//! `VALISE_MOVES=N` plays N instead of a few, `VALISE_MOVES_SEED=S` begins at S.
//!
//! Broken builds, and the first seed of 200 that finds each:
//!
//! | broken | seed |
//! |---|---|
//! | frames still wait for their acknowledgement while shards move | 2 |
//! | an acknowledgement is not entered | 1 |
//! | what expires above the floor is entered as acknowledged | 4 |
//! | it is not entered | 15 |
//! | what leaves a sealed shard is removed | 11 |
//! | a shard that was restarted serves | 2 |
//! | a seal does not stop what waits behind it | 1 |
//! | a publication that replaces items does not enter that | 1 |

mod replica;
mod stage;

use stage::Stage;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[tokio::test]
async fn whoever_reads_the_logs_has_what_the_store_has() {
    let first = number("VALISE_MOVES_SEED", 1);
    for seed in first..first + number("VALISE_MOVES", 20) {
        println!("seed {seed}");
        let mut stage = Stage::new(seed);
        stage.live(60).await;
        stage.begin().await;
        for _ in 0..4 {
            stage.live(40).await;
            stage.copy();
            stage.disturb().await;
        }
        stage.seal().await;
        stage.live_sealed().await;
        stage.copy_everything();
        stage.compare();
        if stage.dice.below(2) == 0 {
            stage.release().await;
            stage.live(40).await;
            stage.seal().await;
            stage.copy_everything();
            stage.compare();
        }
        stage.hand_over().await;
        stage.wipe().await;
    }
}

#[tokio::test]
async fn a_migration_that_is_given_up_leaves_nothing() {
    for seed in 1..10 {
        let mut stage = Stage::new(seed);
        stage.live(60).await;
        stage.begin().await;
        stage.live(60).await;
        if seed % 2 == 0 {
            stage.seal().await;
            stage.live_sealed().await;
        }
        stage.abort().await;
        stage.live(60).await;
        stage.begin().await;
        stage.live(40).await;
        stage.seal().await;
        stage.copy_everything();
        stage.compare();
    }
}
