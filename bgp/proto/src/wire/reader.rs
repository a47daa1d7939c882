//! A bounded reader: every read is checked against the slice it was made from, so reading past it cannot be written.

/// What was asked for is longer than what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short;

/// The unread rest of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of exactly these bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// True when all is consumed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The unread bytes, without consuming them.
    pub(super) fn peek(&self) -> &'a [u8] {
        self.0
    }

    /// The unread bytes, all of them.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Short)?;
        self.0 = tail;
        Ok(head)
    }

    /// A reader of the next `len` bytes only.
    pub(super) fn sub(&mut self, len: usize) -> Result<Self, Short> {
        self.take(len).map(Self)
    }

    /// The next `N` bytes as an array.
    pub(super) fn take_array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Short)?;
        self.0 = tail;
        Ok(*head)
    }

    /// One octet.
    pub(super) fn u8(&mut self) -> Result<u8, Short> {
        self.take_array().map(u8::from_be_bytes)
    }

    /// Two octets.
    pub(super) fn u16(&mut self) -> Result<u16, Short> {
        self.take_array().map(u16::from_be_bytes)
    }

    /// Four octets.
    pub(super) fn u32(&mut self) -> Result<u32, Short> {
        self.take_array().map(u32::from_be_bytes)
    }

    /// That all is consumed.
    pub(super) fn finish(self) -> Result<(), Short> {
        if self.is_empty() { Ok(()) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_reader_ends_where_it_was_told_to() {
        let mut outer = Reader::new(&[1, 2, 3, 4]);
        let mut inner = outer.sub(2).unwrap();
        assert_eq!(inner.u16(), Ok(0x0102));
        assert_eq!(inner.u8(), Err(Short));
        assert_eq!(outer.u8(), Ok(3));
        assert_eq!(outer.finish(), Err(Short));
    }

    #[test]
    fn a_failed_read_consumes_nothing() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u32(), Err(Short));
        assert_eq!(reader.take(4), Err(Short));
        assert_eq!(reader.take_array(), Ok([1, 2, 3]));
        assert_eq!(reader.finish(), Ok(()));
    }
}
