//! Serves a cluster until Ctrl-C.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a tool for developers that prints how to use what it started"
)]

use std::path::{Path, PathBuf};

use clap::Parser;
use sandbox::example::Example;
use sandbox::generate::Generator;
use sandbox::serve::asked_to_stop;
use sandbox::{Cluster, ClusterConfig, Config};

/// Serve an OpenShift-like API server, and a registry if asked for, for development
#[derive(Debug, Parser)]
struct Args {
    /// Generate a cluster with this many images
    #[arg(long, default_value_t = 0)]
    images: usize,
    /// Load the `cluster.json` of this directory
    #[arg(long)]
    oracle: Option<PathBuf>,
    /// Push the images of the demo, which have something to prune; implies --registry
    #[arg(long)]
    example: bool,
    /// Serve a registry, too, with what the objects name; by docker-registry if that is installed
    #[arg(long)]
    registry: bool,
    /// How many replicas the registry has
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// Write the kubeconfigs and the registry's storage into this directory [default: a temporary one]
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
    std::fs::create_dir_all(dir).expect("make the directory");
    let with_registry = args.registry || args.example;
    let mut sandbox = Config { tls: !args.insecure, ..Config::default() };
    sandbox.settings.rewrite_registry_host = with_registry;
    let config = ClusterConfig {
        sandbox,
        registry: None,
        replicas: args.replicas,
        storage_dir: Some(dir.join("registry")),
        registry_tls: !args.insecure,
        ..ClusterConfig::default()
    };
    let config = if with_registry { config.with_installed_registry() } else { config };
    let cluster = Cluster::start(config);
    if let Some(oracle) = &args.oracle {
        cluster.sandbox().load_oracle(oracle);
    }
    if args.images > 0 {
        let streams = (args.images / 20).max(1);
        cluster.sandbox().generate(&Generator { images: args.images, streams, ..Generator::default() });
    }
    if with_registry {
        cluster.seed_registry();
    }
    if args.example {
        Example::build(&cluster).await.expect("push the images");
    }
    show(&cluster, &args, dir);
    asked_to_stop().await;
}

fn show(cluster: &Cluster, args: &Args, dir: &Path) {
    println!("API server: {}", cluster.sandbox().api_url());
    for user in ["admin", "pruner"] {
        let kubeconfig = cluster.kubeconfig(dir, user);
        println!("  oc --kubeconfig {} get images    # as {user}", kubeconfig.display());
    }
    let kubeconfig = dir.join("kubeconfig-pruner");
    let mut prune = format!("oc-prune_images --kubeconfig {}", kubeconfig.display());
    if args.registry || args.example {
        for replica in 0..args.replicas.max(1) {
            println!("Registry: {}", cluster.registry_url(replica));
        }
        println!("  its storage: {}", cluster.storage().directory().display());
        if args.insecure {
            prune.push_str(" --force-insecure");
        } else {
            let ca = cluster.sandbox().write_ca(dir);
            prune = format!("{prune} --certificate-authority {}", ca.display());
        }
    } else {
        prune.push_str(" --prune-registry=false");
    }
    println!("Prune, and add --confirm when you like what you see:\n  {prune}");
    println!("Press Ctrl-C to stop.");
}
