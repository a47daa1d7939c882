//! Reads decisions from the bytes of a fuzzer: a run out of bytes decides zero for ever.

use std::time::Duration;

/// What is left of the bytes.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    pub fn bytes(&mut self, longest: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(longest.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// From nothing to about an hour, short times as likely as long ones.
    pub fn time(&mut self) -> Duration {
        let (scale, count) = (self.u8() % 4, u64::from(self.u8()));
        Duration::from_millis(count * [1, 100, 1_000, 15_000][usize::from(scale)])
    }
}
