//! Limits as an operator writes them, asked as the journey asks.

mod away;
mod compiled;
mod costs;
mod inspect;
mod pages;
mod refused;
pub(crate) mod site;
