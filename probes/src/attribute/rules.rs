//! From a stack to a row of the cause table.

use super::causes::{BY_FRAME, BY_HELPER, Cause, DOMINANT, ITSELF, LOCK_FUNCTIONS};

/// One row that maps frames to a cause.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The cause.
    pub cause: Cause,
    /// For threads that run, that wait, or both.
    pub on: On,
    /// Whose time it is.
    pub follow: Follow,
    /// Kernel functions, any of which names the cause.
    pub at: &'static [&'static str],
    /// If any are given, one of these must be further out.
    pub within: &'static [&'static str],
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// It runs.
    Running,
    /// It waits, for something other than a CPU.
    Blocked,
    /// Either.
    Any,
}

/// Whose time a wait is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The cause's own; who ended it belongs to the chain.
    Stop,
    /// That of the thread which ended it.
    Waker,
}

/// What a stack says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The cause.
    pub cause: Cause,
    /// Whose time it is.
    pub follow: Follow,
    /// The frame that said so.
    pub frame: String,
}

/// The cause that kernel frames (innermost first) and user frames name for a thread that is `on`; `None` where no
/// row knows any of them.
pub fn classify(on: On, kernel: &[String], user: &[String]) -> Option<Match> {
    let by_frame = || innermost(BY_FRAME, on, kernel).or_else(|| innermost(BY_HELPER, on, kernel));
    let found = dominant(on, kernel).or_else(|| itself(on, kernel)).or_else(by_frame)?;
    if found.cause == Cause::FutexWait && waits_for_lock(user) {
        return Some(Match { cause: Cause::FutexContention, follow: Follow::Stop, ..found });
    }
    Some(found)
}

fn dominant(on: On, kernel: &[String]) -> Option<Match> {
    DOMINANT.iter().find_map(|rule| {
        let frame = kernel.iter().position(|frame| rule.takes(on, frame))?;
        Some(rule.matched(&kernel[frame]))
    })
}

fn itself(on: On, kernel: &[String]) -> Option<Match> {
    let frame = kernel.first()?;
    ITSELF.iter().find(|rule| rule.takes(on, frame)).map(|rule| rule.matched(frame))
}

fn innermost(rules: &[Rule], on: On, kernel: &[String]) -> Option<Match> {
    kernel.iter().enumerate().find_map(|(depth, frame)| {
        let outer = &kernel[depth + 1..];
        let rule = rules.iter().find(|rule| rule.takes(on, frame) && rule.lies_within(outer))?;
        Some(rule.matched(frame))
    })
}

fn waits_for_lock(user: &[String]) -> bool {
    // The lock's own functions are the innermost few: a lock further out is one that is held.
    const DEPTH: usize = 6;
    user.iter().take(DEPTH).any(|frame| LOCK_FUNCTIONS.iter().any(|function| frame.contains(function)))
}

impl Rule {
    fn takes(&self, on: On, frame: &str) -> bool {
        (self.on == On::Any || self.on == on) && self.at.contains(&plain(frame))
    }

    fn lies_within(&self, outer: &[String]) -> bool {
        self.within.is_empty() || outer.iter().any(|frame| self.within.contains(&plain(frame)))
    }

    fn matched(&self, frame: &str) -> Match {
        Match { cause: self.cause, follow: self.follow, frame: plain(frame).to_owned() }
    }
}

/// A function's name without what the compiler put after it: `ep_poll.isra.0`, `wbt_wait.part.0`.
fn plain(frame: &str) -> &str {
    frame.split('.').next().unwrap_or(frame)
}

/// The system call that kernel frames are under, by its name: `fsync`.
pub fn system_call(kernel: &[String]) -> Option<&str> {
    const PREFIXES: [&str; 6] =
        ["__x64_sys_", "__arm64_sys_", "__do_sys_", "__se_sys_", "ksys_", "__ia32_sys_"];
    let named = |frame: &'_ String| PREFIXES.iter().find_map(|prefix| frame.strip_prefix(prefix)).is_some();
    let frame = kernel.iter().rev().find(|frame| named(frame));
    let known = frame.and_then(|frame| PREFIXES.iter().find_map(|prefix| plain(frame).strip_prefix(prefix)));
    known.or_else(|| inlined_call(kernel))
}

/// Where the call's entry was inlined, a function that only that call has.
fn inlined_call(kernel: &[String]) -> Option<&str> {
    const KNOWN: [(&str, &str); 8] = [
        ("do_fsync", "fsync"),
        ("vfs_fsync_range", "fsync"),
        ("vfs_write", "write"),
        ("vfs_writev", "writev"),
        ("vfs_read", "read"),
        ("do_futex", "futex"),
        ("kvm_vcpu_ioctl", "ioctl"),
        ("kvm_vm_ioctl", "ioctl"),
    ];
    kernel
        .iter()
        .rev()
        .find_map(|frame| KNOWN.iter().find(|known| known.0 == plain(frame)).map(|known| known.1))
}

