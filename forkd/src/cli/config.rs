//! Options of a command from four places, the first that has one wins: the command line, the environment, a
//! file, the default.
//!
//! An option is declared once, as an argument of its command. The environment variable of `--data-path` is
//! `FORKD_DATA_PATH`, and its key in the file is `data_path`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Spanned, Value};

/// Read when no other file is named. It need not be there.
pub const DEFAULT_FILE: &str = "/etc/forkd/config.toml";

/// The arguments that say where options are, and so are none themselves.
const NO_OPTIONS: [&str; 4] = ["config", "print_config", "help", "version"];

/// What is wrong with a file of options.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something in it.
    #[error("{}:{line}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong there, and what would be right.
        reason: String,
    },
}

/// Parses `words`, and where they give the subcommand `name`, fills in from its file what they and the environment
/// leave open. Ends the process where clap would.
pub fn matches_with_config(
    parser: &Command,
    name: &str,
    mut words: Vec<OsString>,
) -> Result<(ArgMatches, Effective), ConfigError> {
    let matches = parser.clone().get_matches_from(&words);
    let (Some(given), Some(command)) = (matches.subcommand_matches(name), parser.find_subcommand(name))
    else {
        return Ok((matches, Effective::default()));
    };
    let named: Option<&PathBuf> = given.get_one("config");
    let file = File::read(command, named.map(PathBuf::as_path))?;
    // Right behind the command's name: what the user gave may end in arguments of another kind.
    let place = words.iter().position(|word| word == name).map_or(words.len(), |at| at + 1);
    words.splice(place..place, file.arguments_beneath(given));
    let whole = parser.clone().get_matches_from(&words);
    let effective =
        whole.subcommand_matches(name).map(|matches| Effective::of(command, &file, given, matches));
    Ok((whole, effective.unwrap_or_default()))
}

/// Lets every option of `command` be given in the environment too.
pub fn with_environment(command: Command) -> Command {
    command.mut_args(|arg| match is_option(&arg) {
        true => {
            let name = format!("FORKD_{}", arg.get_id().as_str().to_uppercase());
            arg.env(name).hide_env_values(true)
        }
        false => arg,
    })
}

/// An option that a file gives.
#[derive(Debug)]
struct FromFile {
    line: usize,
    arguments: Vec<OsString>,
}

/// The options that a file gives, by the ids of their arguments.
#[derive(Debug, Default)]
pub struct File {
    path: PathBuf,
    options: BTreeMap<String, FromFile>,
}

impl File {
    /// Reads the options of `command` from the file at `named`, or at [`DEFAULT_FILE`] where that is there.
    pub fn read(command: &Command, named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(command, path, &text),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(command: &Command, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let at = |offset: usize, reason: String| ConfigError::Content {
            path: path.to_owned(),
            line: line_of(text, offset),
            reason,
        };
        let table: BTreeMap<Spanned<String>, Spanned<Value>> = toml::from_str(text)
            .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
        let mut options = BTreeMap::new();
        for (key, value) in table {
            let start = key.span().start;
            let key = key.into_inner();
            let arg = options_of(command).find(|arg| arg.get_id().as_str() == key).ok_or_else(|| {
                let known: Vec<_> = options_of(command).map(|arg| arg.get_id().as_str()).collect();
                at(start, format!("no option is called '{key}': there are {}", known.join(", ")))
            })?;
            let arguments = arguments(arg, value.get_ref()).map_err(|reason| at(start, reason))?;
            try_arguments(command, &arguments).map_err(|reason| at(start, reason))?;
            options.insert(key, FromFile { line: line_of(text, start), arguments });
        }
        Ok(Self { path: path.to_owned(), options })
    }

    /// The arguments that stand for options which `matches` has from nowhere but their defaults.
    pub fn arguments_beneath(&self, matches: &ArgMatches) -> Vec<OsString> {
        let is_given = |id: &str| {
            matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        };
        let beneath = self.options.iter().filter(|(id, _)| !is_given(id));
        beneath.flat_map(|(_, option)| option.arguments.iter().cloned()).collect()
    }
}

/// The options of a command as they are in force, and where each comes from. Prints as a file of options.
#[derive(Debug, Default)]
pub struct Effective(Vec<Line>);

#[derive(Debug)]
struct Line {
    key: String,
    /// Empty where the option is not set.
    values: Vec<String>,
    source: String,
}

impl Effective {
    /// What `matches`, which were made with the arguments of `file`, come to.
    pub fn of(command: &Command, file: &File, given: &ArgMatches, matches: &ArgMatches) -> Self {
        let line = |arg: &Arg| {
            let id = arg.get_id().as_str();
            let values = matches.get_raw(id).into_iter().flatten();
            let values = values.map(|value| value.to_string_lossy().into_owned()).collect();
            Line { key: id.to_owned(), values, source: source_of(arg, file, given) }
        };
        Self(options_of(command).map(line).collect())
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { key, values, source } in &self.0 {
            let values: Vec<String> = values.iter().map(|value| in_toml(value)).collect();
            match values.as_slice() {
                [] => writeln!(f, "# {key} is not set")?,
                [value] => writeln!(f, "{key} = {value}  # {source}")?,
                values => writeln!(f, "{key} = [{}]  # {source}", values.join(", "))?,
            }
        }
        Ok(())
    }
}

fn source_of(arg: &Arg, file: &File, given: &ArgMatches) -> String {
    let id = arg.get_id().as_str();
    match (given.value_source(id), file.options.get(id)) {
        (Some(ValueSource::CommandLine), _) => format!("--{}", arg.get_long().unwrap_or(id)),
        (Some(ValueSource::EnvVariable), _) => {
            format!("environment {}", arg.get_env().unwrap_or_default().to_string_lossy())
        }
        (_, Some(option)) => format!("{}:{}", file.path.display(), option.line),
        _ => "default".to_owned(),
    }
}

/// Numbers and truth values as such, all else as a string.
fn in_toml(value: &str) -> String {
    match value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok() {
        true => value.to_owned(),
        false => Value::String(value.to_owned()).to_string(),
    }
}

fn options_of(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| is_option(arg))
}

