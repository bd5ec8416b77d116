//! Listens on a Unix socket and, when asked, on TCP; and stops in order.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::peer::Peer;

/// Why nobody can be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else does.
    #[error("{} is in use by another process: stop that one, or choose another --socket", .0.display())]
    SocketInUse(PathBuf),
    /// The socket could not be made.
    #[error("cannot listen on {}: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The address could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The API has no authentication.
    #[error(
        "TCP address {0} refused: the API asks nobody who they are, so it listens on loopback addresses only"
    )]
    NotLoopback(SocketAddr),
}

/// The listening sockets, bound and not yet served.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    socket: PathBuf,
    tcp: Option<TcpListener>,
}

impl Listeners {
    /// Binds the Unix socket, for its owner only, and the TCP address where there is one.
    pub async fn bind(socket: &Path, tcp: Option<SocketAddr>) -> Result<Self, ListenError> {
        let tcp = match tcp {
            Some(address) if !address.ip().is_loopback() => return Err(ListenError::NotLoopback(address)),
            Some(address) => Some(
                TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { address, source })?,
            ),
            None => None,
        };
        let failed = |source| ListenError::Socket { path: socket.to_owned(), source };
        if UnixStream::connect(socket).is_ok() {
            return Err(ListenError::SocketInUse(socket.to_owned()));
        }
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let unix = UnixListener::bind(socket).map_err(failed)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { unix, socket: socket.to_owned(), tcp })
    }

    /// The TCP address, with its port where the system chose one.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Serves until `stop` completes; then takes no new request and waits for those under way.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>) -> io::Result<()> {
        let (stopping, stopped) = watch::channel(false);
        let stopping = Arc::new(stopping);
        let wait = |mut stopped: watch::Receiver<bool>| async move {
            // An error says that the sender is gone, which stops too.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let unix =
            axum::serve(self.unix, with_peer(router.clone())).with_graceful_shutdown(wait(stopped.clone()));
        let tcp = async {
            match self.tcp {
                Some(listener) => {
                    axum::serve(listener, with_peer(router))
                        .with_graceful_shutdown(wait(stopped.clone()))
                        .await
                }
                None => Ok(()),
            }
        };
        let stop = async {
            stop.await;
            stopping.send_replace(true);
            Ok(())
        };
        let served = tokio::try_join!(unix.into_future(), tcp, stop);
        // The next daemon on this path need not find a socket that nobody listens on.
        let _ = std::fs::remove_file(&self.socket);
        served.map(drop)
    }
}

/// The router, told who is at the other end of each connection.
fn with_peer(router: Router) -> IntoMakeServiceWithConnectInfo<Router, Peer> {
    router.into_make_service_with_connect_info()
}
