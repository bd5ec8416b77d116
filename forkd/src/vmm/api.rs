//! Firecracker's HTTP API, as far as it is used outside of a pause: one typed call each.
//!
//! What happens in a pause goes through [`super::control`].
//!
//! <https://github.com/firecracker-microvm/firecracker/blob/v1.12.1/src/firecracker/swagger/firecracker.yaml>

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::VmmError;
use super::boot::BootSource;
use crate::api::RootfsMode;
use crate::http_client::{Endpoint, HttpClient};
use crate::snapshot::DRIVE_FILE;

/// Given to every call that does not move guest memory.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Given to a call that writes guest memory to a file, or maps one.
pub(super) const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(120);

/// The API of one Firecracker process.
#[derive(Debug)]
pub struct Api {
    client: HttpClient,
}

/// What Firecracker says its microVM is doing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// `Not started`, `Running` or `Paused`.
    pub state: String,
}

impl Api {
    /// The API that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { client: HttpClient::new(Endpoint::Unix(socket.to_owned())) }
    }

    /// Configures and starts a microVM; dirty pages are tracked, so that it can be BRANCHed.
    pub async fn boot(
        &self,
        source: &BootSource,
        kernel: &Path,
        vcpus: u8,
        mem_mib: u32,
    ) -> Result<(), VmmError> {
        let boot = json!({
            "kernel_image_path": kernel,
            "initrd_path": source.initrd(),
            "boot_args": source.boot_args(),
        });
        self.send("set the kernel", Method::PUT, "/boot-source", without_nulls(boot), CALL_DEADLINE).await?;
        let machine = json!({ "vcpu_count": vcpus, "mem_size_mib": mem_mib, "track_dirty_pages": true });
        self.send("set the machine", Method::PUT, "/machine-config", machine, CALL_DEADLINE).await?;
        if let Some((image, mode)) = source.rootfs() {
            let is_read_only = mode == RootfsMode::ReadOnly;
            let drive = json!({
                "drive_id": "rootfs",
                // Relative to the run directory: Firecracker records the path, and each child has its own file there.
                "path_on_host": if is_read_only { image } else { Path::new(DRIVE_FILE) },
                "is_root_device": true,
                "is_read_only": is_read_only,
            });
            self.send("attach the root file system", Method::PUT, "/drives/rootfs", drive, CALL_DEADLINE)
                .await?;
        }
        let start = json!({ "action_type": "InstanceStart" });
        self.send("start the microVM", Method::PUT, "/actions", start, SNAPSHOT_DEADLINE).await
    }

    /// Restores a snapshot into this fresh process and lets the guest run, its dirty pages tracked.
    pub async fn load_snapshot(&self, vmstate: &Path, memory: &Path) -> Result<(), VmmError> {
        let load = json!({
            "snapshot_path": vmstate,
            "mem_backend": { "backend_type": "File", "backend_path": memory },
            "enable_diff_snapshots": true,
            "resume_vm": true,
        });
        self.send("restore the snapshot", Method::PUT, "/snapshot/load", load, SNAPSHOT_DEADLINE).await
    }

    async fn send(
        &self,
        step: &'static str,
        method: Method,
        path: &str,
        body: Value,
        deadline: Duration,
    ) -> Result<(), VmmError> {
        let answer: Result<Option<Value>, _> = self.client.json(method, path, Some(&body), deadline).await;
        answer.map(drop).map_err(|source| VmmError::Call { step, source })
    }
}

/// Firecracker refuses a field that is null; it wants it absent.
fn without_nulls(mut body: Value) -> Value {
    if let Value::Object(fields) = &mut body {
        fields.retain(|_, value| !value.is_null());
    }
    body
}
