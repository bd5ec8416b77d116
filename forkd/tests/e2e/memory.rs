//! A child has exactly the memory that its source had at the pause it was forked from.

use std::fs;

use forkd::api::{Branch, BranchMode, BranchRequest, DataPath, SnapshotDetail};
use guest::model::Memory;
use guest::{FIRST_PAGE, PAGE_BYTES};
use probes_common::BranchPhase;
use testkit::{Outcome, Test};

use crate::host::{Host, MEM_MIB, NEEDS, Result, guest_memory};

pub const TESTS: &[Test] = &[
    Test { name: "memory::naive_full", needs: NEEDS, run: || children(DataPath::Naive, BranchMode::Full) },
    Test { name: "memory::naive_diff", needs: NEEDS, run: || children(DataPath::Naive, BranchMode::Diff) },
    Test {
        name: "memory::fallocate_full",
        needs: NEEDS,
        run: || children(DataPath::Fallocate, BranchMode::Full),
    },
    Test {
        name: "memory::fallocate_diff",
        needs: NEEDS,
        run: || children(DataPath::Fallocate, BranchMode::Diff),
    },
    Test { name: "memory::direct_full", needs: NEEDS, run: || children(DataPath::Direct, BranchMode::Full) },
    Test { name: "memory::direct_diff", needs: NEEDS, run: || children(DataPath::Direct, BranchMode::Diff) },
    Test { name: "memory::uring_full", needs: NEEDS, run: || children(DataPath::Uring, BranchMode::Full) },
    Test { name: "memory::uring_diff", needs: NEEDS, run: || children(DataPath::Uring, BranchMode::Diff) },
    Test { name: "memory::stage_full", needs: NEEDS, run: || children(DataPath::Stage, BranchMode::Full) },
    Test { name: "memory::stage_diff", needs: NEEDS, run: || children(DataPath::Stage, BranchMode::Diff) },
    Test { name: "memory::data_paths_can_follow_each_other_in_any_order", needs: NEEDS, run: mixed },
    Test { name: "memory::the_thirtieth_layer_holds_every_byte", needs: NEEDS, run: thirty_layers },
    Test { name: "memory::branches_of_a_child_and_of_its_child", needs: NEEDS, run: grandchildren },
    Test { name: "memory::a_deleted_base_is_still_there_for_the_next_diff", needs: NEEDS, run: deleted_base },
    Test { name: "memory::every_phase_is_timed_and_the_pause_is_their_sum", needs: NEEDS, run: phases },
];

/// Pages that commands may touch.
const END_PAGE: u64 = (MEM_MIB as u64) << 20 >> 12;

/// A guest and the memory that its commands must have left it with.
struct Modelled<'a> {
    host: &'a Host,
    id: String,
    memory: Memory,
}

impl Modelled<'_> {
    fn dirty(&mut self, first: u64, count: u64, seed: u64) -> Result<()> {
        self.host.guest(&self.id, &format!("dirty {first} {count} {seed}"))?;
        self.memory.dirty(first, count, seed);
        Ok(())
    }

    fn zero(&mut self, first: u64, count: u64) -> Result<()> {
        self.host.guest(&self.id, &format!("zero {first} {count}"))?;
        self.memory.zero(first, count);
        Ok(())
    }

    /// What happens between two BRANCHes: pages that change each time, that change once, that are zeroed,
    /// and one that is changed and set back to what it held at the BRANCH before.
    fn live(&mut self, k: u64) -> Result<()> {
        self.dirty(FIRST_PAGE, 40, k)?;
        self.dirty(FIRST_PAGE + 100 * k, 3, 1000 + k)?;
        self.zero(FIRST_PAGE + 5, 2)?;
        if k > 1 {
            self.zero(FIRST_PAGE + 100 * (k - 1), 1)?;
        }
        self.dirty(FIRST_PAGE + 50, 1, 99)?;
        self.dirty(FIRST_PAGE + 50, 1, k)?;
        self.dirty(FIRST_PAGE + 50, 1, 99)?;
        self.dirty(END_PAGE - 1, 1, k)
    }
}

fn branch(host: &Host, id: &str, tag: &str, mode: BranchMode, data_path: DataPath) -> Result<Branch> {
    let request = BranchRequest {
        tag: Some(tag.into()),
        mode: Some(mode),
        data_path: Some(data_path),
        ..BranchRequest::default()
    };
    let branch = host.branch(id, &request)?;
    assert_eq!((branch.tag.as_str(), branch.mode, branch.data_path), (tag, mode, data_path));
    assert_eq!(branch.warnings, [""; 0]);
    Ok(branch)
}

fn diff_request() -> BranchRequest {
    BranchRequest { mode: Some(BranchMode::Diff), ..BranchRequest::default() }
}

/// Compares every page that commands may touch, in the file and in a child that runs.
fn require_memory(host: &Host, tag: &str, expected: &Memory) -> Result<()> {
    // A layer has no image of its own.
    if let Ok(image) = fs::read(host.root().join(tag).join("memory.bin")) {
        require_pages(&format!("{tag}/memory.bin"), &image, expected);
    }
    let child = host.fork(tag)?;
    require_pages(&format!("a child of {tag}"), &guest_memory(child.pid)?, expected);
    let sum = host.guest(&child.id, &format!("sum {FIRST_PAGE} 110"))?;
    assert_eq!(sum, format!("{:016x}", expected.sum(FIRST_PAGE, 110)), "the child's own sum");
    host.require_running(&child.id)?;
    host.end(&child.id)
}

