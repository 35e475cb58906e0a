//! Logs: structured, to standard error, as text for people or JSON for machines.

use std::{any::Any, io::IsTerminal as _, panic};

use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Always added to the filter: kube logs the whole answer when it can not read one, and an answer may be a Secret.
const ALWAYS: &str = "kube_client::client=off";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags for logs.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Format of log lines.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Which log lines: a level, or a list such as `info,aifactory_operator=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log_filter: String,
}

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter can not be read.
    #[error("--log-filter `{filter}` is no list of levels")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging was set up twice")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process, and has panics logged like everything else.
pub fn init(args: &LogArgs) -> Result<(), TelemetryError> {
    let filter = filter(&args.log_filter)?;
    let layer = match args.log_format {
        // Escape sequences are for terminals; in files they get in the way of a search.
        LogFormat::Text => fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false).with_writer(std::io::stderr).boxed(),
    };
    Registry::default().with(layer.with_filter(filter)).try_init().map_err(TelemetryError::Twice)?;
    panic::set_hook(Box::new(|info| {
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, message = panic_message(info.payload()), "Panicked");
    }));
    Ok(())
}

/// The message of a panic, where it is text.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let failed = |source| TelemetryError::Filter { filter: text.to_owned(), source };
    let filter: EnvFilter = text.parse().map_err(failed)?;
    Ok(filter.add_directive(ALWAYS.parse().map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn answers_of_api_servers_are_never_logged() {
        for text in ["trace", "info", "kube_client::client=trace,debug", ""] {
            assert!(filter(text).unwrap().to_string().contains("kube_client::client=off"), "{text}");
        }
        assert!(filter("a=b=c").is_err());
    }
}