fn is_option(arg: &Arg) -> bool {
    arg.get_long().is_some() && !NO_OPTIONS.contains(&arg.get_id().as_str())
}

/// The arguments that give `arg` this value, or what is wrong with it.
fn arguments(arg: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    let flag = format!("--{}", arg.get_long().unwrap_or_default());
    let takes_no_value = matches!(arg.get_action(), ArgAction::SetTrue);
    match (value, takes_no_value) {
        (Value::Boolean(true), true) => Ok(vec![flag.into()]),
        (Value::Boolean(false), true) => Ok(Vec::new()),
        (_, true) => Err(format!("'{}' must be true or false", arg.get_id())),
        (Value::Array(values), false) if matches!(arg.get_action(), ArgAction::Append) => {
            values.iter().map(|value| argument(arg, &flag, value)).collect()
        }
        (value, false) => Ok(vec![argument(arg, &flag, value)?]),
    }
}

fn argument(arg: &Arg, flag: &str, value: &Value) -> Result<OsString, String> {
    match value {
        Value::String(value) => Ok(format!("{flag}={value}").into()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok(format!("{flag}={value}").into()),
        other => Err(format!("'{}' cannot be {}", arg.get_id(), other.type_str())),
    }
}

/// Says what is wrong with these arguments, taken alone.
fn try_arguments(command: &Command, arguments: &[OsString]) -> Result<(), String> {
    let words = std::iter::once(OsString::from("forkd")).chain(arguments.iter().cloned());
    match command.clone().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}

/// The line, from 1 on, in which the byte at `offset` is.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use clap::{Args, Command};

    use super::{Effective, File, options_of, with_environment};
    use crate::cli::serve::Serve;

    fn serve() -> Command {
        with_environment(Serve::augment_args(Command::new("serve")))
    }

    fn parse(text: &str) -> Result<File, String> {
        File::parse(&serve(), Path::new("/f"), text).map_err(|error| error.to_string())
    }

    /// What comes of a file and of arguments.
    fn effective(text: &str, arguments: &[&str]) -> String {
        let (command, file) = (serve(), parse(text).unwrap());
        let mut words: Vec<OsString> = ["serve"].iter().chain(arguments).map(OsString::from).collect();
        let given = command.clone().get_matches_from(&words);
        words.extend(file.arguments_beneath(&given));
        let matches = command.clone().get_matches_from(&words);
        Effective::of(&command, &file, &given, &matches).to_string()
    }

    #[test]
    fn every_option_of_serve_can_be_given_in_the_environment_and_in_a_file() {
        let command = serve();
        let ids: Vec<_> = options_of(&command).map(|arg| arg.get_id().as_str()).collect();
        assert!(ids.contains(&"snapshot_root") && !ids.contains(&"config"), "{ids:?}");
        let printed = effective("", &[]);
        for arg in options_of(&command) {
            let id = arg.get_id().as_str();
            // One spelling: the flag, the variable and the key differ in nothing but case and dashes.
            assert_eq!(arg.get_long().unwrap().replace('-', "_"), id);
            assert_eq!(arg.get_env().unwrap().to_str().unwrap(), format!("FORKD_{}", id.to_uppercase()));
            assert!(printed.lines().any(|line| line.trim_start_matches("# ").starts_with(id)), "{id}");
            // Known to the file: what is wrong with the value may be said, and nothing else.
            let refused = parse(&format!("{id} = {{ }}")).unwrap_err();
            assert!(!refused.contains("no option is called"), "{refused}");
        }
    }

    #[test]
    fn the_command_line_comes_before_the_file_and_the_file_before_the_default() {
        let text = "data_path = \"naive\"\n\nimages_mib = 7\nsocket = \"/s\"\n";
        let printed = effective(text, &["--data-path", "direct"]);
        for line in [
            "data_path = \"direct\"  # --data-path",
            "images_mib = 7  # /f:3",
            "socket = \"/s\"  # /f:4",
            "run_dir = \"/run/forkd/vms\"  # default",
            "# staging_mib is not set",
        ] {
            assert!(printed.lines().any(|printed| printed == line), "{line} is not in\n{printed}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_back() {
        let text = "data_path = \"naive\"\nstaging_mib = 5\ntcp = \"127.0.0.1:1\"\n";
        let printed = effective(text, &[]);
        let again = effective(&printed, &[]);
        let values = |printed: &str| -> Vec<String> {
            printed.lines().map(|line| line.split("  #").next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(values(&again), values(&printed));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_line() {
        let cases = [
            ("\nsnapshot-root = \"/x\"", "/f:2: no option is called 'snapshot-root': there are log,"),
            ("images_mib = 1\ndata_path = \"magic\"", "/f:2: invalid value 'magic' for '--data-path"),
            ("images_mib = [1]", "/f:1: 'images_mib' cannot be array"),
            ("config = \"/x\"", "/f:1: no option is called 'config'"),
            ("images_mib = 1\nimages_mib = 2", "/f:2: duplicate key"),
            ("images_mib = ", "/f:1: "),
        ];
        for (text, expected) in cases {
            let refused = parse(text).unwrap_err();
            assert!(refused.starts_with(expected), "{text:?}: {refused}");
            assert!(!refused.contains('\n'), "{refused}");
        }
    }
}
