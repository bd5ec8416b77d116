//! The cause table: every cause that an explanation can name, by what it is told, and what can be done.
//!
//! One place, declarative, and versioned: a change of meaning changes [`TABLE`].

use super::rules::{Follow, On, Rule};

/// Name and version of the table, as reports give it.
pub const TABLE: &str = "forkd.causes/1";

/// Why a stretch of the critical path took its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Memory is copied into a file, on a CPU.
    DirtyPageCopy,
    /// A page is mapped that was in memory, or is made.
    PageFaultMinor,
    /// A page is read for a fault.
    PageFaultMajor,
    /// A fault that a program answers.
    PageFaultUser,
    /// `blk-wbt` holds writes back to keep reads fast.
    WritebackThrottle,
    /// `balance_dirty_pages` holds a writer back.
    DirtyThrottle,
    /// Pages of the file are being written.
    OwnWriteback,
    /// The file system's journal commits.
    JournalCommit,
    /// Blocks are chosen for a file's data.
    BlockAllocation,
    /// A file system prepares pages of a file, or their writing, on a CPU.
    FileSystemWork,
    /// Another thread has the inode.
    InodeLock,
    /// A request, or a tag for one, waits for its turn.
    RequestQueue,
    /// The device is at work.
    DeviceTime,
    /// A file system that a program or another host serves.
    RemoteFileSystem,
    /// The kernel makes memory free.
    Reclaim,
    /// A memory cgroup is at its limit.
    CgroupMemory,
    /// A page comes back from swap.
    SwapIn,
    /// Other threads had the CPU.
    RunQueue,
    /// The CPU quota was used up.
    CpuQuota,
    /// Stopped by a signal, a tracer or the freezer.
    Stopped,
    /// Another thread has a lock in user space.
    FutexContention,
    /// It waits for another thread's word, through a futex.
    FutexWait,
    /// It waits for another thread's bytes, through a pipe, a socket or an eventfd.
    PeerWait,
    /// KVM hands out which pages were dirtied.
    KvmDirtyLog,
    /// A vCPU has to leave the guest.
    VcpuExit,
    /// It sleeps until a time.
    Timer,
    /// Another thread has a lock in the kernel.
    KernelLock,
    /// A grace period of RCU or SRCU.
    GracePeriod,
    /// The kernel is at work for it, on a CPU.
    KernelWork,
    /// Its own code runs.
    UserCode,
}

/// What the table says of one cause.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The cause.
    pub cause: Cause,
    /// Its name in reports that programs read.
    pub id: &'static str,
    /// Its name for people: it can stand after "is" and before "on DEVICE" or "by NAME".
    pub title: &'static str,
}

/// Every cause, in the order in which equal times are listed.
pub const CAUSES: [Entry; 30] = [
    entry(Cause::DirtyPageCopy, "dirty_page_copy", "copying dirty pages"),
    entry(Cause::PageFaultMinor, "page_fault_minor", "page faults"),
    entry(Cause::PageFaultMajor, "page_fault_major", "page faults that read"),
    entry(Cause::PageFaultUser, "page_fault_userfaultfd", "page faults that a program answers"),
    entry(Cause::WritebackThrottle, "writeback_throttle", "writeback throttle"),
    entry(Cause::DirtyThrottle, "dirty_throttle", "dirty throttling"),
    entry(Cause::OwnWriteback, "own_writeback", "writeback of its own data"),
    entry(Cause::JournalCommit, "journal_commit", "journal commit"),
    entry(Cause::BlockAllocation, "block_allocation", "block allocation"),
    entry(Cause::FileSystemWork, "file_system_work", "work of the file system"),
    entry(Cause::InodeLock, "inode_lock", "inode lock"),
    entry(Cause::RequestQueue, "request_queue", "request queue"),
    entry(Cause::DeviceTime, "device_time", "device time"),
    entry(Cause::RemoteFileSystem, "remote_file_system", "FUSE or network file system"),
    entry(Cause::Reclaim, "memory_reclaim", "memory reclaim"),
    entry(Cause::CgroupMemory, "cgroup_memory", "memory limit of the cgroup"),
    entry(Cause::SwapIn, "swap_in", "swap-in"),
    entry(Cause::RunQueue, "run_queue", "waiting for a CPU"),
    entry(Cause::CpuQuota, "cpu_quota", "CPU quota"),
    entry(Cause::Stopped, "stopped", "stopped or frozen"),
    entry(Cause::FutexContention, "futex_contention", "contended lock"),
    entry(Cause::FutexWait, "futex_wait", "waiting for another thread"),
    entry(Cause::PeerWait, "peer_wait", "waiting for a peer"),
    entry(Cause::KvmDirtyLog, "kvm_dirty_log", "reading KVM's dirty log"),
    entry(Cause::VcpuExit, "vcpu_exit", "vCPU leaving the guest"),
    entry(Cause::Timer, "timer", "sleeping until a time"),
    entry(Cause::KernelLock, "kernel_lock", "kernel lock"),
    entry(Cause::GracePeriod, "grace_period", "RCU grace period"),
    entry(Cause::KernelWork, "kernel_work", "kernel work"),
    entry(Cause::UserCode, "user_code", "its own code"),
];

