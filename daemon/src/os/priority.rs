//! The priority of threads and processes that only look.

/// The nice value of what only looks: where processors are short, it gets a tenth of what others get (`sched(7)`). With
/// the lowest priority, nothing at all was shown for minutes on a machine with much to do, which is when people look.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Gives this thread a low priority (on Linux, the nice value belongs to the thread). Where the system refuses, it stays
/// as it was; and so it does where it is lower already.
#[cfg(target_os = "linux")]
pub(crate) fn give_way() {
    use rustix::process::{getpriority_process, setpriority_process};
    let thread = Some(rustix::thread::gettid());
    if getpriority_process(thread).is_ok_and(|nice| nice < NICE) {
        let _ = setpriority_process(thread, NICE);
    }
}

/// Elsewhere, the nice value belongs to the process, and that would be the daemon.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_way() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_itself_gives_way() {
        use rustix::process::getpriority_process;
        let own = || getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = own();
        let there = std::thread::spawn(move || {
            give_way();
            own()
        });
        assert_eq!((there.join().unwrap(), own()), (before.max(NICE), before));
    }
}
