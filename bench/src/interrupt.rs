//! Signals that ask for an orderly end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Error;

/// Listens for SIGINT, SIGTERM and SIGHUP. From its creation on they end the process no more; whoever holds
/// it must wait for it next to every long operation.
pub struct Interrupt {
    signals: [(&'static str, Signal); 3],
    seen: Option<&'static str>,
}

impl Interrupt {
    /// Begins to listen. Needs a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        let signals = [
            ("SIGINT", signal(SignalKind::interrupt())?),
            ("SIGTERM", signal(SignalKind::terminate())?),
            ("SIGHUP", signal(SignalKind::hangup())?),
        ];
        Ok(Self { signals, seen: None })
    }

    /// Ends when a signal has come, also before this call, and with [`Error::Interrupted`].
    pub async fn wait(&mut self) -> Error {
        let seen = match self.seen {
            Some(seen) => seen,
            None => {
                let [(int, a), (term, b), (hup, c)] = &mut self.signals;
                tokio::select! {
                    _ = a.recv() => int,
                    _ = b.recv() => term,
                    _ = c.recv() => hup,
                }
            }
        };
        self.seen = Some(seen);
        Error::Interrupted(seen)
    }

    /// Runs `work` to its end or to the first signal, which drops it at its next await.
    pub async fn or<T>(&mut self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            error = self.wait() => Err(error),
            done = work => done,
        }
    }
}
