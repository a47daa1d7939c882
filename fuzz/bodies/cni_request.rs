//! What must hold of the reader of the plugin's requests, delegated addresses among them; run by libFuzzer, and on
//! stable over the committed corpus.

use cni_spec::socket::{Request, decode_frame, encode_frame};

/// Reads bytes as a request's JSON; in a frame, it reads as the same. Panics when that does not hold.
pub fn check(data: &[u8]) {
    let _ = decode_frame::<Request>(data);
    let Ok(request) = serde_json::from_slice::<Request>(data) else {
        return;
    };
    let name = request.pending_deletion_name();
    assert!(
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'),
        "{name}"
    );
    let frame = encode_frame(&request).expect("what was read is no longer than a frame");
    let again = decode_frame::<Request>(&frame).expect("what we write can be read");
    assert_eq!(again, Some((request, frame.len())));
}
