//! Small explorations and a few seeds of the simulation, so that the gate keeps them;
//! docs/MIGRATION-MODEL.md says what the large ones were. Every broken rule has to be found.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, dead_code)]

#[path = "../model/mod.rs"]
mod model;

use model::checks::Invariant;
use model::configurations::{self, Configuration};
use model::explorer::explore;
use model::mutants::Mutant;
use model::pack::{Bytes, Pack};
use model::world::World;
use model::{simulation, trace};

/// What each broken rule breaks first.
const BREAKS: &[(Mutant, Invariant)] = &[
    (Mutant::UnsealByTimeout, Invariant::TwoOwners),
    (Mutant::UnsealWithoutVersion, Invariant::TwoOwners),
    (Mutant::ActivateEarly, Invariant::Lost),
    (Mutant::ActivateBlindly, Invariant::TwoOwners),
    (Mutant::ImportBlindly, Invariant::ItemTwice),
    (Mutant::AcceptSealed, Invariant::Lost),
    (Mutant::AnswerVolatile, Invariant::Lost),
    (Mutant::RemoveLater, Invariant::ItemTwice),
    (Mutant::RemoveAnyMigration, Invariant::Lost),
    (Mutant::ServeUnsure, Invariant::TwoOwners),
    (Mutant::ShowAnyBoot, Invariant::TwoOwners),
    (Mutant::ClearEverything, Invariant::Lost),
    (Mutant::OpenUncleared, Invariant::ItemTwice),
    (Mutant::ForgetRevocations, Invariant::Unrevoked),
    (Mutant::ForgetSlots, Invariant::SlotTwoWinners),
    (Mutant::ForgetCodes, Invariant::CodeTwice),
    (Mutant::ForgetTakes, Invariant::ItemTwice),
    (Mutant::ForgetExpiries, Invariant::Stuck),
    (Mutant::Pipeline, Invariant::Order),
    (Mutant::ForwardReturns, Invariant::TwoOwners),
    (Mutant::WipeSealed, Invariant::WipedTooMuch),
    (Mutant::AcceptUnowned, Invariant::Lost),
    (Mutant::ReplacedOnMove, Invariant::Stuck),
    (Mutant::AbortAlone, Invariant::TwoOwners),
    (Mutant::ServeFenced, Invariant::FencedAccepts),
    (Mutant::SealLowered, Invariant::TwoOwners),
];

fn configuration(name: &str) -> Configuration {
    configurations::all().into_iter().find(|one| one.name == name).unwrap()
}

fn found(half: usize) {
    for (mutant, breaks) in BREAKS.iter().skip(half).step_by(2) {
        let shape = configurations::seeded(*mutant);
        let found = explore(&shape, 1_000_000, |_, _, _| {}).found;
        let found = found.unwrap_or_else(|| panic!("{mutant:?} was not found"));
        assert_eq!(found.violation.0, *breaks, "{mutant:?}\n{}", trace::readable(&shape, &found));
    }
}

#[test]
fn broken_rules_are_found() {
    assert_eq!(BREAKS.len(), Mutant::ALL.len());
    assert!(Mutant::ALL.iter().all(|mutant| BREAKS.iter().any(|(of, _)| of == mutant)));
    found(0);
}

#[test]
fn the_other_half_of_them_is_found() {
    found(1);
}

/// A rule that others make up for: it is no proof of anything to have it.
#[test]
fn what_is_survived_is_survived() {
    for mutant in Mutant::SURVIVED {
        let shape = configurations::seeded(mutant);
        let explored = explore(&shape, 1_000_000, |_, _, _| {});
        assert!(explored.whole && explored.found.is_none(), "{mutant:?}: {:?}", explored.found);
    }
}

#[test]
fn small_worlds_are_safe_and_end_well() {
    for name in ["small-abort", "small-zombie"] {
        let Configuration { shape, .. } = configuration(name);
        let explored = explore(&shape, 1_000_000, |_, _, _| {});
        if let Some(found) = explored.found {
            panic!("{name}\n{}", trace::readable(&shape, &found));
        }
        assert!(explored.whole && explored.states > 100_000, "{name}: {}", explored.states);
    }
}

/// Of every configuration the beginning.
#[test]
fn larger_worlds_begin_safely() {
    for Configuration { name, shape, .. } in configurations::all() {
        let explored = explore(&shape, 20_000, |_, _, _| {});
        if let Some(found) = explored.found {
            panic!("{name}\n{}", trace::readable(&shape, &found));
        }
    }
}

#[test]
fn large_worlds_run_at_random() {
    for seed in 0..500 {
        if let Err(failed) = simulation::run(seed) {
            let violation = failed.violation;
            panic!("seed {seed} after {} moves: {:?} {}", failed.after, violation.0, violation.1);
        }
    }
}

/// What is packed is what is unpacked, along a random way.
#[test]
fn states_are_packed_whole() {
    let Configuration { shape, .. } = configuration("quota");
    let (mut world, mut moves, mut roll) = (shape.world(), Vec::new(), 1_usize);
    for _ in 0..2_000 {
        shape.moves(&world, &mut moves);
        roll = roll.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let what = moves[(roll >> 33) % moves.len()];
        if let Some(next) = shape.apply(&world, what).unwrap() {
            world = next;
        }
        let mut packed = Vec::new();
        world.pack(&mut packed);
        assert_eq!(World::unpack(&mut Bytes(&packed)), world);
    }
}