#[cfg(test)]
mod tests {
    use super::super::causes::CAUSES;
    use super::*;

    fn frames(text: &str) -> Vec<String> {
        text.split(" < ").map(str::to_owned).collect()
    }

    fn check(on: On, kernel: &str, user: &str, expected: Option<Cause>) {
        let found = classify(on, &frames(kernel), &frames(user)).map(|found| found.cause);
        assert_eq!(found, expected, "{kernel}");
    }

    #[test]
    fn the_table_lists_every_cause_once_at_its_place() {
        for (index, entry) in CAUSES.iter().enumerate() {
            assert_eq!(entry.cause as usize, index, "{}", entry.id);
            assert_eq!(CAUSES.iter().filter(|other| other.id == entry.id).count(), 1, "{}", entry.id);
            assert_eq!(entry.cause.id(), entry.id);
        }
    }

    // Stacks as Linux 6.18 shows them, less what every stack ends with.
    #[test]
    fn waits_have_the_cause_of_their_row() {
        let waits = [
            (
                "io_schedule < rq_qos_wait < wbt_wait < __rq_qos_throttle < blk_mq_submit_bio < ext4_io_submit < \
              ext4_do_writepages < file_write_and_wait_range < ext4_sync_file < do_fsync",
                Cause::WritebackThrottle,
            ),
            ("jbd2_log_wait_commit < ext4_sync_file < do_fsync < __x64_sys_fsync", Cause::JournalCommit),
            (
                "wait_transaction_locked < add_transaction_credits < start_this_handle < ext4_dirty_inode",
                Cause::JournalCommit,
            ),
            (
                "io_schedule < folio_wait_bit < folio_wait_writeback < __filemap_fdatawait_range < \
              file_write_and_wait_range < ext4_sync_file < do_fsync",
                Cause::OwnWriteback,
            ),
            (
                "schedule_timeout < io_schedule_timeout < balance_dirty_pages < balance_dirty_pages_ratelimited_flags < \
              generic_perform_write < ext4_buffered_write_iter",
                Cause::DirtyThrottle,
            ),
            (
                "io_schedule < blk_mq_get_tag < __blk_mq_alloc_requests < blk_mq_submit_bio",
                Cause::RequestQueue,
            ),
            ("io_schedule < rq_qos_wait < __rq_qos_throttle < blk_mq_submit_bio", Cause::RequestQueue),
            (
                "schedule_timeout < io_schedule_timeout < __wait_for_common < submit_bio_wait < blkdev_issue_flush < \
              ext4_sync_file",
                Cause::DeviceTime,
            ),
            (
                "io_schedule < folio_wait_bit_common < filemap_update_page < filemap_read < vfs_read",
                Cause::DeviceTime,
            ),
            (
                "io_schedule < folio_wait_bit_common < filemap_fault < __do_fault < do_fault < handle_mm_fault < \
              exc_page_fault < asm_exc_page_fault",
                Cause::PageFaultMajor,
            ),
            ("io_schedule < folio_wait_bit_common < shmem_swapin_folio < shmem_get_folio_gfp", Cause::SwapIn),
            (
                "io_schedule < folio_wait_bit_common < do_swap_page < handle_mm_fault < asm_exc_page_fault",
                Cause::SwapIn,
            ),
            (
                "handle_userfault < do_anonymous_page < handle_mm_fault < asm_exc_page_fault",
                Cause::PageFaultUser,
            ),
            (
                "io_schedule < folio_wait_writeback < shrink_folio_list < shrink_lruvec < shrink_node < \
              do_try_to_free_pages < try_to_free_mem_cgroup_pages < try_charge_memcg",
                Cause::CgroupMemory,
            ),
            (
                "schedule_timeout < reclaim_throttle < shrink_node < try_to_free_pages < __alloc_pages_slowpath.constprop.0",
                Cause::Reclaim,
            ),
            ("request_wait_answer < __fuse_simple_request < fuse_fsync < do_fsync", Cause::RemoteFileSystem),
            (
                "rwsem_down_write_slowpath < down_write < ext4_buffered_write_iter < vfs_write",
                Cause::InodeLock,
            ),
            ("rwsem_down_read_slowpath < down_read < do_user_addr_fault", Cause::KernelLock),
            ("__mutex_lock.constprop.0 < kvm_vm_ioctl < __x64_sys_ioctl", Cause::KernelLock),
            (
                "schedule_timeout < __wait_for_common < __synchronize_srcu < kvm_swap_active_memslots",
                Cause::GracePeriod,
            ),
            ("do_nanosleep < hrtimer_nanosleep < __x64_sys_clock_nanosleep", Cause::Timer),
            ("throttle_cfs_rq_work < task_work_run < exit_to_user_mode_loop", Cause::CpuQuota),
            ("do_signal_stop < get_signal < arch_do_signal_or_restart", Cause::Stopped),
            ("__refrigerator < get_signal < arch_do_signal_or_restart", Cause::Stopped),
            ("get_signal < arch_do_signal_or_restart < exit_to_user_mode_prepare", Cause::Stopped),
            ("anon_pipe_write < __kernel_write < dump_emit < elf_core_dump < get_signal", Cause::PeerWait),
            ("ptrace_stop.part.0 < get_signal", Cause::Stopped),
            ("futex_do_wait < __futex_wait < futex_wait < do_futex", Cause::FutexWait),
            ("rt_mutex_wait_proxy_lock < futex_lock_pi < do_futex", Cause::FutexContention),
            ("anon_pipe_read < vfs_read < ksys_read", Cause::PeerWait),
            ("schedule_hrtimeout_range_clock < do_epoll_wait < __x64_sys_epoll_wait", Cause::PeerWait),
            ("ext4_mb_new_blocks < ext4_ext_map_blocks < ext4_map_create_blocks", Cause::BlockAllocation),
        ];
        for (kernel, cause) in waits {
            check(On::Blocked, kernel, "main", Some(cause));
        }
        check(On::Blocked, "some_driver_wait < some_driver_ioctl < __x64_sys_ioctl", "main", None);
    }

