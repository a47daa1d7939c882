//! Desired against actual, and when to try again; pure: what it keys and holds is its user's, time comes in.

mod backoff;
mod delta;

pub use backoff::{Backoff, RetrySet};
pub use delta::DeltaMap;
