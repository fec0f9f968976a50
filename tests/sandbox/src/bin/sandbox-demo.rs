//! Boots a cluster that has something to prune, runs the plugin against it, and verifies what it did.
#![expect(clippy::print_stdout, reason = "a demo shows what it does")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use sandbox::example::Example;
use sandbox::registry::{Backend, Digest, Storage};
use sandbox::serve::asked_to_stop;
use sandbox::{Cluster, ClusterConfig};
use serde_json::Value;
use tokio::process::Command;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The package whose binary is the plugin, and the workspace's manifest.
const PACKAGE: &str = "oc-prune-images";
const BINARY: &str = "oc-prune_images";
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let demo = async {
        match demo().await {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => {
                println!("\nThe demo FAILED: see the checks above.");
                ExitCode::FAILURE
            }
            Err(error) => {
                println!("\nThe demo could not be carried out: {error}");
                ExitCode::FAILURE
            }
        }
    };
    // Dropping the demo ends what it started.
    tokio::select! {
        code = demo => code,
        () = asked_to_stop() => ExitCode::from(130),
    }
}

/// Runs the demo and returns whether all checks succeeded.
async fn demo() -> Outcome<bool> {
    heading("The plugin");
    println!("Building {BINARY} ...");
    let binary = build().await?;
    println!("{}", binary.display());

    heading("The cluster");
    let cluster = Cluster::start(ClusterConfig::default().with_installed_registry());
    let directory = tempfile::tempdir()?;
    let example = Example::build(&cluster).await?;
    let before = Stored::of(cluster.storage());
    let changes_before = changes(&cluster);
    show_cluster(&cluster, &example, &before);

    let plugin = Plugin {
        binary,
        kubeconfig: cluster.kubeconfig(directory.path(), "pruner"),
        ca: cluster.sandbox().write_ca(directory.path()),
    };
    heading("A dry run, as the service account would do it: with the role system:image-pruner alone");
    plugin.show(&[]).await?;
    let plan = plugin.plan().await?;
    let changes_of_dry_runs = changes(&cluster) - changes_before;
    let after_dry_runs = Stored::of(cluster.storage());

    heading("The same with --confirm");
    plugin.show(&["--confirm"]).await?;
    let after = Stored::of(cluster.storage());
    let again = plugin.plan().await?;

    heading("Verified in the registry's storage, and by pulling");
    let mut checks = Checks { ok: if speaks_utf8() { "\u{2713}" } else { "ok" }, passed: true };
    checks.that(
        "the dry runs changed nothing",
        &if changes_of_dry_runs == 0 && after_dry_runs == before {
            Ok("no request asked for a change, and the storage is as it was".to_owned())
        } else {
            Err(format!("{changes_of_dry_runs} requests asked for changes"))
        },
    );
    let planned = Stored::planned(&plan);
    checks.that("something was planned", &not_empty(&planned));
    checks.that(
        "exactly the planned blobs are gone",
        &exactly(&before.blobs, &planned.blobs, &after.blobs).map(|gone| {
            let freed = before.bytes(&planned.blobs);
            format!("{gone} of {}, {} of {}", before.blobs.len(), mib(freed), mib(before.total()))
        }),
    );
    checks.that(
        "exactly the planned layer links are gone",
        &exactly(&before.layer_links, &planned.layer_links, &after.layer_links)
            .map(|gone| format!("{gone} of {}", before.layer_links.len())),
    );
    checks.that(
        "exactly the planned manifest links are gone",
        &exactly(&before.manifest_links, &planned.manifest_links, &after.manifest_links)
            .map(|gone| format!("{gone} of {}", before.manifest_links.len())),
    );
    checks.that("every image that a stream still names can be pulled whole", &pull_kept(&cluster).await);
    checks.that("old images in use can be pulled whole", &pull(&cluster, &example.in_use).await);
    checks.that("the image that nothing named is gone", &orphan_is_gone(&cluster, &example));
    checks.that("planning again finds nothing", &nothing_left(&again));

    println!(
        "\nLook further with a cluster that stays: cargo run -p sandbox --bin sandbox-serve -- --example"
    );
    Ok(checks.passed)
}

fn heading(text: &str) {
    println!("\n== {text} ==\n");
}

