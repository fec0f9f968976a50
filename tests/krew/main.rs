//! How the plugin gets to its users: the krew manifest, the archive that krew installs, and the installation run through
//! the real kubectl. krew itself is in no package registry that could be reached: its steps are done here.

#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;

mod archive;
mod completion;
mod install;
mod manifest;
mod release;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use archive::{Entry, entries, has_licence, sha256};
use common::Cluster;
use common::objects;
use install::Krew;
use manifest::{Manifest, TARGETS, check, clean, parse};
use tempfile::TempDir;

const PLUGIN: &str = env!("CARGO_BIN_EXE_oc-prune_images");
const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn committed() -> String {
    fs::read_to_string(repository().join("plugin.yaml")).unwrap()
}

/// Runs one of the scripts in `krew/` and returns what it prints.
#[track_caller]
fn script(name: &str, args: &[&str]) -> String {
    let mut command = Command::new(repository().join("krew").join(name));
    let output = command.args(args).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
    assert!(output.status.success(), "{name} {args:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The manifest is accepted as it is, and refused for this reason once it is broken like this.
#[track_caller]
fn refused(good: &str, bad: &str, reason: &str) {
    let text = committed();
    check(&parse(&text).unwrap(), "prune-images.yaml").unwrap();
    assert!(text.contains(good), "{good} is not in the manifest");
    let broken = text.replacen(good, bad, 1);
    let problem = parse(&broken).and_then(|manifest| check(&manifest, "prune-images.yaml")).unwrap_err();
    assert!(problem.contains(reason), "expected {reason}: {problem}");
}

macro_rules! rules {
    ($($name:ident: $good:expr => $bad:expr, $reason:expr;)*) => {
        $(#[test] fn $name() { refused($good, $bad, $reason); })*
    };
}

const FIRST_BIN: &str = "      bin: oc-prune_images\n";

rules! {
    the_api_version_is_krews: "v1alpha2" => "v1alpha1", "apiVersion";
    the_kind_is_plugin: "kind: Plugin" => "kind: plugin", "kind";
    the_name_has_no_other_characters: "name: prune-images" => "name: prune.images", "name has other characters";
    the_name_is_no_device_of_windows: "name: prune-images" => "name: com1", "name is a device";
    the_name_is_in_kebab_case: "name: prune-images" => "name: prune_images", "kebab-case";
    the_file_is_called_as_the_plugin: "name: prune-images" => "name: prune-image", "file name";
    the_version_begins_with_v: "version: v" => "version: ", "version";
    the_version_is_semantic: VERSION => "v1.0", "version";
    the_homepage_is_the_repository: "homepage: https://github.com/" => "homepage: https://gitlab.com/", "homepage";
    there_is_a_short_description: "shortDescription: " => "shortDescription: \"\" #", "shortDescription is empty";
    the_short_description_is_one_line: "shortDescription: Prune" => "shortDescription: |\n    Prune", "several lines";
    the_short_description_is_not_cut: "shortDescription: " => "shortDescription: Thoroughly ", "cut";
    there_is_a_description: "description: |" => "description: \"\"\n  describtion: |", "unknown field";
    the_description_lists_no_options: "    Without --confirm" => "    --confirm", "lists options";
    the_caveats_tell_of_oc: "`oc prune-images`" => "It", "caveats";
    the_caveats_tell_of_completion: "completion --install" => "completion", "caveats";
    fields_are_spelled_right: "  caveats: |" => "  caveat: |", "unknown field";
    fields_of_platforms_are_spelled_right: FIRST_BIN => "      bin: oc-prune_images\n      file: []\n", "unknown field";
    a_platform_has_a_uri: "      uri: " => "      #uri: ", "missing field";
    a_platform_has_a_checksum: "      sha256: " => "      #sha256: ", "missing field";
    a_platform_has_a_program: "      bin: " => "      #bin: ", "missing field";
    a_platform_has_a_selector: "    - selector:\n        matchLabels:\n          os: linux\n          arch: amd64\n      uri"
        => "    - uri", "missing field";
    a_selector_is_not_empty: "matchLabels:\n          os: linux\n          arch: amd64\n" => "matchLabels: {}\n", "selector is empty";
    a_selector_knows_os_and_arch_alone: "arch: amd64" => "architecture: amd64", "other keys";
    a_checksum_is_not_in_capitals: "sha256: \"00" => "sha256: \"AA", "sha256";
    a_checksum_is_64_digits_long: "sha256: \"00" => "sha256: \"0", "sha256";
    an_address_is_secure: "uri: https" => "uri: http", "https";
    an_address_is_of_the_version: "/download/v" => "/download/w", "another version";
    the_program_is_in_the_archive: FIRST_BIN => "      bin: ../oc-prune_images\n", "bin";
    the_program_of_windows_ends_with_exe: "oc-prune_images.exe" => "oc-prune_images", ".exe";
    files_are_not_empty: FIRST_BIN => "      bin: oc-prune_images\n      files: []\n", "files is empty";
    files_have_from: FIRST_BIN => "      bin: oc-prune_images\n      files: [{to: .}]\n", "missing field";
    files_have_to: FIRST_BIN => "      bin: oc-prune_images\n      files: [{from: a}]\n", "missing field";
    to_is_clean: FIRST_BIN => "      bin: oc-prune_images\n      files: [{from: a, to: ./a}]\n", "not clean";
    every_platform_is_known: "arch: ppc64le" => "arch: s390x", "no known platform";
    no_pair_has_two_platforms: "arch: arm64" => "arch: amd64", "several platforms";
    a_selector_is_as_narrow_as_it_must_be: "          arch: arm64\n" => "", "several platforms";
    no_target_is_forgotten: "arch: ppc64le" => "arch: arm", "targets";
}

#[test]
fn paths_are_cleaned_as_go_does() {
    for (path, cleaned) in [
        ("a", "a"),
        (".", "."),
        ("", "."),
        ("./a", "a"),
        ("a/", "a"),
        ("a//b/../c", "a/c"),
        ("../a", "../a"),
        ("a/../..", ".."),
        ("/../a", "/a"),
    ] {
        assert_eq!(clean(path), cleaned, "{path}");
    }
}

/// What stands in the repository is for the version that comes next, and cannot be taken for a release.
#[test]
fn the_committed_manifest_installs_nothing() {
    let manifest = parse(&committed()).unwrap();
    assert_eq!(manifest.spec.version, VERSION);
    for platform in &manifest.spec.platforms {
        assert_eq!(platform.sha256, "0".repeat(64), "{platform:?}");
    }
}

/// A stand-in for the plugin, which packs faster.
fn stand_in(folder: &Path) -> PathBuf {
    let path = folder.join("stand-in");
    fs::write(&path, "#!/bin/sh\nmkdir -p \"$3/man1\" && echo page >\"$3/man1/oc-prune-images.1\"\n")
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn an_archive_is_the_same_bytes_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let binary = stand_in(folder.path());
    let mut archives = Vec::new();
    for (out, umask) in [("one", "022"), ("two", "077")] {
        let out = folder.path().join(out);
        let command = format!(
            "umask {umask}; exec '{}/krew/archive' --target linux_arm64 --binary '{}' --out '{}'",
            repository().display(),
            binary.display(),
            out.display()
        );
        let ran = Command::new("sh")
            .args(["-c", &command])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .output()
            .unwrap();
        let (stdout, stderr) = text(&ran);
        assert!(ran.status.success(), "{stderr}");
        assert_eq!(Path::new(stdout.trim()), out.join("oc-prune-images_linux_arm64.tar.gz"));
        archives.push(fs::read(stdout.trim()).unwrap());
        // The time of the files does not count, and the next archive is not made in the same second.
        fs::File::options().append(true).open(&binary).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    assert!(archives[0] == archives[1], "the archives differ");
    // In the header of gzip: no name, no time.
    assert_eq!(archives[0][3..8], [0; 5]);

    let entries = entries(&archives[0]).unwrap();
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "CHANGELOG.md",
            "LICENSE",
            "README.md",
            "man",
            "man/man1",
            "man/man1/oc-prune-images.1",
            "oc-prune_images"
        ]
    );
    assert!(has_licence(&names));
    for Entry { name, is_folder, mode, owner, modified, .. } in &entries {
        let executable = *is_folder || name == "oc-prune_images";
        assert_eq!(*mode, if executable { 0o755 } else { 0o644 }, "{name}");
        assert_eq!((*owner, *modified), ((0, 0), 1_700_000_000), "{name}");
    }

    // On Windows the program ends with .exe; the pages come from elsewhere, as its binary does not run here.
    let pages = folder.path().join("pages");
    fs::create_dir(&pages).unwrap();
    fs::write(pages.join("oc-prune-images.1"), "page").unwrap();
    let args =
        ["--target", "windows_amd64", "--binary", binary.to_str().unwrap(), "--man", pages.to_str().unwrap()];
    let out = folder.path().join("windows");
    let path = script("archive", &[&args[..], &["--out", out.to_str().unwrap()]].concat());
    let names: Vec<String> = crate::entries(&fs::read(path.trim()).unwrap())
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert!(names.contains(&"oc-prune_images.exe".to_owned()), "{names:?}");
}

type Builder = tar::Builder<flate2::write::GzEncoder<Vec<u8>>>;

#[test]
fn archives_that_krew_refuses_are_refused() {
    let archive = |make: &dyn Fn(&mut Builder)| {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(gzip);
        make(&mut builder);
        builder.into_inner().unwrap().finish().unwrap()
    };
    let header = |kind| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header
    };
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
        let bytes = archive(&|builder| builder.append_link(&mut header(kind), "a", "b").unwrap());
        assert!(entries(&bytes).unwrap_err().contains("neither file nor folder"));
    }
    for name in ["../a", "/a", "a..b"] {
        let bytes = archive(&|builder| {
            let mut header = header(tar::EntryType::Regular);
            header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, &b""[..]).unwrap();
        });
        assert!(entries(&bytes).unwrap_err().contains("leads out"), "{name}");
    }
    assert_eq!(entries(b"\x7fELF").unwrap_err(), "neither zip nor gzip");
    assert!(["LICENSE", "a/license.txt", "licenses.md", "Copying"].iter().all(|name| has_licence([name])));
    assert!(
        !["LICENSE-APACHE", "licence", "copying.md", "LICENSE.rst"].iter().any(|name| has_licence([name]))
    );
}

