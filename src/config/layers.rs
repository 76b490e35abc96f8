//! Flags, environment and file become one list of flags: what comes later in the list wins.
//!
//! Each layer is also parsed alone, so that a wrong value is reported even where another layer overrides it, and
//! under the name that its author gave it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::{ConfigError, Flags};

/// Flags that only other commands of kuberaft set.
const HIDDEN: [&str; 3] = ["exit-with-parent", "hide-peer-addr", "peer-certificate-lifetime"];

/// One flag from a layer other than the command line.
struct Setting {
    /// As its author wrote it: the variable's name or the file's key.
    origin: String,
    /// `--flag=value`
    argument: OsString,
}

/// Reads all layers. `args` is what follows `serve` on the command line; `env` looks up an environment variable.
pub(super) fn read(
    args: Vec<OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Flags, ConfigError> {
    // The variables are a layer here, of all flags alike, and clap need not look at some of them by itself.
    let command = Flags::augment_args(Command::new("kuberaft serve").no_binary_name(true))
        .mut_args(|argument| argument.env(None));
    let given = command.clone().try_get_matches_from(&args)?;

    let variables = from_environment(&command, env);
    for setting in &variables {
        parse_alone(&command, setting)
            .map_err(|message| ConfigError::Environment { variable: setting.origin.clone(), message })?;
    }
    let mut merged = from_file(&command, config_path(&command, &given, &variables)?)?;
    merged.extend(variables);

    let arguments = merged.into_iter().map(|setting| setting.argument).chain(args);
    let matches = command.args_override_self(true).try_get_matches_from(arguments)?;
    Ok(Flags::from_arg_matches(&matches)?)
}

/// The environment variable of a flag: `client-addr` has `KUBERAFT_CLIENT_ADDR`. Other variables that begin so are
/// none of ours: Kubernetes sets `KUBERAFT_SERVICE_HOST` and the like for a Service of that name.
fn variable(flag: &str) -> String {
    format!("KUBERAFT_{}", flag.replace('-', "_").to_ascii_uppercase())
}

fn from_environment(command: &Command, env: impl Fn(&str) -> Option<OsString>) -> Vec<Setting> {
    let flags = command.get_arguments().filter_map(|arg| arg.get_long());
    flags
        .filter_map(|flag| {
            let origin = variable(flag);
            let value = env(&origin).filter(|value| !value.is_empty())?;
            let mut argument = OsString::from(format!("--{flag}="));
            argument.push(value);
            Some(Setting { origin, argument })
        })
        .collect()
}

fn config_path(
    command: &Command,
    given: &ArgMatches,
    variables: &[Setting],
) -> Result<Option<PathBuf>, ConfigError> {
    let from_variables = variables.iter().map(|setting| &setting.argument);
    let matches = command.clone().try_get_matches_from(from_variables)?;
    let path = |matches: &ArgMatches| matches.get_one::<PathBuf>("config").cloned();
    Ok(path(given).or_else(|| path(&matches)))
}

fn from_file(command: &Command, path: Option<PathBuf>) -> Result<Vec<Setting>, ConfigError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return Err(ConfigError::FileRead { path, error }),
    };
    let wrong = |message: String| ConfigError::File { path: path.clone(), message };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let mut settings = Vec::with_capacity(table.len());
    for (key, value) in table {
        let setting = from_entry(command, &path, &key, &value)?;
        parse_alone(command, &setting).map_err(|message| wrong(format!("`{key}`: {message}")))?;
        settings.push(setting);
    }
    Ok(settings)
}

fn from_entry(
    command: &Command,
    path: &Path,
    key: &str,
    value: &toml::Value,
) -> Result<Setting, ConfigError> {
    let wrong = |message: String| ConfigError::File { path: path.to_owned(), message };
    // `config` would be a file that names another; it is a flag and a variable only.
    let flags = || command.get_arguments().filter_map(|arg| arg.get_long()).filter(|flag| *flag != "config");
    let Some(flag) = flags().find(|flag| *flag == key) else {
        let known = flags().filter(|flag| !HIDDEN.contains(flag)).collect::<Vec<_>>().join(", ");
        return Err(wrong(format!("unknown key `{key}`; the keys are: {known}")));
    };
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(_) | toml::Value::Boolean(_) => value.to_string(),
        _ => return Err(wrong(format!("`{key}` must be a string, a number or a boolean"))),
    };
    Ok(Setting { origin: key.to_owned(), argument: format!("--{flag}={text}").into() })
}

/// Parses one setting as if it stood alone on the command line; on failure says why, without clap's frame.
fn parse_alone(command: &Command, setting: &Setting) -> Result<(), String> {
    let Err(error) = command.clone().try_get_matches_from([&setting.argument]) else { return Ok(()) };
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    if let Some(source) = std::error::Error::source(&error) {
        return Err(format!("invalid value `{value}`: {source}"));
    }
    let allowed = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => format!("; use one of {}", values.join(", ")),
        _ => String::new(),
    };
    Err(format!("invalid value `{value}`{allowed}"))
}
