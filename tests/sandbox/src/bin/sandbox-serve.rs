//! Serves a generated or recorded cluster until Ctrl-C.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a tool for developers that prints how to use what it started"
)]

use std::path::PathBuf;

use clap::Parser;
use sandbox::generate::Generator;
use sandbox::{Config, Sandbox};

/// Serve an OpenShift-like API server for development
#[derive(Debug, Parser)]
struct Args {
    /// Generate a cluster with this many images
    #[arg(long, default_value_t = 0)]
    images: usize,
    /// Load the `cluster.json` of this directory
    #[arg(long)]
    oracle: Option<PathBuf>,
    /// Write the kubeconfigs into this directory [default: a temporary one]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Serve http instead of https
    #[arg(long)]
    insecure: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = args.dir.as_deref().unwrap_or(temporary.path());
    let sandbox = Sandbox::start(Config { tls: !args.insecure, ..Config::default() });
    if let Some(oracle) = &args.oracle {
        sandbox.load_oracle(oracle);
    }
    if args.images > 0 {
        let streams = (args.images / 20).max(1);
        sandbox.generate(&Generator { images: args.images, streams, ..Generator::default() });
    }
    println!("API server: {}", sandbox.api_url());
    for user in ["admin", "pruner"] {
        println!(
            "  oc --kubeconfig {} get images    # as {user}",
            sandbox.write_kubeconfig(dir, user).display()
        );
    }
    println!("Press Ctrl-C to stop.");
    tokio::signal::ctrl_c().await.expect("wait for Ctrl-C");
}
