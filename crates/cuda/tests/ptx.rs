//! The compiled kernels are those of the source.

use sha2::{Digest as _, Sha256};

const SOURCE: &str = include_str!("../src/kernels.cu");
const COMPILED: &str = include_str!("../src/kernels.ptx");

#[test]
fn the_ptx_is_that_of_the_source() {
    let hash: String =
        Sha256::digest(SOURCE).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let first = COMPILED.lines().next().unwrap_or_default();
    assert_eq!(first, format!("// kernels.cu {hash}"), "kernels.cu has changed: run `cargo xtask ptx`");
    // Any driver since 530 and any GPU since Volta takes it.
    assert!(COMPILED.contains("\n.version 8.1\n") && COMPILED.contains("\n.target sm_70\n"));
    assert!(COMPILED.contains(".visible .entry norm_backward_bf16("));
}