const fn entry(cause: Cause, id: &'static str, title: &'static str) -> Entry {
    Entry { cause, id, title }
}

impl Cause {
    /// What the table says of it.
    pub const fn entry(self) -> &'static Entry {
        &CAUSES[self as usize]
    }

    /// Its name in reports that programs read.
    pub const fn id(self) -> &'static str {
        self.entry().id
    }
}

/// What holds where the thread waits in the function itself, and in none that it has called. `do_freezer_trap` is static,
/// and usually part of `get_signal` (kernel/signal.c): of that, no more of a stack tells that the freezer has the thread.
pub const ITSELF: &[Rule] = &[rule(Cause::Stopped, On::Blocked, Follow::Stop, &["get_signal"], &[])];

/// What holds, wherever it is on the stack: what it needs the disk or a lock for is part of it.
pub const DOMINANT: &[Rule] = &[
    rule(Cause::CpuQuota, On::Any, Follow::Stop, &["throttle_cfs_rq_work"], &[]),
    rule(
        Cause::Stopped,
        On::Any,
        Follow::Stop,
        &[
            "do_signal_stop",
            "ptrace_stop",
            "ptrace_notify",
            "do_jobctl_trap",
            "do_freezer_trap",
            "__refrigerator",
        ],
        &[],
    ),
    rule(
        Cause::CgroupMemory,
        On::Any,
        Follow::Stop,
        &[
            "try_to_free_mem_cgroup_pages",
            "mem_cgroup_handle_over_high",
            "__mem_cgroup_handle_over_high",
            "mem_cgroup_out_of_memory",
            "mem_cgroup_oom_synchronize",
        ],
        &[],
    ),
    rule(Cause::PageFaultUser, On::Any, Follow::Stop, &["handle_userfault"], &[]),
    rule(
        Cause::SwapIn,
        On::Any,
        Follow::Stop,
        &["do_swap_page", "shmem_swapin_folio", "swapin_readahead"],
        &[],
    ),
    rule(
        Cause::Reclaim,
        On::Any,
        Follow::Stop,
        &[
            "try_to_free_pages",
            "__alloc_pages_direct_reclaim",
            "__alloc_pages_direct_compact",
            "try_to_compact_pages",
            "throttle_direct_reclaim",
            "reclaim_throttle",
            "shrink_node",
            "compact_zone",
        ],
        &[],
    ),
    rule(
        Cause::RemoteFileSystem,
        On::Blocked,
        Follow::Stop,
        &[
            "request_wait_answer",
            "fuse_simple_request",
            "__fuse_simple_request",
            "fuse_wait_on_page_writeback",
            "fuse_do_fsync",
            "fuse_fsync_common",
            "fuse_fsync",
            "fuse_flush",
            "fuse_sync_writes",
            "nfs_wait_bit_killable",
            "rpc_wait_bit_killable",
            "nfs_file_fsync",
            "cifs_strict_fsync",
            "wait_for_response",
            "p9_client_rpc",
            "ceph_fsync",
        ],
        &[],
    ),
];

