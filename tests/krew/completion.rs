//! Completion as users get it: through kubectl and the programs that it asks, and by the script for bash.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Cluster, Plugin, objects};
use crate::{PLUGIN, kubectl, text};
use http::StatusCode;
use sandbox::fault::{Action, Answer, Fault};
use tempfile::TempDir;

const SHIMS: [&str; 2] = ["kubectl_complete-prune_images", "oc_complete-prune_images"];

/// A folder on the PATH with the plugin by kubectl's name, and what `completion --install` puts there.
struct Shims(TempDir);

impl Shims {
    fn install() -> Self {
        let shims = Self(tempfile::tempdir().unwrap());
        symlink(PLUGIN, shims.bin().join("kubectl-prune_images")).unwrap();
        let ran =
            shims.command("kubectl-prune_images").args(["completion", "--install"]).arg(shims.bin()).output();
        let ran = ran.unwrap();
        let (stdout, stderr) = text(&ran);
        assert!(ran.status.success() && stderr.is_empty(), "{stderr}");
        let written: Vec<String> = SHIMS.map(|name| shims.bin().join(name).display().to_string()).into();
        assert_eq!(stdout.lines().collect::<Vec<_>>(), written);
        shims
    }

    fn bin(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, program: &str) -> Command {
        let path = std::env::join_paths([
            self.bin(),
            "/usr/local/bin".as_ref(),
            "/usr/bin".as_ref(),
            "/bin".as_ref(),
        ]);
        let found =
            if Path::new(program).is_absolute() { PathBuf::from(program) } else { self.bin().join(program) };
        let mut command = Command::new(found);
        command.env_clear().env("PATH", path.unwrap()).env("HOME", self.bin()).stdin(Stdio::null());
        command
    }

    /// What a shim answers in kubectl's way, without anything on stderr.
    #[track_caller]
    fn asked(&self, shim: &str, words: &[&str]) -> String {
        let ran = self.command(shim).args(words).output().unwrap();
        let (stdout, stderr) = text(&ran);
        assert!(ran.status.success() && stderr.is_empty(), "{words:?}\n{stdout}{stderr}");
        stdout
    }
}

#[test]
fn the_programs_that_kubectl_and_oc_ask_answer() {
    let shims = Shims::install();
    for shim in SHIMS {
        let content = fs::read_to_string(shims.bin().join(shim)).unwrap();
        assert!(content.starts_with("#!/bin/sh\n") && content.lines().count() == 3, "{content}");
        assert_eq!(fs::metadata(shims.bin().join(shim)).unwrap().permissions().mode() & 0o111, 0o111);
        assert_eq!(
            shims.asked(shim, &["cache", "st"]),
            "status\tShow which caches the registry has, and what can be done about them\n:4\n"
        );
        assert_eq!(shims.asked(shim, &["-o", "y"]), "yaml\n:4\n");
        assert_eq!(shims.asked(shim, &["--kubeconfig", ""]), ":0\n");
        assert_eq!(shims.asked(shim, &["completion", "--install", ""]), ":16\n");
    }
    let Some(kubectl) = kubectl() else { return };
    let version =
        shims.command(kubectl.to_str().unwrap()).args(["version", "--client", "-o", "json"]).output();
    let version: serde_json::Value = serde_json::from_slice(&version.unwrap().stdout).unwrap();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+');
    if minor.parse::<u32>().unwrap() < 26 {
        eprintln!("skipped: this kubectl does not complete the words of plugins; 1.26 does");
        return;
    }
    let through = |words: &[&str]| {
        let mut command = shims.command(kubectl.to_str().unwrap());
        text(&command.args(["__complete", "prune-images"]).args(words).output().unwrap()).0
    };
    assert_eq!(
        through(&["cache", "st"]),
        "status\tShow which caches the registry has, and what can be done about them\n:4\n"
    );
    assert_eq!(through(&["--registry-cache=ev"]), "evict\n:4\n");
}