/// Builds the plugin as this program was built and returns where it is.
async fn build() -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", PACKAGE, "--bin", BINARY, "--manifest-path", MANIFEST]);
    command.arg("--message-format=json-render-diagnostics");
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // What does not compile is for the user to see.
    let cargo = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn()?;
    let output = cargo.wait_with_output().await?;
    let messages = String::from_utf8(output.stdout)?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == BINARY)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.filter(|_| output.status.success()).ok_or_else(|| format!("{BINARY} does not build").into())
}

fn show_cluster(cluster: &Cluster, example: &Example, stored: &Stored) {
    let backend = match Backend::installed() {
        Backend::InProcess => "in this process (docker-registry is not installed)",
        Backend::DockerRegistry { .. } => "docker-registry, behind what the integrated registry adds",
    };
    println!("API server  {}", cluster.sandbox().api_url());
    println!("registry    {}: {backend}", cluster.registry_url(0));
    println!("storage     {} blobs, {}, all of them pushed\n", stored.blobs.len(), mib(stored.total()));
    for line in &example.story {
        println!("{line}");
    }
}

/// The plugin with the connection of the user `pruner`.
struct Plugin {
    binary: PathBuf,
    kubeconfig: PathBuf,
    ca: PathBuf,
}

impl Plugin {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--certificate-authority").arg(&self.ca);
        // A proxy of the user's would not find this machine.
        command.args(arguments).env("NO_PROXY", "127.0.0.1").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it for the user to see.
    async fn show(&self, arguments: &[&str]) -> Outcome<()> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut line = format!(
            "$ oc prune-images --kubeconfig={} --certificate-authority={}",
            name(&self.kubeconfig),
            name(&self.ca)
        );
        for argument in arguments {
            line.push(' ');
            line.push_str(argument);
        }
        println!("{line}");
        io::stdout().flush()?;
        let status = self.command(arguments).status().await?;
        if status.success() { Ok(()) } else { Err(format!("the plugin ended with {status}").into()) }
    }

    /// Runs it dry and returns its plan.
    async fn plan(&self) -> Outcome<Value> {
        let output = self.command(&["-o", "json"]).output().await?;
        if !output.status.success() {
            let messages = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("the plugin ended with {}: {messages}", output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// What a registry's storage holds, or what of it a plan removes. Links are written `namespace/name@digest`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stored {
    blobs: BTreeSet<String>,
    layer_links: BTreeSet<String>,
    manifest_links: BTreeSet<String>,
    sizes: BTreeMap<String, u64>,
}

impl Stored {
    fn of(storage: &Storage) -> Self {
        let mut stored = Self::default();
        for digest in storage.blobs() {
            stored.sizes.insert(digest.to_string(), storage.blob_size(&digest).unwrap_or_default());
            stored.blobs.insert(digest.to_string());
        }
        for repository in storage.repositories() {
            let link = |digest: Digest| format!("{repository}@{digest}");
            stored.layer_links.extend(storage.layer_links(&repository).into_iter().map(link));
            stored.manifest_links.extend(storage.manifest_links(&repository).into_iter().map(link));
        }
        stored
    }

    fn planned(plan: &Value) -> Self {
        let entries = |field: &str| plan[field].as_array().into_iter().flatten();
        let mut planned = Self::default();
        for blob in entries("images").filter_map(|image| image["blobs"].as_array()).flatten() {
            planned.blobs.extend(blob["digest"].as_str().map(str::to_owned));
        }
        for stream in entries("imageStreams") {
            let text = |field: &str| stream[field].as_str().unwrap_or_default();
            let links = |field: &str| -> Vec<String> {
                let digests = stream[field].as_array().into_iter().flatten().filter_map(Value::as_str);
                digests.map(|digest| format!("{}/{}@{digest}", text("namespace"), text("name"))).collect()
            };
            planned.layer_links.extend(links("layerLinks"));
            planned.manifest_links.extend(links("manifestLinks"));
        }
        planned
    }

    fn bytes(&self, blobs: &BTreeSet<String>) -> u64 {
        blobs.iter().filter_map(|blob| self.sizes.get(blob)).sum()
    }

    fn total(&self) -> u64 {
        self.sizes.values().sum()
    }
}

/// Prints a line for each check.
struct Checks {
    ok: &'static str,
    passed: bool,
}

impl Checks {
    fn that(&mut self, what: &str, result: &Result<String, String>) {
        match result {
            Ok(detail) => println!("{} {what}: {detail}", self.ok),
            Err(detail) => {
                println!("FAILED {what}: {detail}");
                self.passed = false;
            }
        }
    }
}

/// How many requests asked for a change so far.
fn changes(cluster: &Cluster) -> usize {
    cluster.sandbox().request_log().mutations().len()
}

/// A demo that prunes nothing shows nothing.
fn not_empty(planned: &Stored) -> Result<String, String> {
    if planned.blobs.is_empty() || planned.layer_links.is_empty() || planned.manifest_links.is_empty() {
        return Err("the plan has no blobs, no layer links or no manifest links".to_owned());
    }
    Ok(format!(
        "{} blobs, {} layer links, {} manifest links",
        planned.blobs.len(),
        planned.layer_links.len(),
        planned.manifest_links.len()
    ))
}

/// Whether what is planned, and nothing else, is gone; returns how much that is.
fn exactly(
    before: &BTreeSet<String>,
    planned: &BTreeSet<String>,
    after: &BTreeSet<String>,
) -> Result<usize, String> {
    let gone: BTreeSet<String> = before.difference(after).cloned().collect();
    let mut wrong: Vec<String> = gone.difference(planned).map(|one| format!("{one} is gone")).collect();
    wrong.extend(planned.difference(&gone).map(|one| format!("{one} is not gone")));
    wrong.extend(after.difference(before).map(|one| format!("{one} is new")));
    if wrong.is_empty() { Ok(gone.len()) } else { Err(wrong.join(", ")) }
}

/// Pulls, by tag and by digest, everything that the streams name.
async fn pull_kept(cluster: &Cluster) -> Result<String, String> {
    let client = cluster.client("admin");
    let (mut images, mut blobs) = (BTreeSet::new(), BTreeSet::new());
    for stream in cluster.sandbox().store().list("imagestreams") {
        let text = |field: &str| stream["metadata"][field].as_str().unwrap_or_default();
        let repository = format!("{}/{}", text("namespace"), text("name"));
        for tag in stream["status"]["tags"].as_array().into_iter().flatten() {
            let items = tag["items"].as_array().into_iter().flatten();
            for reference in items.map(|item| &item["image"]).chain([&tag["tag"]]).filter_map(Value::as_str) {
                let pulled = client.pull_whole(&repository, reference).await;
                let pulled = pulled.map_err(|broken| format!("{repository} {reference}: {broken}"))?;
                images.extend(pulled.manifests.into_iter().map(|image| (repository.clone(), image)));
                blobs.extend(pulled.blobs);
            }
        }
    }
    if images.is_empty() {
        return Err("no stream names any".to_owned());
    }
    Ok(format!("{} images with {} blobs, every digest verified", images.len(), blobs.len()))
}

async fn pull(cluster: &Cluster, images: &[(String, Digest)]) -> Result<String, String> {
    let client = cluster.client("admin");
    for (repository, digest) in images {
        let pulled = client.pull_whole(repository, digest.as_str()).await;
        pulled.map_err(|broken| format!("{repository}@{digest}: {broken}"))?;
    }
    Ok(format!("{} images", images.len()))
}

fn orphan_is_gone(cluster: &Cluster, example: &Example) -> Result<String, String> {
    let Some((_, digest)) = &example.orphan else { return Err("there was none".to_owned()) };
    if cluster.sandbox().store().get("images", "", digest.as_str()).is_some() {
        return Err(format!("the Image {digest} exists"));
    }
    if cluster.storage().blob_size(digest).is_some() {
        return Err(format!("the manifest {digest} is stored"));
    }
    Ok("its Image object and its manifest are no longer there".to_owned())
}

fn nothing_left(plan: &Value) -> Result<String, String> {
    let left: Vec<String> = plan["summary"]
        .as_object()
        .ok_or("the plan has no summary")?
        .iter()
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(what, count)| format!("{what}: {count}"))
        .collect();
    if left.is_empty() { Ok("0 objects".to_owned()) } else { Err(left.join(", ")) }
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Whether the terminal shows more than ASCII: the first variable that is set decides.
fn speaks_utf8() -> bool {
    let mut set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
    set.find(|value| !value.is_empty()).is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}
