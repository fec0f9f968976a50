//! Hard prune as a process in a pod of the registry: runs it, finds those that run, ends them.
//!
//! The end of the connection need not end the process. It may go on for hours, and while it does, no replica may take
//! pushes: what is pushed after it has listed the images would be deleted under them. So it is ended in its pod, by a
//! second command there, before read-only mode is put back.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::output::{Line, read};
use crate::cache::detect::{Discovery, Pod, Reading, pods};
use crate::cache::rollout::registry_container;
use crate::cluster::{ApiError, ApiRequest, Cluster, Ended, Stream, is_object_name};
use crate::error::Failure;
use crate::execute::Stop;
use crate::text::{brief, printable, sanitize};

/// What deletes. The image's log level may be too quiet to name what goes: `info` does.
const RUN: &str = "REGISTRY_LOG_LEVEL=info exec /usr/bin/dockerregistry -prune=";

/// Names the hard prunes among the processes below `$1`. The pattern does not match this script.
const FIND: &str = r#"for p in "$1"/[0-9]*; do
  c=$(tr '\0' ' ' 2>/dev/null <"$p/cmdline")
  case "$c" in *dockerregistry*[-]prune=*) echo "${p##*/} $c";; esac
done"#;

/// Ends those among the processes below `$1` that prune like `$2`, and returns once there is none.
const STOP: &str = r#"n=0
while :; do
  f=
  for p in "$1"/[0-9]*; do
    case "$(tr '\0' ' ' 2>/dev/null <"$p/cmdline")" in
      *dockerregistry*[-]prune="$2"*)
        f=1
        if [ $n -lt 20 ]; then kill "${p##*/}"; else kill -9 "${p##*/}"; fi 2>/dev/null;;
    esac
  done
  [ -z "$f" ] && exit 0
  [ $n -ge 40 ] && exit 1
  n=$((n+1))
  sleep 0.5
done"#;

/// Where processes are.
const PROC: &str = "/proc";

/// How long a command may take that only looks around or ends another one.
const SHORT: Duration = Duration::from_secs(60);

/// What is asked of hard prune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Say what would be deleted.
    Check,
    /// Delete it.
    Delete,
}

impl Mode {
    /// The value of `-prune`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Delete => "delete",
        }
    }
}

/// A pod in which it can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub pod: String,
    /// The UID.
    pub uid: String,
    /// The registry's container.
    pub container: Option<String>,
    /// The service account whose rights it has.
    pub account: String,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Exited(i32),
    /// It could not be run: why.
    Failed(String),
    /// The connection broke: why. It may go on.
    Lost(String),
    /// The run is to end. It may go on.
    Stopped(Stop),
}

/// A hard prune that runs in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The pod.
    pub pod: String,
    /// Its process id there.
    pub process: String,
    /// Whether it deletes.
    pub deletes: bool,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.deletes { "delete" } else { "check" };
        write!(f, "process {} (-prune={what}) in pod {}", printable(&self.process), printable(&self.pod))
    }
}

/// Finds a pod that is ready, and what runs in it.
///
/// # Errors
/// There is none, or it cannot be found out: exit code 1.
pub async fn target(cluster: &Cluster, found: &Discovery) -> Result<Target, Failure> {
    let namespace = found.place.namespace.clone();
    let doing = "find a pod of the registry";
    let ready = match pods(cluster, &found.place, &found.selector).await {
        Reading::Is(pods) => pods.into_iter().filter(Pod::takes_forward).collect(),
        Reading::Absent => Vec::new(),
        Reading::Unreadable { why, rule } => {
            let failure = Failure::nothing_changed(format!("{doing}: {}", sanitize(&why)));
            return Err(rule.into_iter().fold(failure, |failure, rule| {
                failure.hint(format!("have an administrator give the right: {}", rule.command()))
            }));
        }
    };
    // The name becomes part of a path.
    let ready = ready.into_iter().filter(|pod| is_object_name(&pod.name));
    let Some(pod) = ready.max_by(|a, b| a.template_hash.cmp(&b.template_hash).then(b.name.cmp(&a.name)))
    else {
        return Err(Failure::nothing_changed(format!("{doing}: none is ready in namespace {namespace}"))
            .hint(format!("see why: oc get pods -n {namespace} -o wide"))
            .hint("name another one: --registry-namespace=NAME --registry-deployment=NAME"));
    };
    let path = format!("/api/v1/namespaces/{namespace}/pods/{}", pod.name);
    let answer =
        cluster.request(ApiRequest::get(path)).await.map_err(|error| cluster.failure(&error, doing))?;
    let object: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::nothing_changed(format!("{doing}: {}", sanitize(&error.to_string()))))?;
    let containers = object["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let container = registry_container(containers, None)
        .and_then(|index| containers[index]["name"].as_str().map(ToOwned::to_owned));
    let account = object["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty());
    let account = account.unwrap_or("default").to_owned();
    Ok(Target { namespace, pod: pod.name, uid: pod.uid, container, account })
}

/// Runs it to its end, unless the run is to end before. `tell` hears of each line.
///
/// # Errors
/// It was not begun.
pub async fn run(
    cluster: &Cluster,
    target: &Target,
    mode: Mode,
    stop: &mut watch::Receiver<Option<Stop>>,
    tell: &mut (dyn FnMut(Line) + Send),
) -> Result<End, ApiError> {
    let script = format!("{RUN}{}", mode.word());
    let Target { namespace, pod, container, .. } = target;
    let command = ["/bin/sh", "-c", &script];
    let starting = cluster.execute(namespace, pod, container.as_deref(), &command);
    let mut running = tokio::select! {
        begun = starting => begun?,
        stop = ended(stop) => return Ok(End::Stopped(stop)),
    };
    loop {
        tokio::select! {
            line = running.line() => match line {
                Some((_, line)) => tell(read(&line)),
                None => break,
            },
            stop = ended(stop) => return Ok(End::Stopped(stop)),
        }
    }
    Ok(match running.end().await {
        Ended::Exited(code) => End::Exited(code),
        Ended::Failed(why) => End::Failed(why),
        Ended::Lost(why) => End::Lost(why),
    })
}

async fn ended(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop) {
        Some(stop) => stop,
        // Whoever watches is gone: nothing will come.
        None => std::future::pending().await,
    }
}