#[test]
fn files_of_others_are_left_alone() {
    let shims = Shims::install();
    let again = |folder: &Path| {
        Plugin::new().args(["completion", "--install"]).arg(folder).env("PATH", shims.bin().as_os_str()).run()
    };
    again(shims.bin()).exits(0);
    let [first, second] = SHIMS.map(|name| shims.bin().join(name));
    fs::write(&second, "#!/bin/sh\necho mine\n").unwrap();
    fs::remove_file(&first).unwrap();
    again(shims.bin()).exits(1).says(&format!(
        "error: install the completion: {} is there, and was not written by this command\n",
        second.display()
    ));
    assert!(!first.exists(), "all or none");
    assert_eq!(fs::read_to_string(&second).unwrap(), "#!/bin/sh\necho mine\n");
    // A link would lead to a file elsewhere.
    fs::rename(&second, shims.bin().join("elsewhere")).unwrap();
    symlink(shims.bin().join("elsewhere"), &second).unwrap();
    again(shims.bin()).exits(1).says("is there, and was not written by this command");
    again(&shims.bin().join("no")).exits(1).says("no such file or directory\nhint: make it first: mkdir -p ");
    again(&shims.bin().join("elsewhere")).exits(1).says("is no folder");
    let other = tempfile::tempdir().unwrap();
    again(other.path()).exits(0).says("is not on the PATH");
}

#[test]
fn mistakes_are_told() {
    let run = |words: &[&str]| Plugin::new().args(words.iter().copied()).run().exits(2);
    run(&["completion"]).says(
        "error: say which shell, or where to install\nhint: oc prune-images completion --install DIR\n",
    );
    run(&["completion", "csh"])
        .says("error: unknown shell \"csh\"\nhint: the shells are bash, zsh, fish, powershell\n");
    run(&["completion", "bash", "--install=."]).says("error: --install cannot be specified with a shell\n");
    run(&["man", "nonsense"]).says("error: no manual page for \"nonsense\"\n");
    Plugin::new()
        .args(["man", "cache", "status"])
        .run()
        .exits(0)
        .prints(".TH oc-prune-images-cache-status 1");
}

#[test]
fn names_come_from_the_kubeconfig_and_the_cluster() {
    let shims = Shims::install();
    let cluster = Cluster::of(objects::shop());
    let file = cluster.kubeconfig("pruner");
    let more = "- name: prod/api:6443/me\n  context: {cluster: sandbox, user: pruner}\n\
                - name: \"bad\\e[2Jname\"\n  context: {cluster: sandbox, user: pruner}\n\
                - name: \"$(id)\"\n  context: {cluster: sandbox, user: pruner}\ncurrent-context";
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("current-context", more)).unwrap();
    let kubeconfig = format!("--kubeconfig={}", file.display());
    let asked = |words: &[&str]| {
        let words: Vec<&str> = [kubeconfig.as_str()].into_iter().chain(words.iter().copied()).collect();
        shims.asked(SHIMS[0], &words)
    };
    assert_eq!(asked(&["--context", ""]), "prod/api:6443/me\nsandbox\n:4\n");
    assert_eq!(asked(&["--context=pr"]), "prod/api:6443/me\n:4\n");
    assert_eq!(asked(&["--cluster="]), "sandbox\n:4\n");
    assert_eq!(asked(&["--user="]), "pruner\n:4\n");
    // Who prunes may not list namespaces, but anybody their own projects, which the sandbox does not serve.
    assert_eq!(asked(&["-n", "sh"]), ":4\n");
    let projects = r#"{"items": [{"metadata": {"name": "shop"}}, {"metadata": {"name": "sh$(id)"}}]}"#;
    let answer = Answer::new(StatusCode::OK).header("content-type", "application/json").body(projects);
    cluster.sandbox.faults().add(Fault::new(Action::Answer(answer)).path("/projects$"));
    assert_eq!(asked(&["-n", "sh"]), "shop\n:4\n");
    let admin = format!("--kubeconfig={}", cluster.kubeconfig("admin").display());
    assert_eq!(shims.asked(SHIMS[1], &[&admin, "--namespace=sh"]), "shop\n:4\n");
    assert_eq!(asked(&["--context=nowhere", "-n", ""]), ":4\n");
    assert_eq!(asked(&["--token=wrong", "-n", ""]), ":4\n");
    assert!(cluster.changes().is_empty());
}