#[test]
fn the_manifest_of_a_release_names_its_archives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let mut manifest = Command::new(repository().join("krew/manifest"));
    let failed = manifest.args(["v1.2.3", path]).output().unwrap();
    assert!(text(&failed).1.contains("oc-prune-images_linux_amd64.tar.gz is missing"), "{failed:?}");
    for (os, arch) in TARGETS {
        fs::write(folder.path().join(format!("oc-prune-images_{os}_{arch}.tar.gz")), format!("{os} {arch}"))
            .unwrap();
    }
    let released = parse(&script("manifest", &["v1.2.3", path])).unwrap();
    check(&released, "prune-images.yaml").unwrap();
    assert_eq!(released.spec.version, "v1.2.3");
    for (os, arch) in TARGETS {
        let platform = released.spec.platforms.iter().find(|platform| platform.matches(os, arch)).unwrap();
        assert_eq!(platform.sha256, sha256(format!("{os} {arch}").as_bytes()));
        assert!(
            platform.uri.ends_with(&format!("/v1.2.3/oc-prune-images_{os}_{arch}.tar.gz")),
            "{platform:?}"
        );
    }
    for version in ["1.2.3", "v1.2", "v1.2.3; id"] {
        let mut manifest = Command::new(repository().join("krew/manifest"));
        assert!(!manifest.args([version, path]).output().unwrap().status.success(), "{version}");
    }
}

