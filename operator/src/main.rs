//! The operator's binary.

use std::process::ExitCode;

use aifactory_operator::cli::{Cli, Command};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(options) => aifactory_operator::telemetry::logging::init(&options.log).map_err(|error| error.to_string()).and_then(|()| {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
            runtime.block_on(aifactory_operator::run::run(*options)).map_err(|error| error.to_string())
        }),
        Command::Crds(options) => {
            let done =
                if options.check { aifactory_operator::crds::check(&options.directory) } else { aifactory_operator::crds::write(&options.directory) };
            done.map_err(|error| error.to_string())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