fn require_pages(what: &str, image: &[u8], expected: &Memory) {
    assert_eq!(image.len(), (MEM_MIB as usize) << 20, "{what}");
    for page in FIRST_PAGE..END_PAGE {
        let start = page as usize * PAGE_BYTES;
        assert!(image[start..start + PAGE_BYTES] == expected.page(page), "{what}: page {page} differs");
    }
}

fn children(data_path: DataPath, mode: BranchMode) -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?;
    let mut source = Modelled { host: &host, id: source.id, memory: Memory::default() };
    let mut at_pause = Vec::new();
    for k in 1..=5 {
        source.live(k)?;
        at_pause.push(source.memory.clone());
        branch(&host, &source.id, &format!("b{k}"), mode, data_path)?;
        host.require_running(&source.id)?;
    }
    source.dirty(FIRST_PAGE, 600, 77)?;
    for (index, expected) in at_pause.iter().enumerate() {
        require_memory(&host, &format!("b{}", index + 1), expected)?;
    }
    Ok(())
}

fn mixed() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let mut source = Modelled { host: &host, id: host.fork("base")?.id, memory: Memory::default() };
    let mut at_pause = Vec::new();
    // Every data path after every other one.
    let order =
        DataPath::ALL.into_iter().flat_map(|first| DataPath::ALL.map(|second| [first, second])).flatten();
    for (k, data_path) in order.enumerate().take(20) {
        source.live(k as u64 % 5 + 1)?;
        branch(&host, &source.id, &format!("b{k}"), BranchMode::Diff, data_path)?;
        at_pause.push(source.memory.clone());
    }
    for (k, expected) in at_pause.iter().enumerate().skip(10).step_by(3) {
        require_memory(&host, &format!("b{k}"), expected)?;
    }
    Ok(())
}

fn thirty_layers() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let mut source = Modelled { host: &host, id: host.fork("base")?.id, memory: Memory::default() };
    for k in 1..=30 {
        source.dirty(FIRST_PAGE + k, 40, k)?;
        source.dirty(FIRST_PAGE + 60 * k, 2, k)?;
        let branch = branch(&host, &source.id, &format!("b{k}"), BranchMode::Diff, DataPath::Stage)?;
        assert!(branch.staged_bytes > 0 && !branch.fell_back_to_disk, "{branch:?}");
    }
    require_memory(&host, "b30", &source.memory)?;
    let detail: SnapshotDetail = host.call(hyper::Method::GET, "/v1/snapshots/b30", None::<&()>)?;
    assert_eq!((detail.depth, detail.parent.as_deref()), (30, Some("b29")));
    // Pages of its own on disk, and no copy of the guest: 42 dirtied pages, and what the guest itself touched.
    assert!(detail.physical_bytes < 2 << 20, "{detail:?}");
    Ok(())
}

fn grandchildren() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let mut memory = Memory::default();
    let mut parent = "base".to_owned();
    for (generation, data_path) in
        [DataPath::Naive, DataPath::Fallocate, DataPath::Naive].into_iter().enumerate()
    {
        let mut source = Modelled { host: &host, id: host.fork(&parent)?.id, memory };
        source.live(generation as u64 + 1)?;
        parent = format!("generation-{generation}");
        branch(&host, &source.id, &parent, BranchMode::Diff, data_path)?;
        memory = source.memory;
        require_memory(&host, &parent, &memory)?;
    }
    Ok(())
}

fn deleted_base() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let mut source = Modelled { host: &host, id: host.fork("base")?.id, memory: Memory::default() };
    for k in 1..=3 {
        source.live(k)?;
        branch(&host, &source.id, &format!("b{k}"), BranchMode::Diff, DataPath::Naive)?;
        let doomed = if k == 1 { "base".to_owned() } else { format!("b{}", k - 1) };
        host.call::<()>(hyper::Method::DELETE, &format!("/v1/snapshots/{doomed}"), None::<&()>)?;
    }
    require_memory(&host, "b3", &source.memory)?;
    source.live(4)?;
    let request = BranchRequest { tag: Some("b4".into()), durable: Some(false), ..diff_request() };
    host.branch(&source.id, &request)?;
    require_memory(&host, "b4", &source.memory)?;
    let durable: Vec<(String, bool)> =
        host.snapshots()?.into_iter().map(|snapshot| (snapshot.tag, snapshot.durable)).collect();
    assert!(durable.contains(&("b3".into(), true)) && durable.contains(&("b4".into(), false)), "{durable:?}");
    host.call::<()>(hyper::Method::DELETE, "/v1/snapshots/b4", None::<&()>)?;
    let tags: Vec<String> = host.snapshots()?.into_iter().map(|snapshot| snapshot.tag).collect();
    assert_eq!(tags, ["b3"]);
    Ok(())
}

fn phases() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?;
    host.guest(&source.id, "dirty 1024 64 1")?;
    let branch = branch(&host, &source.id, "b1", BranchMode::Diff, DataPath::Naive)?;
    let names: Vec<&str> = branch.phases.iter().map(|span| span.phase.name()).collect();
    assert_eq!(names, ["prepare", "pause", "create", "resume", "copy", "merge", "publish"]);
    assert!(branch.phases.iter().all(|span| span.ns > 0), "{:?}", branch.phases);
    let stopped = BranchPhase::ALL.into_iter().filter(|phase| phase.stops_the_guest());
    assert_eq!(stopped.map(|phase| branch.phase_ns(phase)).sum::<u64>(), branch.pause_ns);
    assert!((branch.pause_ms - branch.pause_ns as f64 / 1e6).abs() < 1e-9);
    // 64 pages dirtied on command, and the few that the guest's own code and stack touch.
    assert!((64 * 4096..200 * 4096).contains(&branch.diff_physical_bytes), "{}", branch.diff_physical_bytes);
    Ok(())
}
