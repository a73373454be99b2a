//! The relay's binary.
#![allow(clippy::print_stdout, missing_docs)]

use std::path::PathBuf;

use clap::Parser;
use valise::app::Running;
use valise::config::{Config, Layer, Surroundings};

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    config: Option<PathBuf>,
    #[arg(long)]
    state_directory: PathBuf,
    #[arg(long)]
    listen: Vec<std::net::SocketAddr>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut flags = Layer::default();
    if !arguments.listen.is_empty() {
        flags.relay.listen = Some(arguments.listen.iter().map(ToString::to_string).collect());
    }
    flags.relay.state_directory = Some(arguments.state_directory.display().to_string());
    let surroundings = Surroundings::of_process();
    let config = Config::load(arguments.config.as_deref(), flags, &surroundings).expect("config");
    let running = match Running::start(&config).await {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            std::process::exit(1);
        }
    };
    println!("{}", running.address());
    if let Some(admin) = running.admin_address() {
        println!("admin: http://{admin}");
    }
    let mut term =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    running.shut_down().await;
}
