//! Who is at the other end of a connection.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::{TcpListener, UnixListener};

use crate::audit::Who;

/// The client of a connection, as the kernel knows it.
#[derive(Clone, Debug)]
pub struct Peer(pub Who);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        // SO_PEERCRED (unix(7)): credentials as they were when the client connected.
        Self(stream.io().peer_cred().map_or(Who::Unknown, |peer| Who::Unix {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid(),
        }))
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(Who::Tcp { address: stream.remote_addr().to_string() })
    }
}
