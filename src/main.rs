//! The relay's binary.
#![allow(clippy::print_stdout, missing_docs)]

use std::path::PathBuf;

use clap::Parser;
use valise::app::Running;
use valise::config::Config;

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
    let text = arguments
        .config
        .map(|path| std::fs::read_to_string(path).expect("file"))
        .unwrap_or_default();
    let config = Config::read(&text, arguments.state_directory, arguments.listen);
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
