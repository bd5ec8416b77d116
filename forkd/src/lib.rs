//! The daemon: it runs Firecracker microVMs and BRANCHes them.

pub mod api;
pub mod http_client;
