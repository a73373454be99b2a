//! The world in which the explorer and the simulation run the crate's functions.

pub mod broken;
pub mod checks;
pub mod clients;
pub mod configurations;
pub mod datacentre;
pub mod explorer;
pub mod moves;
pub mod mutants;
pub mod pack;
pub mod possible;
pub mod requests;
pub mod simulation;
pub mod supernode;
pub mod tiny;
pub mod trace;
pub mod world;
