//! What survives crashes: the store against every cut of its writes, and against a killed process.

mod cuts;
mod kills;
