//! The probe and libbpf-tools' `offcputime`, attached at once to the same threads.

use std::path::Path;
use std::process::ExitCode;

use bench::probe_cost::{Kind, Tool, agreement, load};
use testkit::{Finder, Need, Outcome, Test, on_path};

/// The argument with which the tools' load starts this program again.
const LOAD: &str = "probe-cost-load";

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|argument| argument == LOAD) {
        load::work();
        return ExitCode::SUCCESS;
    }
    const PEER: &[Need] = &[Need::Root, Need::Btf, Need::Other(Finder(offcputime))];
    testkit::run(vec![Test {
        name: "peer::offcputime_sees_the_same_time_within_two_percent",
        needs: PEER,
        run: same_time,
    }])
}

fn offcputime() -> Option<String> {
    let missing = on_path(Kind::Offcputime.name()).is_none();
    missing.then(|| "needs offcputime on PATH (apt-get install libbpf-tools)".to_owned())
}

fn same_time() -> Outcome {
    let probe = Path::new(env!("CARGO_BIN_EXE_forkd-bench")).with_file_name("forkd-probe");
    let (tools, _) = Tool::find_all(Some(&probe))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ratio = runtime.block_on(agreement(&tools))?.ok_or("offcputime saw nothing")?;
    println!("{ratio:.4} of what offcputime saw");
    assert!((0.98..=1.02).contains(&ratio), "{ratio}");
    Ok(())
}
