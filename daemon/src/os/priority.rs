//! The priority of threads and processes that only look.

/// Gives this thread the lowest priority: it runs on what others leave of the processors (`sched(7)`: on Linux, the nice
/// value belongs to the thread). Where the system refuses, it stays as it was.
#[cfg(target_os = "linux")]
pub(crate) fn give_way() {
    use rustix::process::setpriority_process;
    let _ = setpriority_process(Some(rustix::thread::gettid()), 19);
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
        assert_eq!((there.join().unwrap(), own()), (19, before));
    }
}
