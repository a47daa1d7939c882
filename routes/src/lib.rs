//! TODO one sentence.
