//! Which mapped memory of this process can be given back without a loss.

use std::ops::Range;

/// Bytes below the stack pointer that are left as they are: more than the calls between here and the system call take.
const LIVE_STACK_BYTES: usize = 16 << 10;

/// Bytes of a page, as far as ranges are rounded to it. Where pages are longer, the system refuses the range, and nothing
/// is given back.
const PAGE_BYTES: usize = 4096;

/// Returns the ranges of addresses, among the mappings of this process (`proc_pid_maps(5)`), whose contents nothing can
/// miss: of the stack of the main thread what lies below the stack pointer, and code, which is never written to.
pub(super) fn discardable(mappings: &str, stack_pointer: usize) -> Vec<Range<usize>> {
    let range = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        match (fields.next()?, fields.nth(3)?) {
            ("r-xp", file) if file.starts_with('/') => Some(start..end),
            (_, "[stack]") if (start..end).contains(&stack_pointer) => {
                let live = stack_pointer.saturating_sub(LIVE_STACK_BYTES);
                Some(start..live - live % PAGE_BYTES).filter(|range| !range.is_empty())
            }
            _ => None,
        }
    };
    mappings.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPINGS: &str = "\
563a95c71000-563a95e5f000 r--p 00000000 fe:00 77 /usr/bin/codexd
563a95e5f000-563a96484000 r-xp 001ee000 fe:00 77 /usr/bin/codexd
563a96484000-563a964b9000 r--p 00812000 fe:00 77 /usr/bin/codexd
563a964b9000-563a964c1000 rw-p 00847000 fe:00 77 /usr/bin/codexd
563ac1be1000-563ac1c3f000 rw-p 00000000 00:00 0 [heap]
7f9d7d667000-7f9d7d66f000 rwxp 00000000 00:00 0
7ffe4c47e000-7ffe4c4b0000 rw-p 00000000 00:00 0 [stack]
7ffe4c4b1000-7ffe4c4b3000 r-xp 00000000 00:00 0 [vdso]
";

    #[test]
    fn code_of_files_and_the_dead_part_of_the_stack_are_discarded_and_nothing_else() {
        let code = 0x563a_95e5_f000..0x563a_9648_4000;
        let stack = 0x7ffe_4c47_e000..0x7ffe_4c4a_9000;
        assert_eq!(discardable(MAPPINGS, 0x7ffe_4c4a_d123), [code.clone(), stack]);
        // Less than what is left alone is below it; another thread's stack.
        for other in [0x7ffe_4c48_0000, 0x1000] {
            assert_eq!(discardable(MAPPINGS, other), std::slice::from_ref(&code));
        }
    }
}
