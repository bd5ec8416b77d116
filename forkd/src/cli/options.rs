//! What every client command takes: which daemon to speak to, and how to print.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use forkd::http_client::Endpoint;

use super::exit::{Exit, Failure};

/// Where the daemon listens when nothing says otherwise.
const DEFAULT_SOCKET: &str = "/run/forkd/forkd.sock";
const SOCKET_VARIABLE: &str = "FORKD_SOCKET";
const URL_VARIABLE: &str = "FORKD_URL";

/// Options before or after the command's name.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Options {
    /// Unix socket of the daemon [env: FORKD_SOCKET] [default: /run/forkd/forkd.sock]
    // Not clap's own `env` and `default_value`: those would reach `serve` too, whose --socket is another.
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// TCP address of the daemon instead, http://HOST:PORT [env: FORKD_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// Print one JSON document with the API's field names
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// Whether `endpoint` is where the daemon listens that keeps its snapshots in the default root.
pub fn is_default(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Unix(socket) if socket == Path::new(DEFAULT_SOCKET))
}

impl Options {
    /// Where the daemon listens: as the command line says, else the environment, else the default.
    pub fn endpoint(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Endpoint, Failure> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        match (&self.socket, &self.url) {
            (Some(_), Some(_)) => {
                Err(Failure::new(Exit::Usage, "both --socket and --url are given: a daemon is one of them"))
            }
            (Some(socket), None) => Ok(Endpoint::Unix(socket.clone())),
            (None, Some(url)) => parse_url(url),
            (None, None) => match (set(URL_VARIABLE), set(SOCKET_VARIABLE)) {
                (Some(url), _) => parse_url(&url.to_string_lossy()),
                (None, socket) => Ok(Endpoint::Unix(socket.unwrap_or_else(|| DEFAULT_SOCKET.into()).into())),
            },
        }
    }
}

fn parse_url(url: &str) -> Result<Endpoint, Failure> {
    let refused = || {
        Failure::new(
            Exit::Usage,
            format!("URL '{url}' refused: it has the form http://HOST:PORT and no path"),
        )
    };
    let address = url.strip_prefix("http://").ok_or_else(refused)?.trim_end_matches('/');
    let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
    let port: Result<u16, _> = port.parse();
    if host.is_empty() || host.contains(['/', '@', '?']) || port.is_err() {
        return Err(refused());
    }
    Ok(Endpoint::Tcp(address.to_owned()))
}

#[cfg(test)]
mod tests {
    use forkd::http_client::Endpoint;

    use super::{Color, Options};

    fn endpoint(socket: Option<&str>, url: Option<&str>, env: &[(&str, &str)]) -> Option<String> {
        let options = Options {
            socket: socket.map(Into::into),
            url: url.map(Into::into),
            json: false,
            color: Color::Auto,
        };
        let variable =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        options.endpoint(variable).ok().map(|endpoint: Endpoint| endpoint.to_string())
    }

    #[test]
    fn the_command_line_goes_before_the_environment_and_that_before_the_default() {
        let both = [("FORKD_SOCKET", "/e"), ("FORKD_URL", "http://h:1")];
        let check = |socket, url, env: &[_], expected: &str| {
            assert_eq!(endpoint(socket, url, env).as_deref(), Some(expected));
        };
        check(None, None, &[], "unix:/run/forkd/forkd.sock");
        check(None, None, &[("FORKD_SOCKET", "")], "unix:/run/forkd/forkd.sock");
        check(None, None, &both[..1], "unix:/e");
        check(None, None, &both, "http://h:1");
        check(Some("/s"), None, &both, "unix:/s");
        check(None, Some("http://[::1]:8889/"), &both, "http://[::1]:8889");
        assert_eq!(endpoint(Some("/s"), Some("http://h:1"), &[]), None);
    }

    #[test]
    fn what_is_no_plain_url_is_refused() {
        for url in
            ["h:1", "https://h:1", "http://h", "http://:1", "http://h:x", "http://h:1/v1", "http://a@h:1"]
        {
            assert_eq!(endpoint(None, Some(url), &[]), None, "{url}");
        }
    }
}