/// What the innermost frame that any row knows says.
pub const BY_FRAME: &[Rule] = &[
    // Waits for storage.
    rule(Cause::WritebackThrottle, On::Blocked, Follow::Stop, &["wbt_wait"], &[]),
    // The sleep that several throttles share.
    rule(Cause::WritebackThrottle, On::Blocked, Follow::Stop, &["rq_qos_wait"], &["wbt_wait"]),
    rule(Cause::RequestQueue, On::Blocked, Follow::Stop, &["rq_qos_wait"], &[]),
    rule(
        Cause::DirtyThrottle,
        On::Blocked,
        Follow::Stop,
        &["balance_dirty_pages", "balance_dirty_pages_ratelimited_flags", "balance_dirty_pages_ratelimited"],
        &[],
    ),
    rule(
        Cause::RequestQueue,
        On::Blocked,
        Follow::Stop,
        &[
            "blk_mq_get_tag",
            "blk_mq_get_request",
            "__blk_mq_alloc_requests",
            "blk_throtl_bio",
            "iolatency_cg_throttle",
            "blkcg_iolatency_throttle",
            "blkcg_maybe_throttle_current",
            "ioc_rqos_throttle",
            "blk_queue_enter",
            "__bio_queue_enter",
        ],
        &[],
    ),
    rule(
        Cause::JournalCommit,
        On::Blocked,
        Follow::Stop,
        &[
            "jbd2_log_wait_commit",
            "jbd2_complete_transaction",
            "wait_transaction_locked",
            "wait_transaction_switching",
            "add_transaction_credits",
            "do_get_write_access",
            "jbd2_journal_get_write_access",
            "__jbd2_log_wait_for_space",
            "jbd2_fc_wait_bufs",
            "xlog_wait_on_iclog",
            "xfs_log_force_seq",
            "xlog_grant_head_wait",
            "btrfs_commit_transaction",
            "wait_current_trans",
            "btrfs_sync_log",
        ],
        &[],
    ),
    rule(
        Cause::OwnWriteback,
        On::Blocked,
        Follow::Stop,
        &[
            "folio_wait_writeback",
            "folio_wait_writeback_killable",
            "wait_on_page_writeback",
            "__filemap_fdatawait_range",
            "filemap_fdatawait_range",
            "wb_wait_for_completion",
            "__writeback_inodes_sb_nr",
            "folio_wait_stable",
            "btrfs_wait_ordered_range",
        ],
        &[],
    ),
    rule(
        Cause::PageFaultMajor,
        On::Blocked,
        Follow::Stop,
        &["folio_lock_or_retry", "__folio_lock_or_retry", "filemap_fault"],
        &["asm_exc_page_fault", "exc_page_fault", "handle_mm_fault"],
    ),
    rule(
        Cause::DeviceTime,
        On::Blocked,
        Follow::Stop,
        &[
            "submit_bio_wait",
            "bio_await",
            "blkdev_issue_flush",
            "blk_execute_rq",
            "blk_wait_io",
            "__iomap_dio_rw",
            "iomap_dio_rw",
            "__blkdev_direct_IO_simple",
            "blkdev_direct_IO",
            "filemap_get_pages",
            "filemap_read",
            "filemap_update_page",
            "read_cache_folio",
            "wait_for_completion_io",
            "wait_for_completion_io_timeout",
        ],
        &[],
    ),
    // Locks in the kernel.
    rule(
        Cause::InodeLock,
        On::Blocked,
        Follow::Stop,
        &["rwsem_down_write_slowpath", "rwsem_down_read_slowpath"],
        &[
            "ext4_buffered_write_iter",
            "ext4_file_write_iter",
            "ext4_file_read_iter",
            "ext4_fallocate",
            "ext4_sync_file",
            "ext4_map_blocks",
            "xfs_ilock",
            "xfs_file_buffered_write",
            "btrfs_buffered_write",
            "btrfs_inode_lock",
            "shmem_file_write_iter",
            "generic_file_write_iter",
            "do_truncate",
            "vfs_fallocate",
            "lookup_open",
            "path_openat",
            "filename_create",
            "do_unlinkat",
            "lock_rename",
        ],
    ),
    rule(
        Cause::KernelLock,
        On::Blocked,
        Follow::Stop,
        &[
            "rwsem_down_write_slowpath",
            "rwsem_down_read_slowpath",
            "__mutex_lock",
            "__mutex_lock_slowpath",
            "mutex_lock",
            "mutex_lock_killable",
            "percpu_rwsem_wait",
            "__percpu_down_read",
            "percpu_down_write",
            "__down",
            "__down_common",
            "rt_mutex_slowlock",
            "__ww_mutex_lock",
        ],
        &[],
    ),
    rule(
        Cause::GracePeriod,
        On::Blocked,
        Follow::Stop,
        &[
            "synchronize_rcu",
            "synchronize_srcu",
            "__synchronize_srcu",
            "synchronize_rcu_expedited",
            "rcu_barrier",
        ],
        &[],
    ),
    // Waits for a time.
    rule(
        Cause::Timer,
        On::Blocked,
        Follow::Stop,
        &[
            "do_nanosleep",
            "hrtimer_nanosleep",
            "common_nsleep",
            "msleep",
            "msleep_interruptible",
            "usleep_range_state",
            "schedule_timeout_uninterruptible",
            "do_sigtimedwait",
        ],
        &[],
    ),
    // KVM. A vCPU that halts waits for its guest, or for the one that kicks it.
    rule(
        Cause::VcpuExit,
        On::Running,
        Follow::Stop,
        &["kvm_arch_vcpu_ioctl_run", "vcpu_enter_guest", "vcpu_run", "kvm_vcpu_ioctl"],
        &[],
    ),
    rule(
        Cause::KvmDirtyLog,
        On::Running,
        Follow::Stop,
        &[
            "kvm_vm_ioctl_get_dirty_log",
            "kvm_get_dirty_log",
            "kvm_get_dirty_log_protect",
            "kvm_arch_mmu_enable_log_dirty_pt_masked",
            "kvm_arch_sync_dirty_log",
            "kvm_mmu_write_protect_pt_masked",
            "kvm_vm_ioctl_clear_dirty_log",
        ],
        &[],
    ),
    // Waits for another thread: the path goes on with whoever ended them.
    rule(
        Cause::FutexContention,
        On::Blocked,
        Follow::Stop,
        &["futex_lock_pi", "rt_mutex_wait_proxy_lock"],
        &[],
    ),
    rule(
        Cause::FutexWait,
        On::Blocked,
        Follow::Waker,
        &[
            "futex_do_wait",
            "futex_wait_queue",
            "__futex_wait",
            "futex_wait",
            "futex_wait_multiple",
            "futex_wait_requeue_pi",
        ],
        &[],
    ),
    rule(
        Cause::PeerWait,
        On::Blocked,
        Follow::Waker,
        &[
            "anon_pipe_read",
            "anon_pipe_write",
            "pipe_read",
            "pipe_write",
            "pipe_wait_readable",
            "pipe_wait_writable",
            "fifo_open",
            "unix_stream_data_wait",
            "unix_stream_read_generic",
            "unix_stream_connect",
            "unix_wait_for_peer",
            "__skb_wait_for_more_packets",
            "sk_wait_data",
            "sk_stream_wait_memory",
            "inet_csk_accept",
            "unix_accept",
            "eventfd_read",
            "eventfd_write",
            "signalfd_read_iter",
            "ep_poll",
            "do_epoll_wait",
            "do_poll",
            "do_sys_poll",
            "do_select",
            "core_sys_select",
            "do_wait",
            "kernel_wait4",
            "io_cqring_wait",
            "n_tty_read",
            "inotify_read",
        ],
        &[],
    ),
    // On a CPU.
    rule(
        Cause::BlockAllocation,
        On::Any,
        Follow::Stop,
        &[
            "ext4_mb_new_blocks",
            "ext4_mb_regular_allocator",
            "ext4_ext_map_blocks",
            "ext4_map_create_blocks",
            "ext4_fallocate",
            "xfs_bmapi_allocate",
            "xfs_alloc_vextent_iterate_ags",
            "xfs_bmapi_convert_delalloc",
            "btrfs_reserve_extent",
            "find_free_extent",
            "cow_file_range",
        ],
        &[],
    ),
    rule(
        Cause::FileSystemWork,
        On::Running,
        Follow::Stop,
        &[
            // Of a page that is about to be written to, and after it was.
            "ext4_da_write_begin",
            "ext4_da_write_end",
            "ext4_write_begin",
            "ext4_write_end",
            "iomap_write_begin",
            "iomap_write_end",
            "iomap_iter",
            "prepare_one_folio",
            "btrfs_dirty_folio",
            // Of pages that are about to go to the device.
            "ext4_do_writepages",
            "ext4_writepages",
            "iomap_writepages",
            "xfs_vm_writepages",
            "extent_write_cache_pages",
            "do_writepages",
        ],
        &[],
    ),
    rule(
        Cause::PageFaultMinor,
        On::Running,
        Follow::Stop,
        &["asm_exc_page_fault", "exc_page_fault", "handle_mm_fault"],
        &[],
    ),
    rule(
        Cause::DirtyPageCopy,
        On::Running,
        Follow::Stop,
        &[
            // What is copied needs pages, in memory as well.
            "__filemap_get_folio",
            "__filemap_get_folio_mpol",
            "shmem_get_folio_gfp",
            "generic_perform_write",
            "shmem_file_write_iter",
            "ext4_buffered_write_iter",
            "iomap_file_buffered_write",
            "xfs_file_buffered_write",
            "btrfs_buffered_write",
            "fuse_perform_write",
            "fuse_cache_write_iter",
            "generic_file_write_iter",
            "ext4_file_write_iter",
            "copy_page_from_iter_atomic",
            "copy_folio_from_iter_atomic",
        ],
        &[],
    ),
];

