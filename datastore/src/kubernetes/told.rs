//! What those who read one kind each tell the one who knows them all.

use tokio::sync::oneshot;

use super::decode::Object;
use super::kind::Kind;

/// How much may wait to be taken in before the readers wait.
pub(super) const QUEUE: usize = 256;

/// Something that was read.
#[derive(Debug)]
pub(super) enum Told {
    /// A list begins.
    Began(Kind),
    /// An object is so now.
    Is(Box<Object>),
    /// An object is gone, or was never there.
    Gone(Kind, Box<str>),
    /// The list is whole: what was not told since it began is gone.
    Listed(Kind),
    /// The server has no such kind, so no object of it.
    Absent(Kind),
    /// The kind cannot be read now, or can be again. Its last state stays.
    Trouble(Kind, Option<String>),
    /// Answer when all that was told before has been sent.
    Barrier(oneshot::Sender<()>),
}
