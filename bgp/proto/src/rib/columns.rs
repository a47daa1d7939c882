//! What is known of each prefix, by its dense id: columns that grow by chunks, sets of ids, queues without repeats.

use std::collections::VecDeque;

/// Ids to a chunk, as a power of two.
const CHUNK_BITS: u32 = 12;
/// Ids to a chunk.
pub(super) const CHUNK: usize = 1 << CHUNK_BITS;
/// A queue that was longer gives its memory back when it is empty.
const KEPT_CAPACITY: usize = 16 * 1024;

/// The chunk of an id, and the place in it.
pub(super) fn place(id: u32) -> (usize, usize) {
    ((id >> CHUNK_BITS) as usize, id as usize & (CHUNK - 1))
}

/// A value for every id; chunks without any but the default take no memory until they are written.
#[derive(Debug)]
pub(super) struct Column<T> {
    chunks: Vec<Option<Box<[T]>>>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T: Copy + Default> Column<T> {
    pub(super) fn get(&self, id: u32) -> T {
        self.peek(id).copied().unwrap_or_default()
    }

    /// The value, if its chunk was ever written.
    pub(super) fn peek(&self, id: u32) -> Option<&T> {
        let (chunk, at) = place(id);
        self.chunks.get(chunk)?.as_ref()?.get(at)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> &mut T {
        let (chunk, at) = place(id);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        self.chunks
            .get_mut(chunk)
            .map(|held| held.get_or_insert_with(|| vec![T::default(); CHUNK].into_boxed_slice()))
            .and_then(|held| held.get_mut(at))
            .expect("the chunk was made above")
    }

    pub(super) fn clear(&mut self) {
        self.chunks = Vec::new();
    }
}

/// A set of ids.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    pub(super) fn contains(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 64).copied();
        word.unwrap_or_default() & (1 << (id % 64)) != 0
    }

    /// False if it was there already.
    pub(super) fn insert(&mut self, id: u32) -> bool {
        let at = id as usize / 64;
        if at >= self.words.len() {
            self.words.resize((at + 1).next_multiple_of(64), 0);
        }
        let Some(word) = self.words.get_mut(at) else {
            return false;
        };
        let fresh = *word & (1 << (id % 64)) == 0;
        *word |= 1 << (id % 64);
        fresh
    }

    pub(super) fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 64) {
            *word &= !(1 << (id % 64));
        }
    }
}

/// Ids that wait for something, each once, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ids: VecDeque<u32>,
    waiting: Bits,
}

impl Queue {
    pub(super) fn push(&mut self, id: u32) {
        if self.waiting.insert(id) {
            self.ids.push_back(id);
        }
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        let id = self.ids.pop_front()?;
        self.waiting.remove(id);
        if self.ids.is_empty() && self.ids.capacity() > KEPT_CAPACITY {
            self.ids = VecDeque::new();
        }
        Some(id)
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.waiting.contains(id)
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_holds_what_was_put_and_defaults_elsewhere() {
        let mut column = Column::<u32>::default();
        assert_eq!(column.get(1_000_000), 0);
        *column.get_mut(9_000) = 7;
        assert_eq!((column.get(9_000), column.get(8_999)), (7, 0));
        assert!(column.peek(0).is_none(), "its chunk was never written");
        column.clear();
        assert_eq!(column.get(9_000), 0);
    }

    #[test]
    fn a_queue_holds_each_id_once_in_order() {
        let mut queue = Queue::default();
        for id in [5, 70_000, 5, 1] {
            queue.push(id);
        }
        assert_eq!(queue.len(), 3);
        assert_eq!(queue.pop(), Some(5));
        assert!(!queue.contains(5) && queue.contains(1));
        queue.push(5);
        let rest: Vec<u32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, [70_000, 1, 5]);
    }
}