/// The plugin in the folders of krew.
struct Installed {
    root: TempDir,
    manifest: Manifest,
    archive: Vec<u8>,
}

fn host() -> (&'static str, &'static str) {
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    (os, arch)
}

impl Installed {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dist = root.path().join("dist");
        let dist = dist.to_str().unwrap();
        let path = script("archive", &["--binary", PLUGIN, "--out", dist]);
        let archive = fs::read(path.trim()).unwrap();
        let mut manifest = parse(&script("manifest", &["--available", VERSION, dist])).unwrap();
        assert_eq!(manifest.spec.platforms.len(), 1, "the host's alone");
        // The review wants all platforms: the others stay as they are committed.
        let others = parse(&committed()).unwrap().spec.platforms.into_iter();
        manifest.spec.platforms.extend(others.filter(|other| !other.matches(host().0, host().1)));
        let installed = Self { root, manifest, archive };
        let said = installed.krew().install(&installed.manifest, &installed.archive).unwrap();
        assert!(said.contains("kubectl prune-images\n") && said.contains("completion --install"), "{said}");
        installed
    }

    fn krew(&self) -> Krew<'_> {
        Krew { root: self.root.path(), platform: host() }
    }

    fn bin(&self) -> PathBuf {
        self.root.path().join("bin")
    }

    /// A program with the plugin and kubectl on its PATH.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path =
            std::env::join_paths([self.bin(), "/usr/local/bin".into(), "/usr/bin".into(), "/bin".into()]);
        command.env_clear().env("PATH", path.unwrap()).env("HOME", self.root.path());
        command.current_dir(self.root.path()).stdin(Stdio::null());
        command
    }
}