/// Ends what prunes like this in the pod, and returns once it has ended. A pod that is gone has ended it.
///
/// # Errors
/// Why it is not known to have ended.
pub async fn stop(cluster: &Cluster, target: &Target, mode: Mode) -> Result<(), String> {
    let command = ["/bin/sh", "-c", STOP, "sh", PROC, mode.word()];
    match short(cluster, target, &command).await {
        Ok((0, _)) | Err(Short::Gone) => Ok(()),
        Ok((code, said)) => {
            Err(format!("the command that ends it ended with exit code {code}: {}", brief(&said)))
        }
        Err(Short::Why(why)) => Err(why),
    }
}

/// The hard prunes that run in the registry's pods, those that are ending included.
///
/// # Errors
/// Why it cannot be found out.
pub async fn others(
    cluster: &Cluster,
    found: &Discovery,
    like: &Target,
) -> Result<Vec<(Target, Other)>, String> {
    let running: Vec<Pod> = match pods(cluster, &found.place, &found.selector).await {
        Reading::Is(pods) => pods.into_iter().filter(|pod| pod.runs && !pod.node.is_empty()).collect(),
        Reading::Absent => Vec::new(),
        Reading::Unreadable { why, .. } => return Err(sanitize(&why)),
    };
    let mut others = Vec::new();
    for pod in running {
        let target = Target { pod: pod.name.clone(), uid: pod.uid.clone(), ..like.clone() };
        let said = match short(cluster, &target, &["/bin/sh", "-c", FIND, "sh", PROC]).await {
            Ok((0, said)) => said,
            Ok((code, said)) => {
                return Err(format!("pod {}: exit code {code}: {}", printable(&pod.name), brief(&said)));
            }
            Err(Short::Gone) => continue,
            // What does not run yet, or any longer, runs no hard prune either.
            Err(Short::Why(_)) if !pod.ready => continue,
            Err(Short::Why(why)) => return Err(format!("pod {}: {why}", printable(&pod.name))),
        };
        let found = said.lines().filter_map(|line| {
            let (process, command) = line.split_once(' ')?;
            let is_number = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
            let deletes = command.contains("-prune=delete");
            is_number.then(|| Other { pod: pod.name.clone(), process: process.to_owned(), deletes })
        });
        others.extend(found.map(|other| (target.clone(), other)));
    }
    Ok(others)
}

/// Why a short command says nothing.
enum Short {
    /// The pod is gone.
    Gone,
    /// Anything else.
    Why(String),
}

/// Runs a command that ends soon: its exit code, and what it said.
async fn short(cluster: &Cluster, target: &Target, command: &[&str]) -> Result<(i32, String), Short> {
    let Target { namespace, pod, container, .. } = target;
    let whole = async {
        let begun = cluster.execute(namespace, pod, container.as_deref(), command).await;
        let mut running = begun.map_err(|error| match error {
            ApiError::NotFound { .. } => Short::Gone,
            error => Short::Why(error.to_string()),
        })?;
        let (mut out, mut err) = (String::new(), String::new());
        while let Some((stream, line)) = running.line().await {
            let text = if stream == Stream::Out { &mut out } else { &mut err };
            text.push_str(&line);
            text.push('\n');
        }
        match running.end().await {
            Ended::Exited(0) => Ok((0, out)),
            Ended::Exited(code) => Ok((code, err)),
            Ended::Failed(why) | Ended::Lost(why) => Err(Short::Why(why)),
        }
    };
    tokio::time::timeout(SHORT, whole)
        .await
        .unwrap_or_else(|_| Err(Short::Why("it did not end in time".to_owned())))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use super::*;

    /// The scripts in a real shell, on processes that only these tests have started.
    #[test]
    fn what_prunes_is_found_and_ended_and_nothing_else() {
        let start = |flag: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "sleep 60 & wait", "/usr/bin/dockerregistry", flag]);
            command.stdout(Stdio::null()).spawn().unwrap()
        };
        let mut all = ["-prune=delete", "-prune=check", "/config.yml"].map(start);
        let proc = tempfile::tempdir().unwrap();
        for child in &all {
            let id = child.id().to_string();
            symlink(format!("/proc/{id}"), proc.path().join(id)).unwrap();
        }
        symlink("/proc/none", proc.path().join("1")).unwrap();
        let shell = |script: &str, more: &[&str]| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script, "sh"]).arg(proc.path()).args(more);
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let (code, said) = shell(FIND, &[]);
        assert_eq!((code, said.lines().count()), (Some(0), 2), "{said}");
        for (child, flag) in all.iter().zip(["-prune=delete", "-prune=check"]) {
            assert!(
                said.lines().any(|line| line.starts_with(&format!("{} ", child.id())) && line.contains(flag)),
                "{said}"
            );
        }
        // The shell leaves a process as it ends only if somebody waits for it.
        let [deletes, checks, serves] = &mut all;
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| deletes.wait().unwrap());
            assert_eq!(shell(STOP, &["delete"]), (Some(0), String::new()));
            assert!(!ended.join().unwrap().success());
        });
        assert_eq!(shell(FIND, &[]).1.lines().count(), 1);
        for child in [checks, serves] {
            assert!(child.try_wait().unwrap().is_none(), "it still runs");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
