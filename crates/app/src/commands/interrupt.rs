//! Ctrl-C: the first asks to stop in good order, the second ends the program.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};

/// Exit code of a program that was ended by the second Ctrl-C.
const ENDED: i32 = 130;

/// The flag that the first Ctrl-C sets; from the first call on, the process ends at the second only.
pub(crate) fn flag() -> Arc<AtomicBool> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = STOP.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the shutdown looks at the flag as the signal before has left it. Without handlers the
            // program ends at once, and what was saved before stays.
            let _ = register_conditional_shutdown(signal, ENDED, Arc::clone(&flag));
            let _ = register(signal, Arc::clone(&flag));
        }
        flag
    });
    Arc::clone(flag)
}
