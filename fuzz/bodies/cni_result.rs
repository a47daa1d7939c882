//! What must hold of the reader and writer of CNI results; run by libFuzzer, and on stable over the committed corpus.

use cni_spec::{AddResult, CniVersion};

/// Reads bytes as a result of any plugin's; what each version can say of it reads as the same. Panics when that does
/// not hold.
pub fn check(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else {
        return;
    };
    for said_nothing in [CniVersion::V0_1_0, CniVersion::LATEST] {
        let Ok(result) = AddResult::from_json(&value, said_nothing) else {
            continue;
        };
        for version in CniVersion::SUPPORTED {
            let Ok(written) = result.to_json(version) else {
                assert!(
                    version < CniVersion::V0_3_0,
                    "{version} can say every result"
                );
                continue;
            };
            let again = AddResult::from_json(&written, CniVersion::V0_1_0)
                .expect("what we write can be read")
                .to_json(version)
                .expect("what was said once can be said again");
            assert_eq!(again, written);
        }
        let whole = result
            .to_json(CniVersion::LATEST)
            .expect("the latest says all");
        let again = AddResult::from_json(&whole, CniVersion::V0_1_0);
        assert_eq!(again.as_ref(), Ok(&result), "{whole}");
    }
}
