//! Memory that is given back to the system while the daemon does nothing.
//!
//! The allocator keeps what was freed, in case it is needed again; a stack keeps its deepest call, and the pages of the
//! program that ran at the start are counted for the process for as long as it lives. An idle daemon needs none of that.

use super::unsafe_calls;

/// Gives back what the allocator keeps of freed memory: of all threads what lies between other memory, of this one and the
/// main one also what lies at the end. It walks through all of it: some 100 µs for a few MB.
pub(crate) fn give_back_free() {
    unsafe_calls::give_back_freed_memory();
}

/// Gives back what only the start of the program needed: freed memory, the stack of the main thread below the current call,
/// and pages of the program and its libraries, which the system reads again from the file (mostly from its cache) if they
/// are needed. Another thread than the main one keeps its stack. Does nothing but the first where the system does not report mappings.
pub(crate) fn give_back_start() {
    give_back_free();
    #[cfg(target_os = "linux")]
    unsafe_calls::discard_unneeded_pages();
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_process_goes_on_without_what_was_given_back() {
        let before = vec![7_u8; 1 << 20];
        give_back_start();
        assert!(before.iter().all(|byte| *byte == 7));
        give_back_start();
    }
}
