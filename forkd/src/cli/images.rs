//! `forkd images`

use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use clap::Args;
use forkd::api::Snapshot;
use forkd::clock::unix_seconds;
use forkd::http_client::CallError;
use forkd::snapshot::list::View;
use reports::units::{ago, bytes};

use super::output::plain;
use super::table::{Column, Keep, Table};
use super::tree::tree;
use super::{Context, DEFAULT_SNAPSHOT_ROOT};

/// List snapshots, newest first; from disk where no daemon answers
#[derive(Args, Debug)]
pub struct Images {
    /// Show each layer under the snapshot that it lies on
    #[arg(long)]
    tree: bool,
    /// Print tags only
    #[arg(short, long, conflicts_with = "tree")]
    quiet: bool,
    /// Directory of the snapshots, read where no daemon answers
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SNAPSHOT_ROOT)]
    snapshot_root: PathBuf,
}

impl Images {
    /// Lists them.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let snapshots = match context.client.snapshots(true).await {
            Err(error @ CallError::Connect { .. }) => self.read_from_disk(context, error)?,
            answer => answer?,
        };
        let columns = context.out.columns();
        context.out.result(&snapshots, || match self.quiet {
            true => snapshots.iter().map(|snapshot| format!("{}\n", snapshot.tag)).collect(),
            false => text(&snapshots, self.tree, unix_seconds(), columns),
        })
    }

    fn read_from_disk(&self, context: &Context, error: CallError) -> anyhow::Result<Vec<Snapshot>> {
        let root = self.snapshot_root.display();
        let endpoint = context.endpoint();
        let snapshots = match View::open(&self.snapshot_root).and_then(|view| view.snapshots()) {
            Ok(snapshots) => snapshots,
            Err(no_root) => return Err(error).context(format!("{no_root}, and there is no daemon to ask")),
        };
        context.out.note(&format!("no daemon answers at {endpoint}: these are the snapshots in {root}"));
        Ok(snapshots)
    }
}

/// The table, what is wrong with some of them, and their sum.
fn text(snapshots: &[Snapshot], as_tree: bool, now_unix: u64, columns: Option<usize>) -> String {
    let lines = match as_tree {
        true => tree(snapshots),
        false => snapshots.iter().map(|snapshot| (snapshot.tag.clone(), snapshot)).collect(),
    };
    let mut table = Table::new([
        Column::elastic("TAG", Keep::Start),
        Column::right("SIZE"),
        Column::right("MEMORY"),
        Column::left("CREATED"),
        Column::elastic("ROOTFS", Keep::End),
        Column::left(""),
    ]);
    for (tag, snapshot) in &lines {
        let (mark, style) = match snapshot.not_bootable_because {
            Some(_) => ("!", AnsiColor::Red.on_default()),
            None => ("", Style::new()),
        };
        let memory = match snapshot.mem_mib {
            0 => "?".to_owned(),
            mib => bytes(u64::from(mib) << 20),
        };
        let cells = [
            tag.clone(),
            bytes(snapshot.physical_bytes),
            memory,
            ago(now_unix.saturating_sub(snapshot.created_at_unix)),
            snapshot.rootfs.clone().unwrap_or_else(|| "-".to_owned()),
            mark.to_owned(),
        ];
        table.row(cells, style);
    }
    let mut text = if snapshots.is_empty() { String::new() } else { table.render(columns) };
    for (_, snapshot) in &lines {
        if let Some(reason) = &snapshot.not_bootable_because {
            text.push_str(&format!("! {} cannot be booted: {}\n", snapshot.tag, plain(reason)));
        }
    }
    let total = bytes(snapshots.iter().map(|snapshot| snapshot.physical_bytes).sum());
    let n = snapshots.len();
    text + &format!("{n} snapshot{} · {total} total\n", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use forkd::api::Snapshot;
    use unicode_width::UnicodeWidthStr;

    use super::text;

    const NOW: u64 = 1_000_000;

    fn snapshot(tag: &str, age: u64, physical_bytes: u64, parent: Option<&str>) -> Snapshot {
        Snapshot {
            tag: tag.to_owned(),
            dir: format!("/snapshots/{tag}"),
            created_at_unix: NOW - age,
            created_at_unix_ms: (NOW - age) * 1000,
            branched_from: None,
            mem_mib: 512,
            vcpus: 1,
            physical_bytes,
            durable: true,
            rootfs: None,
            drive_bytes: None,
            parent: parent.map(str::to_owned),
            not_bootable_because: None,
        }
    }

    fn check(snapshots: &[Snapshot], as_tree: bool, columns: Option<usize>, expected: &str) {
        let shown = text(snapshots, as_tree, NOW, columns);
        assert_eq!(anstream::adapter::strip_str(&shown).to_string(), expected);
    }

    #[test]
    fn the_list_has_sizes_ages_and_a_sum() {
        let rootfs = Some("/srv/debian-12.ext4".to_owned());
        let snapshots = [
            snapshot("one", 185, 16_842_752, Some("base")),
            Snapshot { mem_mib: 2048, rootfs, ..snapshot("base", 7200, 4_492_873_728, None) },
        ];
        check(
            &snapshots,
            false,
            Some(80),
            "TAG       SIZE   MEMORY  CREATED        ROOTFS\n\
             one   16.1 MiB  512 MiB  3 minutes ago  -\n\
             base   4.2 GiB    2 GiB  2 hours ago    /srv/debian-12.ext4\n\
             2 snapshots · 4.2 GiB total\n",
        );
    }

    #[test]
    fn the_tree_shows_what_lies_on_what_and_damage_is_marked_with_its_reason() {
        let reason = Some("its parent 'two' is gone".to_owned());
        let snapshots = [
            Snapshot { not_bootable_because: reason, ..snapshot("three", 1, 4096, Some("two")) },
            snapshot("one", 60, 65536, Some("base")),
            snapshot("base", 61, 1 << 20, None),
        ];
        check(
            &snapshots,
            true,
            None,
            "TAG      SIZE   MEMORY  CREATED       ROOTFS\n\
             three   4 KiB  512 MiB  1 second ago  -       !\n\
             base    1 MiB  512 MiB  1 minute ago  -\n\
             └ one  64 KiB  512 MiB  1 minute ago  -\n\
             ! three cannot be booted: its parent 'two' is gone\n\
             3 snapshots · 1.1 MiB total\n",
        );
    }

    #[test]
    fn a_long_tag_is_cut_on_a_terminal_only() {
        let tag = "t".repeat(64);
        let snapshots = [snapshot(&tag, 1, 1, None)];
        let on_terminal = text(&snapshots, false, NOW, Some(80));
        let plain = anstream::adapter::strip_str(&on_terminal).to_string();
        assert!(plain.lines().all(|line| line.width() <= 80) && plain.contains("tt…  "), "{plain}");
        assert!(text(&snapshots, false, NOW, None).contains(&tag));
    }

    #[test]
    fn nothing_is_a_list_too() {
        check(&[], false, Some(80), "0 snapshots · 0 B total\n");
    }
}
