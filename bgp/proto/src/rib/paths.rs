//! The paths to each prefix: one lies in the prefix's own slot, several in a list beside it.

use smallvec::SmallVec;

use super::columns::Column;
use super::store::AttributesId;

/// What stands where a peer's slot would: nobody.
const NOBODY: u16 = u16::MAX - 1;
/// What stands where a peer's slot would: see the list.
const SEVERAL: u16 = u16::MAX - 2;
/// The peer of what is originated here.
pub(super) const LOCAL: u16 = u16::MAX;
/// Peers have slots below this one.
pub(super) const MOST_PEERS: u16 = SEVERAL;

/// By how many paths a list grows: between memory for places that stay empty and time for moving.
const GROWTH: usize = 4;

/// What is noted of a path. The low four bits are its verdict.
pub(super) mod mark {
    pub(in crate::rib) const VERDICT: u16 = 0xf;
    /// Of a session that is gone, kept until the peer is back (RFC 4724 §4.2).
    pub(in crate::rib) const STALE: u16 = 1 << 4;
    /// Stale for long (RFC 9494 §4.2).
    pub(in crate::rib) const LONG_LIVED: u16 = 1 << 5;
    /// Not heard of again since the peer began a refresh (RFC 7313 §4.1).
    pub(in crate::rib) const UNREFRESHED: u16 = 1 << 6;
    /// The best path.
    pub(in crate::rib) const BEST: u16 = 1 << 7;
    /// Used beside the best path.
    pub(in crate::rib) const MULTIPATH: u16 = 1 << 8;
    /// The key is that of an [`super::Extra`].
    pub(super) const EXTRA: u16 = 1 << 9;
}

/// A path a peer announced, or what is originated here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Its attributes, or what to look up in the extras.
    key: u32,
    pub(super) peer: u16,
    /// The Path Identifier under which it is sent to others (RFC 7911 §2): unique among those of its prefix.
    pub(super) out_id: u16,
    pub(super) marks: u16,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            key: 0,
            peer: NOBODY,
            out_id: 1,
            marks: 0,
        }
    }
}

impl Path {
    pub(super) fn is(&self, mark: u16) -> bool {
        self.marks & mark != 0
    }

    pub(super) fn mark(&mut self, mark: u16, on: bool) {
        self.marks = if on {
            self.marks | mark
        } else {
            self.marks & !mark
        };
    }
}

/// What few paths have: a Path Identifier, or attributes that import rules changed.
#[derive(Clone, Copy, Debug, Default)]
struct Extra {
    content: Content,
}

/// What a path says: as it came, and as it is used. The two attribute sets are held by the path, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) received: AttributesId,
    pub(super) effective: AttributesId,
    /// As the peer gave it.
    pub(super) path_id: u32,
}

/// A prefix's own place.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Its only path; or, if there are several, the key is the list's.
    path: Path,
    /// The set of next hops last given out; 0: none.
    reported: u32,
}

/// All paths, by the ids of their prefixes.
#[derive(Debug, Default)]
pub(super) struct Paths {
    slots: Column<Slot>,
    lists: Vec<Vec<Path>>,
    free_lists: Vec<u32>,
    extras: Vec<Extra>,
    free_extras: Vec<u32>,
}

impl Paths {
    pub(super) fn of(&self, prefix: u32) -> &[Path] {
        match self.slots.peek(prefix) {
            None => &[],
            Some(slot) => match slot.path.peer {
                NOBODY => &[],
                SEVERAL => self
                    .lists
                    .get(slot.path.key as usize)
                    .map_or(&[], |list| list),
                _ => std::slice::from_ref(&slot.path),
            },
        }
    }

    pub(super) fn of_mut(&mut self, prefix: u32) -> &mut [Path] {
        if self.slots.peek(prefix).is_none() {
            return &mut [];
        }
        let slot = self.slots.get_mut(prefix);
        match slot.path.peer {
            NOBODY => &mut [],
            SEVERAL => self
                .lists
                .get_mut(slot.path.key as usize)
                .map_or(&mut [], |list| list),
            _ => std::slice::from_mut(&mut slot.path),
        }
    }

    /// The place among its prefix's paths of the one a peer gave this identifier.
    pub(super) fn find(&self, prefix: u32, peer: u16, path_id: u32) -> Option<usize> {
        self.of(prefix)
            .iter()
            .position(|path| path.peer == peer && self.path_id(path) == path_id)
    }

    pub(super) fn content(&self, path: &Path) -> Content {
        if path.is(mark::EXTRA) {
            let extra = self.extras.get(path.key as usize);
            return extra.map(|extra| extra.content).unwrap_or_default();
        }
        Content {
            received: path.key,
            effective: path.key,
            path_id: 0,
        }
    }

    /// The attributes that count.
    pub(super) fn effective(&self, path: &Path) -> AttributesId {
        if path.is(mark::EXTRA) {
            return self.content(path).effective;
        }
        path.key
    }

    fn path_id(&self, path: &Path) -> u32 {
        if path.is(mark::EXTRA) {
            return self.content(path).path_id;
        }
        0
    }

    /// Takes in a path that its peer had not yet announced.
    pub(super) fn add(&mut self, prefix: u32, peer: u16, content: Content, marks: u16) {
        let mut path = Path {
            peer,
            marks,
            ..Path::default()
        };
        self.set_content(&mut path, content);
        let slot = self.slots.get_mut(prefix);
        match slot.path.peer {
            NOBODY => slot.path = path,
            SEVERAL => {
                if let Some(list) = self.lists.get_mut(slot.path.key as usize) {
                    path.out_id = free_out_id(list);
                    if list.len() == list.capacity() {
                        list.reserve_exact(GROWTH);
                    }
                    list.push(path);
                }
            }
            _ => {
                let first = slot.path;
                path.out_id = free_out_id(&[first]);
                let list = vec![first, path];
                let key = give(&mut self.lists, &mut self.free_lists, list);
                slot.path = Path {
                    key,
                    peer: SEVERAL,
                    ..Path::default()
                };
            }
        }
    }

