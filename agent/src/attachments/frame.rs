//! Records in a file that only grows: length, CRC32C and bytes of each, and what a cut or damaged end is taken for.

/// Length and checksum, four bytes each, the least significant first.
const HEADER: usize = 8;
/// No record of ours is near this: a greater length is none.
const MAX: usize = 1 << 20;

/// How the file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a whole record.
    Whole,
    /// In a record that was not written to its end, or in bytes that the disk never got.
    Torn,
    /// In something that no cut explains, or before more records.
    Damaged,
}

/// What was found in a file.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    /// The whole records, one after the other.
    pub(super) records: Vec<&'a [u8]>,
    /// Where the last of them ends.
    pub(super) good: usize,
    /// What follows them.
    pub(super) end: End,
}

/// Puts a record behind what is in a buffer. `None` if it is empty or too long to be read back.
pub(super) fn put(buffer: &mut Vec<u8>, record: &[u8]) -> Option<()> {
    let length = u32::try_from(record.len()).ok()?;
    if record.is_empty() || record.len() > MAX {
        return None;
    }
    buffer.extend(length.to_le_bytes());
    buffer.extend(checksum(length, record).to_le_bytes());
    buffer.extend(record);
    Some(())
}

/// Reads all records up to the end, or to the first that is not whole.
pub(super) fn scan(bytes: &[u8]) -> Scan<'_> {
    let (mut records, mut good) = (Vec::new(), 0);
    let mut rest = bytes;
    while let Some((record, behind)) = next(rest) {
        records.push(record);
        good += HEADER + record.len();
        rest = behind;
    }
    Scan {
        records,
        good,
        end: end(rest),
    }
}

/// The record at the start, and what follows it.
fn next(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, sum, behind) = header(bytes)?;
    let (record, behind) = behind.split_at_checked(usize::try_from(length).ok()?)?;
    (!record.is_empty() && record.len() <= MAX && checksum(length, record) == sum)
        .then_some((record, behind))
}

fn header(bytes: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (length, behind) = bytes.split_first_chunk::<4>()?;
    let (sum, behind) = behind.split_first_chunk::<4>()?;
    Some((
        u32::from_le_bytes(*length),
        u32::from_le_bytes(*sum),
        behind,
    ))
}

/// A process that dies in a write leaves a beginning of the record; a machine that dies may leave zeros. What has its
/// full length and a wrong checksum, or has records behind it, is neither.
fn end(rest: &[u8]) -> End {
    if rest.is_empty() {
        return End::Whole;
    }
    if rest.iter().all(|byte| *byte == 0) {
        return End::Torn;
    }
    let is_short = header(rest).is_none_or(|(length, _, behind)| {
        usize::try_from(length).is_ok_and(|length| length <= MAX && length > behind.len())
    });
    // A damaged length looks like a record that is cut; then others follow it.
    let follows = || (1..rest.len()).any(|at| rest.get(at..).and_then(next).is_some());
    if is_short && !follows() {
        End::Torn
    } else {
        End::Damaged
    }
}

/// Over the length as well: otherwise eight zeros would be a record.
fn checksum(length: u32, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), record)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: [&[u8]; 3] = [br#"{"a":1}"#, b"x", br#"{"longer":"record"}"#];

    fn file() -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in RECORDS {
            put(&mut bytes, record).unwrap();
        }
        bytes
    }

    #[test]
    fn what_was_put_is_found_and_a_cut_at_every_byte_leaves_the_records_before_it() {
        let bytes = file();
        let ends: Vec<usize> = RECORDS
            .iter()
            .scan(0, |at, record| {
                *at += HEADER + record.len();
                Some(*at)
            })
            .collect();
        for cut in 0..=bytes.len() {
            let scan = scan(&bytes[..cut]);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(scan.records, RECORDS[..whole], "{cut}");
            let is_whole = cut == 0 || ends.contains(&cut);
            let end = if is_whole { End::Whole } else { End::Torn };
            assert_eq!(scan.end, end, "{cut}");
        }
    }

    #[test]
    fn zeros_behind_the_last_record_are_what_a_dead_machine_left() {
        for zeros in 1..40 {
            let mut bytes = file();
            bytes.extend(vec![0; zeros]);
            let scan = scan(&bytes);
            assert_eq!((scan.records.len(), scan.end), (3, End::Torn), "{zeros}");
        }
    }

    #[test]
    fn a_byte_that_changed_is_damage_wherever_it_is() {
        let bytes = file();
        let last = bytes.len() - RECORDS[2].len() - HEADER;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x14;
            let scan = scan(&damaged);
            assert!(scan.records.len() < 3, "{at}");
            // The last record's length made greater cannot be told from a cut.
            if !(last..last + 4).contains(&at) {
                assert_eq!(scan.end, End::Damaged, "{at}");
            }
        }
    }

    #[test]
    fn whatever_stands_in_a_file_is_read_to_its_last_whole_record() {
        let (whole, mut state) = (file(), 0x5eed_u64);
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut damaged = 0;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=random() % 4 {
                let at = usize::try_from(random()).unwrap() % bytes.len();
                bytes[at] = random().to_le_bytes()[0];
            }
            bytes.truncate(usize::try_from(random()).unwrap() % (whole.len() + 1));
            let scan = scan(&bytes);
            assert!(scan.good <= bytes.len());
            assert!(scan.records.iter().all(|record| RECORDS.contains(record)));
            damaged += usize::from(scan.end == End::Damaged);
        }
        assert!(damaged > 1_000, "{damaged}");
    }

    #[test]
    fn a_record_that_could_not_be_read_back_is_not_put() {
        let mut bytes = Vec::new();
        assert!(put(&mut bytes, b"").is_none());
        assert!(put(&mut bytes, &vec![b'x'; MAX + 1]).is_none());
        assert!(bytes.is_empty());
        put(&mut bytes, &vec![b'x'; MAX]).unwrap();
        assert_eq!(scan(&bytes).records.len(), 1);
    }
}