    #[test]
    fn work_has_the_cause_of_its_row() {
        let work = [
            (
                "copy_folio_from_iter_atomic < generic_perform_write < ext4_buffered_write_iter < vfs_write",
                Cause::DirtyPageCopy,
            ),
            (
                "clear_page_erms < shmem_get_folio_gfp < shmem_write_begin < generic_perform_write < shmem_file_write_iter",
                Cause::DirtyPageCopy,
            ),
            (
                "exc_page_fault < asm_exc_page_fault < _copy_to_user < kvm_get_dirty_log_protect",
                Cause::PageFaultMinor,
            ),
            (
                "kvm_mmu_write_protect_pt_masked < kvm_get_dirty_log_protect < kvm_vm_ioctl",
                Cause::KvmDirtyLog,
            ),
            ("vcpu_enter_guest.constprop.0 < kvm_arch_vcpu_ioctl_run < kvm_vcpu_ioctl", Cause::VcpuExit),
            ("ext4_mb_regular_allocator < ext4_mb_new_blocks < ext4_ext_map_blocks", Cause::BlockAllocation),
            (
                "folio_alloc_noprof < __filemap_get_folio < ext4_da_write_begin < generic_perform_write",
                Cause::DirtyPageCopy,
            ),
            (
                "mark_buffer_dirty < block_commit_write < ext4_da_write_end < generic_perform_write",
                Cause::FileSystemWork,
            ),
            (
                "mpage_submit_folio < ext4_do_writepages < do_writepages < file_write_and_wait_range",
                Cause::FileSystemWork,
            ),
            (
                "__compact_zone < compact_zone_order < try_to_compact_pages < __alloc_pages_direct_compact < \
              __alloc_pages_slowpath.constprop.0 < generic_perform_write",
                Cause::Reclaim,
            ),
        ];
        for (kernel, cause) in work {
            check(On::Running, kernel, "main", Some(cause));
        }
        // A wait's rows say nothing of a thread that runs.
        check(On::Running, "jbd2_log_wait_commit < ext4_sync_file < do_fsync", "main", None);
    }

    #[test]
    fn a_futex_under_a_locks_own_function_is_a_lock() {
        let futex = "futex_do_wait < __futex_wait < futex_wait < do_futex";
        for user in [
            "std::sys::sync::mutex::futex::Mutex::lock_contended < work",
            "__lll_lock_wait < pthread_mutex_lock < work",
        ] {
            check(On::Blocked, futex, user, Some(Cause::FutexContention));
        }
        let held_further_out =
            "syscall < std::sys::pal::unix::futex::futex_wait < park < recv < a < b < c < lock_contended";
        check(On::Blocked, futex, held_further_out, Some(Cause::FutexWait));
    }

    #[test]
    fn the_call_is_named_also_where_its_entry_was_inlined() {
        assert_eq!(
            system_call(&frames("ext4_sync_file < do_fsync < __x64_sys_fsync < do_syscall_64")),
            Some("fsync")
        );
        assert_eq!(system_call(&frames("ext4_sync_file < do_fsync < do_syscall_64")), Some("fsync"));
        assert_eq!(
            system_call(&frames("generic_perform_write < vfs_write < ksys_write < do_syscall_64")),
            Some("write")
        );
        assert_eq!(system_call(&frames("kjournald2 < kthread < ret_from_fork")), None);
    }
}