/// The real kubectl, where it is installed.
fn kubectl() -> Option<PathBuf> {
    let found = ["/usr/local/bin", "/usr/bin", "/bin"].iter().map(|folder| Path::new(folder).join("kubectl"));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: kubectl is missing; apt-get install kubernetes-client");
    }
    found
}

#[test]
fn krew_installs_the_archive_and_kubectl_runs_it() {
    let installed = Installed::new();
    let store = installed.root.path().join("store/prune-images").join(VERSION);
    let link = installed.bin().join("kubectl-prune_images");
    assert_eq!(fs::read_link(&link).unwrap(), store.join("oc-prune_images"));
    assert!(store.join("man/man1/oc-prune-images-cache-status.1").is_file());
    assert!(store.join("LICENSE").is_file());
    let receipt = fs::read_to_string(installed.root.path().join("receipts/prune-images.yaml")).unwrap();
    assert!(receipt.contains("detached"), "{receipt}");
    let again = installed.krew().install(&installed.manifest, &installed.archive).unwrap();
    assert!(again.contains("already installed"), "{again}");
    let elsewhere = Krew { root: &installed.root.path().join("other"), platform: ("linux", "s390x") };
    assert!(elsewhere.install(&installed.manifest, b"").unwrap_err().contains("linux/s390x"));
    let damaged = Krew { root: &installed.root.path().join("other"), platform: host() };
    assert!(damaged.install(&installed.manifest, b"\x1f\x8b").unwrap_err().contains("checksum"));

    // By both names, each shows its own; here oc's is a link of the user's.
    symlink(store.join("oc-prune_images"), installed.bin().join("oc-prune_images")).unwrap();
    for caller in ["oc", "kubectl"] {
        let name = format!("{caller}-prune_images");
        let run = |args: &[&str]| {
            text(&installed.command(installed.bin().join(&name)).args(args).output().unwrap())
        };
        let program = format!("{caller} prune-images");
        assert_eq!(run(&["--version"]).0, format!("{program} {}\n", env!("CARGO_PKG_VERSION")));
        for help in ["-h", "--help"] {
            let (stdout, _) = run(&[help]);
            assert!(stdout.contains(&program), "{stdout}");
            let other = if caller == "oc" { "kubectl prune-images" } else { " oc prune-images" };
            assert!(!stdout.contains(other), "{stdout}");
        }
        let (_, stderr) = run(&["--nonsense"]);
        assert_eq!(
            stderr,
            format!("error: unknown flag: --nonsense\nhint: see '{program} --help' for usage\n")
        );
        // From kubectl 1.37 on the caller says who it is, whichever name the plugin was found by.
        let mut said = installed.command(installed.bin().join(&name));
        let (stdout, _) =
            text(&said.arg("--version").env("KUBECTL_PATH", "/usr/local/bin/oc").output().unwrap());
        assert!(stdout.starts_with("oc prune-images "), "{stdout}");
    }
    fs::remove_file(installed.bin().join("oc-prune_images")).unwrap();
    if let Some(kubectl) = kubectl() {
        through_kubectl(&installed, &kubectl);
    }

    installed.krew().uninstall("prune-images");
    assert!(fs::symlink_metadata(&link).is_err() && !store.exists());
}

fn through_kubectl(installed: &Installed, kubectl: &Path) {
    let run = |args: &[&str]| {
        let ran = installed.command(kubectl).args(args).output().unwrap();
        let (stdout, stderr) = text(&ran);
        assert!(ran.status.success(), "{args:?}\n{stdout}{stderr}");
        (stdout, stderr)
    };
    assert_eq!(
        run(&["prune-images", "--version"]).0,
        format!("kubectl prune-images {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(run(&["prune-images", "-h"]).0.contains("kubectl prune-images --confirm"));
    let (stdout, stderr) = run(&["plugin", "list"]);
    assert!(stdout.contains("bin/kubectl-prune_images\n"), "{stdout}");
    assert!(!format!("{stdout}{stderr}").to_lowercase().contains("warning"), "{stdout}{stderr}");

    let cluster = Cluster::of(objects::shop());
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig("pruner").display());
    let (stdout, _) = run(&["prune-images", &kubeconfig, objects::KEEP_ONE, "-o", "name"]);
    assert!(stdout.contains(&objects::digest("b")) && !stdout.contains(&objects::digest("c")), "{stdout}");
    assert!(cluster.changes().is_empty());

    // What kubectl does not do for a plugin, and what the errors of the plugin look like behind it.
    let failed = installed.command(kubectl).args(["prune-images", "--nonsense"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(2));
    assert!(text(&failed).1.contains("hint: see 'kubectl prune-images --help'"), "{failed:?}");
}
