//! The router and everything below it, against stores whose time and fate the tests decide.

mod histories;
mod moving;
