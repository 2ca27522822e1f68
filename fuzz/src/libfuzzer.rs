//! The door through which libFuzzer calls: the one C symbol and the one `unsafe` block.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::{env, process, slice};

/// Read once: the program fuzzes one target from start to end.
static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, length: usize) -> c_int {
    let run = TARGET.get_or_init(named_target);
    if data.is_null() || length == 0 {
        run(&[]);
        return 0;
    }
    // SAFETY: libFuzzer passes `length` readable bytes and leaves them alone until we return.
    let input = unsafe { slice::from_raw_parts(data, length) };
    run(input);
    0
}

fn named_target() -> fn(&[u8]) {
    let name = env::var("POSTROAD_FUZZ_TARGET").unwrap_or_default();
    postroad_fuzz::target(&name).unwrap_or_else(|| {
        eprintln!("postroad-fuzz: POSTROAD_FUZZ_TARGET names no target: `{name}`");
        process::exit(2)
    })
}
