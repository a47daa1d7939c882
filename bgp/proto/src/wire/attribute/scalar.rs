//! The attributes that are one number of four octets: MULTI_EXIT_DISC and LOCAL_PREF (RFC 4271 §5.1.4, §5.1.5).

use super::table::Fault;
use crate::wire::reader::Reader;

pub(super) fn decode(value: &[u8]) -> Result<u32, Fault> {
    let mut reader = Reader::new(value);
    reader
        .u32()
        .and_then(|number| reader.finish().map(|()| number))
        .map_err(|_| Fault::LENGTH)
}
