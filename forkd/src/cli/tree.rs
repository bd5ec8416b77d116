//! Snapshots as a tree: each layer under what it lies on.

use std::collections::{BTreeMap, BTreeSet};

use forkd::api::Snapshot;

/// Layers that are indented by their depth; deeper ones say it in a number.
const INDENTED: usize = 8;

/// The snapshots in the order of their tree, each with its tag drawn where it hangs. Siblings stay in the order
/// they came in. One whose parent is not there stands at the left.
pub fn tree(snapshots: &[Snapshot]) -> Vec<(String, &Snapshot)> {
    let there: BTreeSet<&str> = snapshots.iter().map(|snapshot| snapshot.tag.as_str()).collect();
    let mut children: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        if let Some(parent) = &snapshot.parent {
            children.entry(parent).or_default().push(snapshot);
        }
    }
    let has_parent = |snapshot: &&Snapshot| snapshot.parent.as_deref().is_some_and(|tag| there.contains(tag));
    let (hanging, roots): (Vec<_>, Vec<_>) = snapshots.iter().partition(has_parent);
    let mut lines = Vec::new();
    let mut drawn = BTreeSet::new();
    // Forged manifests can make a circle, which hangs on nothing: each of those left begins a tree of its own.
    for root in roots.into_iter().chain(hanging) {
        // A stack and not recursion: a chain may be long.
        let mut waiting = vec![(root, Vec::new())];
        while let Some((snapshot, lasts)) = waiting.pop() {
            if !drawn.insert(snapshot.tag.as_str()) {
                continue;
            }
            lines.push((branch(&lasts) + &snapshot.tag, snapshot));
            let above = children.get(snapshot.tag.as_str()).map_or(&[][..], Vec::as_slice);
            for (at, child) in above.iter().enumerate().rev() {
                let mut lasts = lasts.clone();
                lasts.push(at + 1 == above.len());
                waiting.push((child, lasts));
            }
        }
    }
    lines
}

/// The tags of all that lie on `tag`, directly or not.
pub fn above<'a>(snapshots: &'a [Snapshot], tag: &'a str) -> BTreeSet<&'a str> {
    // With itself until the end: forged manifests can make a circle, and none is looked at twice.
    let mut above = BTreeSet::from([tag]);
    let mut parents = vec![tag];
    while let Some(parent) = parents.pop() {
        let on_it = snapshots.iter().filter(|snapshot| snapshot.parent.as_deref() == Some(parent));
        parents.extend(on_it.map(|snapshot| snapshot.tag.as_str()).filter(|tag| above.insert(*tag)));
    }
    above.remove(tag);
    above
}

/// What is drawn before a tag; `lasts` says of it and of each above it whether it is the last on its parent.
fn branch(lasts: &[bool]) -> String {
    let Some((last, above)) = lasts.split_last() else { return String::new() };
    let mut drawn: String =
        above.iter().take(INDENTED - 1).map(|last| if *last { "  " } else { "│ " }).collect();
    drawn.push_str(if *last { "└ " } else { "├ " });
    if lasts.len() > INDENTED {
        drawn.push_str(&format!("({}) ", lasts.len()));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use forkd::api::Snapshot;

    use super::{above, tree};

    fn snapshots(layers: &[(&str, Option<&str>)]) -> Vec<Snapshot> {
        layers
            .iter()
            .map(|(tag, parent)| Snapshot {
                tag: (*tag).to_owned(),
                dir: String::new(),
                created_at_unix: 0,
                created_at_unix_ms: 0,
                branched_from: None,
                mem_mib: 32,
                vcpus: 1,
                physical_bytes: 0,
                durable: true,
                rootfs: None,
                drive_bytes: None,
                parent: parent.map(str::to_owned),
                not_bootable_because: None,
            })
            .collect()
    }

    fn drawn(layers: &[(&str, Option<&str>)]) -> Vec<String> {
        tree(&snapshots(layers)).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn all_that_lies_on_a_snapshot_is_found_also_in_a_circle() {
        let check = |layers: &[(&str, Option<&str>)], expected: &[&str]| {
            let snapshots = snapshots(layers);
            assert_eq!(above(&snapshots, "a").into_iter().collect::<Vec<_>>(), expected);
        };
        check(&[("a", None), ("b", None)], &[]);
        check(
            &[("c", Some("b")), ("d", Some("a")), ("b", Some("a")), ("a", None), ("x", None)],
            &["b", "c", "d"],
        );
        check(&[("a", Some("b")), ("b", Some("a"))], &["b"]);
    }

    #[test]
    fn a_layer_hangs_under_its_parent() {
        let layers =
            [("c", Some("b")), ("d", Some("a")), ("b", Some("a")), ("lost", Some("gone")), ("a", None)];
        assert_eq!(drawn(&layers), ["lost", "a", "├ d", "└ b", "  └ c"]);
    }

    #[test]
    fn a_deep_layer_says_its_depth_instead_of_being_indented() {
        let tags: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
        let layers: Vec<(&str, Option<&str>)> = (0..12)
            .map(|n: usize| (tags[n].as_str(), n.checked_sub(1).map(|parent| tags[parent].as_str())))
            .collect();
        let drawn = drawn(&layers);
        assert_eq!(drawn[8], format!("{}└ t8", "  ".repeat(7)));
        assert_eq!(drawn[11], format!("{}└ (11) t11", "  ".repeat(7)));
    }

    #[test]
    fn a_circle_is_drawn_once() {
        assert_eq!(drawn(&[("a", Some("b")), ("b", Some("a")), ("c", Some("c"))]), ["a", "└ b", "c"]);
    }
}
