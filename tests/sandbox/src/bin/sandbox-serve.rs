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
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct Args {
    /// Generate a cluster with this many images
    #[arg(long, default_value_t = 0)]
    images: usize,
    /// How many streams the generated images are spread over [default: one of each 20 images]
    #[arg(long)]
    streams: Option<usize>,
    /// How many objects refer to generated images [default: one of each 5 images]
    #[arg(long)]
    referrers: Option<usize>,
    /// Make the generated objects while they are sent: any number of them needs no memory, and none can be changed
    #[arg(long, requires = "images")]
    on_demand: bool,
    /// Answer in JSON, whatever is asked for
    #[arg(long)]
    json_only: bool,
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
    sandbox.settings.protobuf = !args.json_only;
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
        let generator = Generator {
            images: args.images,
            streams: args.streams.unwrap_or(args.images / 20).max(1),
            referrers: args.referrers.unwrap_or(args.images / 5),
            ..Generator::default()
        };
        if args.on_demand {
            cluster.sandbox().generate_on_demand(&generator);
        } else {
            cluster.sandbox().generate(&generator);
        }
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
