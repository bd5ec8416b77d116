//! The daemon: it runs Firecracker microVMs and BRANCHes them.

pub mod admission;
pub mod api;
pub mod attribution;
pub mod audit;
pub mod branch;
pub mod byte_channel;
pub mod client;
pub mod clock;
pub mod daemon;
pub mod doctor;
pub mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod history;
pub mod http;
pub mod http_client;
pub mod metrics;
pub mod pack;
pub mod sandbox;
pub mod snapshot;
pub mod transfer;
pub mod trend;
pub mod unique;
pub mod vmm;
pub mod watchdog;
