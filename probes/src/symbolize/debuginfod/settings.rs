//! The variables that all clients of debuginfod go by (debuginfod-client-config(7)).

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How long one file may take where `DEBUGINFOD_MAXTIME` does not say.
const MAX_TIME: Duration = Duration::from_secs(90);
/// How many bytes it may have where `DEBUGINFOD_MAXSIZE` does not say.
const MAX_BYTES: u64 = 2 << 30;

/// Whom to ask, for how long, and where to put what they give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Servers, in the order in which they are asked; without a slash at the end.
    pub urls: Vec<String>,
    /// The folder of all that was fetched; `None` where the environment names no place.
    pub cache: Option<PathBuf>,
    /// For one file, from its request to its last byte.
    pub max_time: Duration,
    /// Of one file.
    pub max_bytes: u64,
}

impl Settings {
    /// As this process's environment says; `None` where it names no server.
    pub fn from_environment() -> Option<Self> {
        Self::of(&|name| env::var_os(name))
    }

    /// As `variable` says.
    pub fn of(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<Self> {
        let named = |name: &str| variable(name).filter(|value| !value.is_empty());
        let number =
            |name: &str| named(name)?.to_str()?.trim().parse::<u64>().ok().filter(|value| *value > 0);
        let is_url = |word: &&str| word.starts_with("http://") || word.starts_with("https://");
        let text = named("DEBUGINFOD_URLS")?;
        let urls = text.to_string_lossy();
        let urls: Vec<String> =
            urls.split_whitespace().filter(is_url).map(|url| url.trim_end_matches('/').to_owned()).collect();
        let folder = |name: &str| named(name).map(PathBuf::from);
        let cache = folder("DEBUGINFOD_CACHE_PATH")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("debuginfod_client")))
            .or_else(|| Some(folder("HOME")?.join(".cache/debuginfod_client")));
        (!urls.is_empty()).then(|| Self {
            urls,
            cache,
            max_time: number("DEBUGINFOD_MAXTIME").map_or(MAX_TIME, Duration::from_secs),
            max_bytes: number("DEBUGINFOD_MAXSIZE").unwrap_or(MAX_BYTES),
        })
    }

    /// Where the debug file of a build lies once it was fetched.
    pub fn place(&self, build_id: &str) -> Option<PathBuf> {
        Some(self.cache.as_ref()?.join(build_id).join("debuginfo"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Option<Settings> {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        Settings::of(&|name| value(name).map(OsString::from))
    }

    #[test]
    fn without_a_server_there_is_nobody_to_ask() {
        assert_eq!(settings(&[("HOME", "/root")]), None);
        assert_eq!(settings(&[("DEBUGINFOD_URLS", ""), ("HOME", "/root")]), None);
        // elfutils has its own words between the servers.
        assert_eq!(settings(&[("DEBUGINFOD_URLS", "ima:enforcing file:///srv")]), None);
    }

    #[test]
    fn servers_are_asked_in_their_order_within_limits() {
        let plain =
            settings(&[("DEBUGINFOD_URLS", " https://a.example/  http://b.example:8002/x/")]).unwrap();
        assert_eq!(plain.urls, ["https://a.example", "http://b.example:8002/x"]);
        assert_eq!((plain.max_time, plain.max_bytes), (MAX_TIME, MAX_BYTES));
        let limits =
            [("DEBUGINFOD_URLS", "http://a"), ("DEBUGINFOD_MAXTIME", "5"), ("DEBUGINFOD_MAXSIZE", "0")];
        let limited = settings(&limits).unwrap();
        // No limit at all is not to be had.
        assert_eq!((limited.max_time, limited.max_bytes), (Duration::from_secs(5), MAX_BYTES));
    }

    #[test]
    fn the_cache_is_the_one_that_every_client_uses() {
        let places = [
            ("DEBUGINFOD_CACHE_PATH", "/cache", "/cache/abcd/debuginfo"),
            ("XDG_CACHE_HOME", "/xdg", "/xdg/debuginfod_client/abcd/debuginfo"),
            ("HOME", "/root", "/root/.cache/debuginfod_client/abcd/debuginfo"),
        ];
        for first in 0..places.len() {
            let mut variables = vec![("DEBUGINFOD_URLS", "http://a")];
            variables.extend(places[first..].iter().map(|(name, value, _)| (*name, *value)));
            let place = settings(&variables).unwrap().place("abcd");
            assert_eq!(place, Some(PathBuf::from(places[first].2)));
        }
        assert_eq!(settings(&[("DEBUGINFOD_URLS", "http://a")]).unwrap().place("abcd"), None);
    }
}
