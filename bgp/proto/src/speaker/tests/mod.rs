//! Whole speakers on a network in virtual time.

mod bfd;
mod dynamic;
mod lab;
mod limits;
mod nodes;
mod reload;
mod restart;
