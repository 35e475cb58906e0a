//! Speed and size on the real federation, beside the bars of the design and a bare client that writes the same objects in the same run.

#![allow(clippy::print_stdout)]

mod arrivals;
mod bare;
mod rows;
mod scale;
mod setup;
mod slurm;
mod slurm_bare;
mod slurm_usage;
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
    let mut table = table::Table::default();
    match std::env::args().nth(1).as_deref() {
        Some("p11") => {}
        Some("scale") => {
            scale::rows(&mut table).await?;
            table.print();
            return Ok(());
        }
        None => {
            federation(&mut table, grants).await?;
            scale::rows(&mut table).await?;
        }
        Some(other) => return Err(format!("{other:?} is not a row; without an argument all are measured, with p11 or scale that one").into()),
    }
    slurm::grants(&mut table, grants).await?;
    slurm_usage::records(&mut table).await?;
    table.print();
    table.write(&aifactory_tests::layout::root().join("target/bench.json"))?;
    Ok(())
}

/// The rows of Kubernetes sites.
async fn federation(table: &mut table::Table, grants: usize) -> Result<(), Failure> {
    let bench = setup::Bench::start().await?;
    rows::latency(&bench, table).await?;
    rows::drift(&bench, table).await?;
    rows::ending(&bench, table).await?;
    rows::rotation(&bench, table).await?;
    rows::dead_site(&bench, table).await?;
    let bare = bare::write(&bench, grants).await?;
    table.reference("objects", bare.objects as f64);
    table.reference("seconds", bare.seconds);
    table.reference("writes_per_second", bare.objects as f64 / bare.seconds);
    rows::bulk(&bench, table, grants, bare.seconds).await?;
    rows::change(&bench, table).await?;
    rows::rest(&bench, table).await?;
    Ok(())
}
