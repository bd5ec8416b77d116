//! `forkd console`

mod streams;
mod terminal;
mod until;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use forkd::api::{ConsoleAnswer, ConsoleRequest};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use self::terminal::Terminal;
use self::until::Until;
use super::exit::{Exit, Failure, about_sandbox};
use super::{Context, find};

/// Ctrl-], which ends a console on a terminal.
const QUIT: u8 = 0x1d;
/// How long the guest may take to read what was typed.
const WRITE_MS: u64 = 10_000;
/// After the end of the input, how long to listen on.
const LISTEN_ON: Duration = Duration::from_secs(1);
const LISTEN_FOR_TEXT: Duration = Duration::from_secs(10);

/// Speak to a guest over its serial console; Ctrl-] quits, or the end of a piped input
#[derive(Args, Debug)]
pub struct Console {
    /// Id of the sandbox, or its begin
    #[arg(value_name = "ID")]
    id: String,
    /// Echo and edit here, and send whole lines: for a guest that does not echo, as the built-in one
    #[arg(short, long)]
    line: bool,
    /// End when this appears in the output; fail if it does not
    #[arg(long, value_name = "TEXT")]
    until: Option<String>,
    /// How long to listen, from the end of a piped input, or from the start on a terminal; 1s when absent and
    /// the input is piped, 10s with --until, and as long as you like on a terminal
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

/// Why a console ended.
enum End {
    Found,
    TimeOver,
    Quit,
    Gone,
    Signal(SignalKind),
}

impl Console {
    /// Joins the terminal, or the pipes, to the guest's console.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let on_terminal = io::stdin().is_terminal();
        let json = context.out.json;
        ensure!(
            !(json && on_terminal),
            Failure::new(Exit::Usage, "console --json takes its input from a pipe")
        );
        let sandbox = find::sandbox(context, &self.id).await?;
        // Told before anything is written, so that no answer is missed.
        let start = context.client.console_output(&sandbox.id, None, Duration::ZERO).await;
        let start = start.map_err(about_sandbox(&sandbox.id))?.next;
        let mut signals = Signals::install()?;
        if on_terminal {
            let hint = if self.line { "" } else { " (--line, if you do not see what you type)" };
            context.out.note(&format!("console of {}; Ctrl-] quits{hint}", sandbox.id));
        }
        let terminal = if self.line { Terminal::lines() } else { Terminal::raw() };
        let terminal = terminal.context("cannot change the terminal's settings")?;
        let mut session =
            Session { context, id: &sandbox.id, on_terminal, heard: Heard::new(json, self.until.clone()) };
        let end = session.run(start, self.deadlines(on_terminal), &mut signals).await;
        drop(terminal);
        if on_terminal {
            // The shell's prompt begins a line.
            eprintln!();
        }
        let Heard { answer, .. } = session.heard;
        if json {
            context.out.result(&answer, String::new)?;
        }
        self.conclude(end?, &sandbox.id)
    }

    /// When to end: after the start, and after the end of the input.
    fn deadlines(&self, on_terminal: bool) -> (Option<Duration>, Duration) {
        let after_input = if self.until.is_some() { LISTEN_FOR_TEXT } else { LISTEN_ON };
        (self.timeout.filter(|_| on_terminal), self.timeout.unwrap_or(after_input))
    }

    fn conclude(&self, end: End, id: &str) -> anyhow::Result<()> {
        match (end, &self.until) {
            (End::Found | End::Quit, _) | (End::TimeOver, None) => Ok(()),
            (End::TimeOver, Some(text)) => bail!("the guest of {id} did not say {text:?} in time"),
            (End::Gone, _) => bail!("sandbox {id} has ended"),
            (End::Signal(kind), _) => {
                let number = kind.as_raw_value();
                Err(Failure::new(Exit::Signal(number as u8), format!("ended by signal {number}")).into())
            }
        }
    }
}

/// One console that is joined.
struct Session<'a> {
    context: &'a Context,
    id: &'a str,
    on_terminal: bool,
    heard: Heard,
}

impl Session<'_> {
    async fn run(
        &mut self,
        start: u64,
        (from_start, after_input): (Option<Duration>, Duration),
        signals: &mut Signals,
    ) -> anyhow::Result<End> {
        let mut output = streams::output(self.context.another_client(), self.id.to_owned(), start);
        let mut input = streams::input();
        let mut input_is_open = true;
        let mut deadline = from_start.map(|time| Instant::now() + time);
        loop {
            tokio::select! {
                // Output first: what ends the console may have been said already.
                biased;
                kind = signals.next() => return Ok(End::Signal(kind)),
                piece = output.recv() => {
                    let Some(piece) = piece.transpose()? else { return Ok(End::Gone) };
                    if self.heard.take(&piece.output, piece.dropped_bytes)? {
                        return Ok(End::Found);
                    }
                }
                text = input.recv(), if input_is_open => match text {
                    Some(text) => if self.write(&text).await? { return Ok(End::Quit) },
                    None => {
                        input_is_open = false;
                        deadline = Some(Instant::now() + after_input);
                    }
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Ok(End::TimeOver);
                }
            }
        }
    }

    /// Sends what was typed; true where the user quits.
    async fn write(&self, text: &str) -> anyhow::Result<bool> {
        let (text, quits) = match text.split_once(char::from(QUIT)) {
            Some((before, _)) if self.on_terminal => (before, true),
            _ => (text, false),
        };
        if !text.is_empty() {
            let request = ConsoleRequest {
                write: text.to_owned(),
                // Found at once: the answer says that it was written, and another request reads.
                until: Some(String::new()),
                timeout_ms: Some(WRITE_MS),
            };
            self.context.client.console(self.id, &request).await.map_err(about_sandbox(self.id))?;
        }
        Ok(quits)
    }
}

/// What the guest said: printed as it comes, or kept for one JSON document.
struct Heard {
    keep: bool,
    until: Until,
    answer: ConsoleAnswer,
}

impl Heard {
    fn new(keep: bool, until: Option<String>) -> Self {
        let answer = ConsoleAnswer { output: String::new(), matched: false, dropped_bytes: 0 };
        Self { keep, until: Until::new(until), answer }
    }

    /// Takes a piece; true where the text that was waited for has come.
    fn take(&mut self, piece: &str, dropped_bytes: u64) -> io::Result<bool> {
        let end = self.until.end_in(piece);
        let piece = &piece[..end.unwrap_or(piece.len())];
        self.answer.matched = end.is_some();
        self.answer.dropped_bytes += dropped_bytes;
        if self.keep {
            self.answer.output.push_str(piece);
        } else {
            // The guest's own bytes, its escape codes included: they are for the user's terminal.
            let mut stdout = io::stdout();
            stdout.write_all(piece.as_bytes())?;
            stdout.flush()?;
        }
        Ok(self.answer.matched)
    }
}

/// The signals that end a console in order, so that the terminal is given back.
struct Signals([(SignalKind, Signal); 4]);

impl Signals {
    fn install() -> io::Result<Self> {
        let on = |kind| signal(kind).map(|signal| (kind, signal));
        Ok(Self([
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
            on(SignalKind::quit())?,
        ]))
    }

    async fn next(&mut self) -> SignalKind {
        let [a, b, c, d] = &mut self.0;
        tokio::select! {
            _ = a.1.recv() => a.0,
            _ = b.1.recv() => b.0,
            _ = c.1.recv() => c.0,
            _ = d.1.recv() => d.0,
        }
    }
}
