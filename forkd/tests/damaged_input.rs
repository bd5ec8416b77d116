//! What the daemon and its tools read of what others wrote: nothing that is damaged makes a parser panic.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use forkd::pack;
use forkd::snapshot::manifest::Manifest;
use reports::sweep;
use testkit::mutate::{Target, run};

const COUNT: u32 = 2000;
/// Of a pack's format.
const VERSION: u32 = 2;

/// A layer's manifest, but for its digests' being right.
fn manifest() -> serde_json::Value {
    let digest = "00".repeat(32);
    serde_json::json!({
        "schema": "forkd.snapshot/1", "tag": "a", "created_at_unix": 0, "mode": "diff", "data_path": "stage",
        "durable": true, "mem_mib": 1, "vcpus": 1, "firecracker": "1.12.1", "vmstate": digest, "identity": digest,
        "memory": { "layer": {
            "parent": { "tag": "p", "identity": digest }, "extents": [{ "start": 0, "bytes": 4096 }], "digest": digest,
        } },
    })
}

fn manifests() -> Vec<Vec<u8>> {
    let typed: Manifest = serde_json::from_value(manifest()).unwrap();
    vec![typed.encode().unwrap(), manifest().to_string().into_bytes()]
}

#[test]
fn manifests_and_their_extents() {
    let body = |bytes: &[u8]| {
        let _ = Manifest::decode(bytes);
        // Past the checksum, which damage never fits.
        if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
            let _ = (manifest.check(), manifest.check_extents());
        }
    };
    run(&Target { name: "manifest", body, seeds: manifests }, COUNT);
}

#[test]
fn packs() {
    let seeds = || {
        let mut header = [&b"forkdpak"[..], &VERSION.to_le_bytes(), &1_u32.to_le_bytes()].concat();
        let digest = blake3::hash(&header);
        header.extend(digest.as_bytes());
        vec![[header.as_slice(), &[0; 200]].concat(), header]
    };
    let body = |bytes: &[u8]| drop(pack::verify(bytes));
    run(&Target { name: "pack", body, seeds }, COUNT / 10);
}

#[test]
fn sweeps() {
    let seeds = || {
        vec![
            b"trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes\n1,1,7.5,3.25,4096\n1,2,8,NaN,0\n"
                .to_vec(),
        ]
    };
    let body = |bytes: &[u8]| drop(sweep::read("sweep.csv", bytes));
    run(&Target { name: "sweep", body, seeds }, COUNT);
}
