//! The parsers of this crate, each on seeds that lead far into it and on what becomes of them when they are damaged:
//! a few thousand times as a unit test, and as long as one likes as a target in `fuzz/`.

use std::path::Path;

use serde::de::DeserializeOwned;
use testkit::mutate::Target;

use crate::api::{
    BranchQuery, BranchRequest, ConsoleRequest, CreateSandboxes, CreateSnapshot, DataPath, ErrorBody, Event,
};
use crate::audit::{AttributionEntry, Entry};
use crate::doctor::parse;
use crate::http_client::refusal;
use crate::pack;
use crate::sandbox::record::{self, Record};
use crate::snapshot::digest::Digest;
use crate::snapshot::extents::Extent;
use crate::snapshot::file_id::FileId;
use crate::snapshot::manifest::{Manifest, Memory, Parent, SCHEMA};
use crate::snapshot::origin::Cpu;
use crate::snapshot::tag::Tag;
use crate::snapshot::testing::{manifest_of, with_drive};
use crate::vmm::api::InstanceInfo;
use crate::vmm::cgroup_mounts;
use crate::vmm::control::whole_answer;
use crate::vmm::identity::Identity;
use crate::watchdog::message::{Message, Pause};

/// Every one.
pub const TARGETS: &[Target] = &[
    Target { name: "pack", body: pack, seeds: pack_seeds },
    Target { name: "pack_heads", body: pack_heads, seeds: pack_heads_seeds },
    Target { name: "manifest", body: manifest, seeds: manifest_seeds },
    Target { name: "manifest_fields", body: manifest_fields, seeds: manifest_fields_seeds },
    Target { name: "run_directory", body: run_directory, seeds: run_directory_seeds },
    Target { name: "watchdog_message", body: watchdog_message, seeds: watchdog_message_seeds },
    Target { name: "firecracker_answer", body: firecracker_answer, seeds: firecracker_answer_seeds },
    Target { name: "api_body", body: api_body, seeds: api_body_seeds },
    Target { name: "audit_line", body: audit_line, seeds: audit_line_seeds },
    Target { name: "host_text", body: host_text, seeds: host_text_seeds },
];

/// A pack, as a client sends it.
pub fn pack(bytes: &[u8]) {
    let _ = pack::verify(bytes);
}

/// The heads of its records from within their checks, which random damage never passes.
pub fn pack_heads(bytes: &[u8]) {
    let _ = pack::verify(&*pack::sealed(bytes));
}

/// A snapshot's manifest.
pub fn manifest(bytes: &[u8]) {
    let _ = Manifest::decode(bytes);
}

/// Its fields from within its checksum: what is right is read back, and nothing else is read.
pub fn manifest_fields(bytes: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return };
    let Ok(text) = manifest.encode() else { return };
    let is_right = manifest.schema == SCHEMA && manifest.check().is_ok();
    assert_eq!(Manifest::decode(&text).ok(), is_right.then_some(manifest));
}

/// What a sandbox's run directory says of it, and which file an image was found whole as.
pub fn run_directory(bytes: &[u8]) {
    let _ = Record::decode(bytes);
    parsed::<Identity>(bytes);
    parsed::<FileId>(bytes);
}

/// A datagram to the watchdog.
pub fn watchdog_message(bytes: &[u8]) {
    let _ = Message::decode(bytes);
}

/// Firecracker's answer, as far as it has come.
pub fn firecracker_answer(bytes: &[u8]) {
    if let Ok(Some(answer)) = whole_answer(bytes) {
        refusal(&answer);
        parsed::<InstanceInfo>(&answer.body);
    }
}

/// Bodies of requests, and the words in them.
pub fn api_body(bytes: &[u8]) {
    parsed::<CreateSandboxes>(bytes);
    parsed::<CreateSnapshot>(bytes);
    parsed::<BranchRequest>(bytes);
    parsed::<ConsoleRequest>(bytes);
    parsed::<BranchQuery>(bytes);
    parsed::<Event>(bytes);
    parsed::<ErrorBody>(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = (text.parse::<Tag>(), text.parse::<DataPath>());
}

/// Lines of the audit log.
pub fn audit_line(bytes: &[u8]) {
    parsed::<Entry>(bytes);
    parsed::<AttributionEntry>(bytes);
}

/// What the kernel says of the host.
pub fn host_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    cgroup_mounts::parse_all(&text);
    let _ = (parse::meminfo_bytes(&text, "MemAvailable"), parse::chosen(&text), parse::swap_areas(&text));
    let _ = (parse::mount_of(&text, Path::new("/var/lib/forkd")), parse::cgroups(&text));
    let _ = (parse::major_minor(&text), Cpu::parse(&text));
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) {
    let _ = serde_json::from_slice::<T>(bytes);
}

fn manifests() -> Vec<Manifest> {
    let digest = Digest::of(b"state");
    let parent = Parent { tag: "base".to_owned(), identity: digest };
    let extents = vec![Extent { start: 0, bytes: 4096 }, Extent { start: 8192, bytes: 4096 }];
    let layer = manifest_of("layer", digest, Memory::Layer { parent, extents, digest });
    vec![with_drive(layer, &[7; 4096]), manifest_of("base", digest, Memory::Image { digest })]
}