    /// Changes what a path says; what it said before is given back.
    pub(super) fn replace(&mut self, prefix: u32, at: usize, content: Content) -> Option<Content> {
        let mut path = *self.of(prefix).get(at)?;
        let before = self.content(&path);
        self.drop_extra(&path);
        path.mark(mark::EXTRA, false);
        self.set_content(&mut path, content);
        *self.of_mut(prefix).get_mut(at)? = path;
        Some(before)
    }

    /// Takes a path out; what it said is given back.
    pub(super) fn remove(&mut self, prefix: u32, at: usize) -> Option<Content> {
        let path = *self.of(prefix).get(at)?;
        let content = self.content(&path);
        self.drop_extra(&path);
        let slot = self.slots.get_mut(prefix);
        if slot.path.peer != SEVERAL {
            slot.path = Path::default();
            return Some(content);
        }
        let key = slot.path.key;
        let list = self.lists.get_mut(key as usize)?;
        list.remove(at);
        // One that others know by another identifier than 1 keeps it, and so the list.
        match list.as_slice() {
            [] => slot.path = Path::default(),
            [only] if only.out_id == 1 => slot.path = *only,
            _ => return Some(content),
        }
        *list = Vec::new();
        self.free_lists.push(key);
        Some(content)
    }

    pub(super) fn reported(&self, prefix: u32) -> u32 {
        self.slots.peek(prefix).map_or(0, |slot| slot.reported)
    }

    pub(super) fn set_reported(&mut self, prefix: u32, set: u32) {
        self.slots.get_mut(prefix).reported = set;
    }

    /// Gives all memory back; for when no prefix is left.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    fn set_content(&mut self, path: &mut Path, content: Content) {
        if content.path_id == 0 && content.received == content.effective {
            path.key = content.received;
            return;
        }
        path.mark(mark::EXTRA, true);
        path.key = give(&mut self.extras, &mut self.free_extras, Extra { content });
    }

    fn drop_extra(&mut self, path: &Path) {
        if path.is(mark::EXTRA) {
            self.free_extras.push(path.key);
        }
    }
}

/// The lowest identifier that no path has.
fn free_out_id(list: &[Path]) -> u16 {
    // One more than there are paths, and 0, which is never given: one of them is free.
    let mut used: SmallVec<[bool; 32]> = SmallVec::from_elem(false, list.len() + 2);
    for path in list {
        if let Some(used) = used.get_mut(usize::from(path.out_id)) {
            *used = true;
        }
    }
    let free = used.iter().skip(1).position(|used| !used);
    free.and_then(|free| u16::try_from(free + 1).ok())
        .unwrap_or(u16::MAX)
}

fn give<T>(places: &mut Vec<T>, free: &mut Vec<u32>, value: T) -> u32 {
    if let Some(id) = free.pop()
        && let Some(place) = places.get_mut(id as usize)
    {
        *place = value;
        return id;
    }
    places.push(value);
    u32::try_from(places.len() - 1).expect("fewer paths than ids")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(attributes: u32, path_id: u32) -> Content {
        Content {
            received: attributes,
            effective: attributes,
            path_id,
        }
    }

    #[test]
    fn a_prefix_takes_sixteen_octets_and_a_further_path_twelve() {
        assert_eq!(size_of::<Slot>(), 16);
        assert_eq!(size_of::<Path>(), 12);
    }

    #[test]
    fn one_path_lies_in_the_slot_and_several_in_a_list() {
        let mut paths = Paths::default();
        assert!(paths.of(5).is_empty());
        paths.add(5, 1, content(10, 0), 0);
        assert_eq!((paths.of(5).len(), paths.lists.len()), (1, 0));
        paths.add(5, 2, content(20, 0), 0);
        paths.add(5, 2, content(21, 9), 0);
        let ids: Vec<u16> = paths.of(5).iter().map(|path| path.out_id).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(paths.find(5, 2, 9), Some(2));
        assert_eq!(paths.remove(5, 0), Some(content(10, 0)));
        assert_eq!(paths.remove(5, 1), Some(content(21, 9)));
        let [left] = paths.of(5) else { panic!() };
        assert_eq!((left.peer, left.out_id), (2, 2), "its identifier stays");
        paths.add(5, 3, content(30, 0), 0);
        assert_eq!(paths.of(5)[1].out_id, 1, "the lowest free one");
        assert_eq!(paths.remove(5, 0), Some(content(20, 0)));
        assert_eq!(paths.of(5).len(), 1);
        assert_eq!(paths.free_lists.len(), 1, "back in the slot");
        paths.remove(5, 0);
        assert!(paths.of(5).is_empty());
    }

    #[test]
    fn changed_attributes_and_identifiers_are_kept_aside() {
        let mut paths = Paths::default();
        paths.add(5, 1, content(10, 0), mark::STALE);
        let changed = Content {
            received: 10,
            effective: 11,
            path_id: 0,
        };
        assert_eq!(paths.replace(5, 0, changed), Some(content(10, 0)));
        assert_eq!(paths.effective(&paths.of(5)[0]), 11);
        assert!(paths.of(5)[0].is(mark::STALE));
        assert_eq!(paths.replace(5, 0, content(12, 0)), Some(changed));
        assert_eq!(paths.free_extras.len(), 1);
        assert_eq!(paths.effective(&paths.of(5)[0]), 12);
    }
}
