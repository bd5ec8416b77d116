//! Where the log goes, and in which form.

use std::io::{IsTerminal, stderr};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, with the fields of the event and of the spans around it.
    Json,
}

/// What is logged, and how.
#[derive(Args, Clone, Debug)]
pub struct LogOptions {
    /// What is logged: a level, or levels by module as in `info,forkd::branch=debug`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    log_format: LogFormat,
}

impl LogOptions {
    /// For commands without log options of their own: `FORKD_LOG`, `FORKD_LOG_FORMAT`, else the defaults.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok();
        let format = variable("FORKD_LOG_FORMAT").and_then(|name| LogFormat::from_str(&name, false).ok());
        Self {
            log: variable("FORKD_LOG").unwrap_or_else(|| "info".to_owned()),
            log_format: format.unwrap_or(LogFormat::Text),
        }
    }

    /// Sets the log up for this process. A reader of standard error that is gone ends nothing.
    pub fn init(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| anyhow::anyhow!("--log '{}' is no filter: {error}", self.log))?;
        let log =
            tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false).with_writer(stderr);
        match self.log_format {
            LogFormat::Text => log.with_ansi(stderr().is_terminal()).init(),
            LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
        }
        Ok(())
    }

    /// The options as environment variables, for a process that is to log as this one does.
    pub fn as_environment(&self) -> [(&'static str, String); 2] {
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        [("FORKD_LOG", self.log.clone()), ("FORKD_LOG_FORMAT", format.to_owned())]
    }
}
