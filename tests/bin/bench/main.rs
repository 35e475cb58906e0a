//! Speed and size on the real federation, beside the bars of the design and a bare client that writes the same objects in the same run.

#![allow(clippy::print_stdout)]

mod arrivals;
mod bare;
mod rows;
mod setup;
mod table;

use std::process::ExitCode;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let grants: usize = std::env::var("BENCH_GRANTS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let bench = setup::Bench::start().await?;
    let mut table = table::Table::default();
    rows::latency(&bench, &mut table).await?;
    rows::drift(&bench, &mut table).await?;
    rows::ending(&bench, &mut table).await?;
    rows::rotation(&bench, &mut table).await?;
    rows::dead_site(&bench, &mut table).await?;
    let bare = bare::write(&bench, grants).await?;
    table.reference("objects", bare.objects as f64);
    table.reference("seconds", bare.seconds);
    table.reference("writes_per_second", bare.objects as f64 / bare.seconds);
    rows::bulk(&bench, &mut table, grants, bare.seconds).await?;
    rows::change(&bench, &mut table).await?;
    table.print();
    table.write(&aifactory_tests::layout::root().join("target/bench.json"))?;
    Ok(())
}
