//! Replays the corpus: what the fuzzer once found interesting stays a test.

use std::path::Path;
use std::{fs, io};

/// The corpus may not grow past this.
const MOST_BYTES: u64 = 1 << 20;

fn files(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(dir)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.sort();
    Ok(files)
}

#[test]
fn what_the_fuzzer_kept_is_still_in_order() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut bytes = 0;
    for (name, target) in fuzz_targets::TARGETS {
        let files = files(&corpus.join(name)).unwrap_or_default();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let input = fs::read(&file).unwrap();
            bytes += u64::try_from(input.len()).unwrap();
            let result = std::panic::catch_unwind(|| target(&input));
            assert!(result.is_ok(), "{} panics", file.display());
        }
    }
    assert!(bytes < MOST_BYTES, "the corpus has {bytes} bytes");
}

#[test]
fn every_target_takes_anything() {
    for (name, target) in fuzz_targets::TARGETS {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for len in (0..40).map(|n| n * 37 % 600) {
            let input: Vec<u8> = (0..len)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[3]
                })
                .collect();
            let result = std::panic::catch_unwind(|| target(&input));
            assert!(result.is_ok(), "{name} panics on {len} bytes: {input:x?}");
        }
    }
}