#[test]
fn targets_are_completed_step_by_step() {
    let shims = Shims::install();
    let cluster = Cluster::of(objects::shop());
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig("admin").display());
    let asked = |typed: &str| shims.asked(SHIMS[1], &["explain", "shop/api", &kubeconfig, typed]);
    assert_eq!(asked("sh"), "shop/\n:6\n");
    assert_eq!(asked("shop/"), "shop/api\nshop/web\n:4\n");
    assert_eq!(asked("shop/w"), "shop/web\n:4\n");
    assert_eq!(asked("shop/web:"), "shop/web:latest\n:4\n");
    let mut digests = ["a", "b", "c", "d"].map(|name| format!("shop/web@{}\n", objects::digest(name)));
    digests.sort();
    assert_eq!(asked("shop/web@sha256"), digests.concat() + ":4\n");
    for typed in ["shop/none:", "shop/../web:", "../shop/", "shop?x/", "shop/web:other"] {
        assert_eq!(asked(typed), ":4\n", "{typed}");
    }
    assert!(cluster.changes().is_empty());
}

#[test]
fn a_cluster_that_does_not_answer_is_silence() {
    let shims = Shims::install();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    // Connections wait in the queue of one that is never accepted.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let [nobody, silent] =
        [&closed, &hanging].map(|listener| format!("--server=http://{}", listener.local_addr().unwrap()));
    drop(closed);
    for server in [nobody.as_str(), &silent, "--server=https://host.invalid:6443", "--server=nonsense:"] {
        assert_eq!(shims.asked(SHIMS[0], &[server, "--namespace", ""]), ":4\n", "{server}");
    }
    // Nor does a login program ask anybody anything, get a word in, or keep anybody waiting.
    for script in ["echo 'Open a browser' >&2; read -r word; exit 1", "exec sleep 600"] {
        let program = shims.bin().join("login");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"http://127.0.0.1:1\"}}}}]\nusers: [{{name: u, user: {{exec: \
             {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: IfAvailable, command: {}}}}}}}]\n",
            program.display()
        );
        fs::write(shims.bin().join("config"), config).unwrap();
        let kubeconfig = format!("--kubeconfig={}", shims.bin().join("config").display());
        assert_eq!(shims.asked(SHIMS[0], &[&kubeconfig, "--namespace", ""]), ":4\n", "{script}");
    }
    // A kubeconfig that is none.
    assert_eq!(shims.asked(SHIMS[0], &["--kubeconfig=/no/such/file", "--context", ""]), ":4\n");
}

#[test]
fn bash_completes_by_the_script() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completion.bash");
    fs::write(&script, Plugin::new().args(["completion", "bash"]).run().exits(0).stdout).unwrap();
    let complete = |words: &[&str]| {
        let last = words.len() - 1;
        // As bash calls the function: the command, the word, the one in front of it.
        let code = format!(
            "source {}; spec=$(complete -p \"$1\") || exit 1; spec=${{spec##*-F }}; COMP_WORDS=(\"$@\"); COMP_CWORD={last}; \
             \"${{spec%% *}}\" \"$1\" \"${{@: -1}}\" \"${{@: -2:1}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let ran = Command::new("bash").args(["--norc", "-c", &code, "bash"]).args(words).output().unwrap();
        let (stdout, stderr) = text(&ran);
        assert!(stderr.is_empty(), "{stderr}");
        stdout
    };
    for name in ["oc-prune_images", "kubectl-prune_images"] {
        assert_eq!(complete(&[name, "comp"]), "completion\n");
        assert_eq!(complete(&[name, "cache", "st"]), "status\n");
        assert_eq!(complete(&[name, "--output", "j"]), "json\n");
        assert_eq!(complete(&[name, "cache", "status", "--output", ""]), "json\ntext\nyaml\n");
        assert_eq!(complete(&[name, "completion", "z"]), "zsh\n");
    }
}