fn pack_seeds() -> Vec<Vec<u8>> {
    let manifests = manifests().into_iter().filter_map(|manifest| manifest.encode().ok());
    manifests
        .map(|manifest| pack::forged(&[[manifest, b"state".to_vec(), vec![1; 8192], Vec::new()]]))
        .collect()
}

fn pack_heads_seeds() -> Vec<Vec<u8>> {
    // Kind, detail, two zero bytes, stored bytes, offset, plain bytes.
    let head = |kind: u8, detail: u8, stored: u32, offset: u64, bytes: u64| {
        let fields = [offset.to_le_bytes(), bytes.to_le_bytes()].concat();
        [&[kind, detail, 0, 0][..], &stored.to_le_bytes(), &fields].concat()
    };
    let heads = [head(1, 1, 0, 0, 8192), head(2, 0, 32, 0, 32), head(2, 1, 8, 32, 64), head(3, 0, 32, 0, 96)];
    vec![heads.concat(), head(4, 0, 32, 0, 0)]
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    manifests().iter().filter_map(|manifest| manifest.encode().ok()).collect()
}

fn manifest_fields_seeds() -> Vec<Vec<u8>> {
    manifests().iter().filter_map(|manifest| serde_json::to_vec(manifest).ok()).collect()
}

fn run_directory_seeds() -> Vec<Vec<u8>> {
    serde_json::to_vec(&record::sample())
        .into_iter()
        .chain([b"{\"pid\":3,\"start_ticks\":4}".to_vec()])
        .collect()
}

fn watchdog_message_seeds() -> Vec<Vec<u8>> {
    let process = Identity { pid: 3, start_ticks: 4 };
    let pause = Pause { lease: 1, process, socket: "/run/forkd/a.sock".into(), lease_ms: 5_000 };
    vec![Message::Begin(pause).encode(), Message::End(7).encode()]
}

fn firecracker_answer_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 19\r\n\r\n{\"state\":\"Running\"}",
        "HTTP/1.1 400 \r\nContent-Length: 24\r\n\r\n{\"fault_message\":\"none\"}",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn api_body_seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"snapshot_tag":"base","n":2,"memory_limit_mib":64,"cpu_quota":1.5,"netns":"blue","force":true}"#,
        r#"{"tag":"base","mem_mib":128,"vcpus":1,"kernel":"/k","rootfs":"/r"}"#,
        r#"{"tag":"one","mode":"diff","data_path":"stage","wait":false,"durable":true}"#,
        r#"{"write":"d 1\n","until":"done","timeout_ms":100}"#,
        r#"{"error":"none"}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn audit_line_seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"at_unix_ms":1,"what":"POST /v1/sandboxes","target":"/v1/sandboxes","who":{"unix":{"uid":0,"gid":0,"pid":7}},
            "outcome":"done","status":201,"duration_ms":1.5,"branch":"a","pause_ms":0.5}"#,
        r#"{"at_unix_ms":1,"what":"attribution","branch":"a","pause_ms":0.5,"cause":"io","share":0.5,"sound":true}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn host_text_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "MemTotal:       24684188 kB\nMemAvailable:   20000000 kB\n",
        "always within_size advise [never] deny force\n",
        "31 27 7:3 / /var/lib/a\\040b rw,noatime shared:12 - xfs /dev/loop3 rw,attr2\n",
        "40 23 0:30 / /sys/fs/cgroup/memory rw - cgroup none rw,memory\n4:memory:/a\n0::/b\n",
        "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 85\nstepping : 7\nflags : fpu vme\n",
        "6.18.5-fc-v18",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    #[test]
    fn no_damaged_input_makes_a_parser_panic() {
        for target in TARGETS {
            testkit::mutate::run(target, 2000);
        }
    }

    #[test]
    fn seeds_are_what_the_parsers_take() {
        for seed in super::pack_seeds() {
            assert!(crate::pack::verify(&*seed).is_ok());
        }
        for seed in super::manifest_seeds() {
            assert!(super::Manifest::decode(&seed).is_ok());
        }
        assert!(super::Record::decode(&super::run_directory_seeds()[0]).is_ok());
        for seed in super::watchdog_message_seeds() {
            assert!(super::Message::decode(&seed).is_ok());
        }
        for seed in super::firecracker_answer_seeds() {
            assert!(matches!(super::whole_answer(&seed), Ok(Some(_))), "{}", String::from_utf8_lossy(&seed));
        }
        assert!(serde_json::from_slice::<super::Entry>(&super::audit_line_seeds()[0]).is_ok());
        let bodies = super::api_body_seeds();
        assert!(serde_json::from_slice::<super::CreateSandboxes>(&bodies[0]).is_ok());
        assert!(serde_json::from_slice::<super::CreateSnapshot>(&bodies[1]).is_ok());
        assert!(serde_json::from_slice::<super::BranchRequest>(&bodies[2]).is_ok());
        assert!(serde_json::from_slice::<super::ConsoleRequest>(&bodies[3]).is_ok());
    }
}