/// What the helpers that many waits share say, where nothing around them says more.
pub const BY_HELPER: &[Rule] = &[
    rule(
        Cause::PageFaultMajor,
        On::Blocked,
        Follow::Stop,
        &["folio_wait_bit_common", "io_schedule"],
        &["asm_exc_page_fault", "exc_page_fault", "handle_mm_fault"],
    ),
    rule(
        Cause::DeviceTime,
        On::Blocked,
        Follow::Stop,
        &[
            "io_schedule",
            "io_schedule_timeout",
            "folio_wait_bit_common",
            "folio_wait_bit",
            "out_of_line_wait_on_bit",
            "__wait_on_buffer",
            "__lock_buffer",
        ],
        &[],
    ),
];

/// User functions that tell a wait for a lock from a wait for an event, in part or in whole.
pub const LOCK_FUNCTIONS: &[&str] = &[
    "lock_contended",
    "read_contended",
    "write_contended",
    "pthread_mutex_lock",
    "pthread_mutex_timedlock",
    "pthread_rwlock_rdlock",
    "pthread_rwlock_wrlock",
    "lll_lock_wait",
    "lll_mutex_lock",
    "parking_lot::raw_mutex",
    "parking_lot::raw_rwlock",
    "lock_slow",
];

const fn rule(
    cause: Cause,
    on: On,
    follow: Follow,
    at: &'static [&'static str],
    within: &'static [&'static str],
) -> Rule {
    Rule { cause, on, follow, at, within }
}
