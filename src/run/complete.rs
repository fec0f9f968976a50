//! Answers what a shell asks while a command line is typed: quickly, silently, and without any change.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;

use crate::cli::{Candidate, Completion, Source};
use crate::cluster::{self, ApiError, ApiRequest, Cluster, ConnectionOptions, Environment, Retry};
use crate::error::Exit;
use crate::text::quoted;
use crate::ui::Ui;

/// Who waits for a proposal has typed on after that long.
const LIMIT: Duration = Duration::from_secs(2);

/// Names without the rest of the objects, from servers that can.
const NAMES_ONLY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// cobra's `ShellCompDirective`s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    /// Names of files, if there is no other proposal.
    Files = 0,
    /// Nothing but what was proposed.
    Alone = 4,
    /// The same, and no blank behind it: the word goes on.
    Unfinished = 4 + 2,
    /// Names of folders.
    Folders = 16,
}

/// Writes what can stand there. Whatever goes wrong, nothing is proposed.
pub(super) fn run(completion: Completion, ui: &Ui) -> Exit {
    let (candidates, directive) = match completion {
        Completion::Known(candidates) => (candidates, Directive::Alone),
        Completion::Files => (Vec::new(), Directive::Files),
        Completion::Folders => (Vec::new(), Directive::Folders),
        Completion::Ask { source, typed, connection } => {
            let (names, directive) =
                ask(source, &typed, &connection).unwrap_or((Vec::new(), Directive::Alone));
            (proposed(names, &typed), directive)
        }
    };
    ui.result(|out| write!(out, "{}", lines(&candidates, directive)));
    Exit::Done
}

fn lines(candidates: &[Candidate], directive: Directive) -> String {
    let mut lines = String::new();
    for Candidate { word, about } in candidates {
        // Writing to a `String` cannot fail.
        let _ = match about.as_str() {
            "" => writeln!(lines, "{word}"),
            about => writeln!(lines, "{word}\t{about}"),
        };
    }
    let _ = writeln!(lines, ":{}", directive as u8);
    lines
}

/// The names that begin so, each once. One that a shell would not take as it is, is none that could be typed.
fn proposed(mut names: Vec<String>, typed: &str) -> Vec<Candidate> {
    names.retain(|name| name.starts_with(typed) && quoted(name) == *name);
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|word| Candidate { word, about: String::new() }).collect()
}

fn ask(source: Source, typed: &str, connection: &ConnectionOptions) -> Option<(Vec<String>, Directive)> {
    let environment =
        Environment { asks_nobody: true, stdin_is_terminal: false, ..Environment::of_process() };
    let entries = || cluster::entries(connection, &environment).ok();
    match source {
        Source::Contexts => return Some((entries()?.contexts, Directive::Alone)),
        Source::Clusters => return Some((entries()?.clusters, Directive::Alone)),
        Source::Users => return Some((entries()?.users, Directive::Alone)),
        Source::Namespaces | Source::Targets => {}
    }
    cluster::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let asked = runtime.block_on(async {
        let asked = async {
            let cluster = Cluster::connect(connection, &environment).await.ok()?;
            match source {
                Source::Targets => targets(&cluster, typed).await,
                _ => Some((namespaces(&cluster).await?, Directive::Alone)),
            }
        };
        tokio::time::timeout(LIMIT, asked).await.ok().flatten()
    });
    // A name look-up that hangs in a worker thread must not keep the process.
    runtime.shutdown_background();
    asked
}

/// What a TARGET can be, one step at a time: a list of all streams would be long in coming.
async fn targets(cluster: &Cluster, typed: &str) -> Option<(Vec<String>, Directive)> {
    let Some((namespace, rest)) = typed.split_once('/') else {
        let names = namespaces(cluster).await?;
        return Some((names.into_iter().map(|name| name + "/").collect(), Directive::Unfinished));
    };
    if !cluster::is_object_name(namespace) {
        return None;
    }
    let streams = format!("/apis/image.openshift.io/v1/namespaces/{namespace}/imagestreams");
    let Some(end) = rest.find([':', '@']) else {
        let names = list(cluster, streams).await.ok()?;
        return Some((
            names.into_iter().map(|name| format!("{namespace}/{name}")).collect(),
            Directive::Alone,
        ));
    };
    let (stream, sign) = (&rest[..end], &rest[end..=end]);
    if !cluster::is_object_name(stream) {
        return None;
    }
    let stream_object: Stream = get(cluster, format!("{streams}/{stream}"), "application/json").await.ok()?;
    let names = if sign == ":" { stream_object.tags() } else { stream_object.digests() };
    Some((names.map(|name| format!("{namespace}/{stream}{sign}{name}")).collect(), Directive::Alone))
}

/// The namespaces; for those who may not list them, their projects.
async fn namespaces(cluster: &Cluster) -> Option<Vec<String>> {
    match list(cluster, "/api/v1/namespaces".to_owned()).await {
        Err(ApiError::Forbidden { .. }) => {
            list(cluster, "/apis/project.openshift.io/v1/projects".to_owned()).await.ok()
        }
        names => names.ok(),
    }
}

async fn list(cluster: &Cluster, path: String) -> Result<Vec<String>, ApiError> {
    let list: List = get(cluster, path, NAMES_ONLY).await?;
    Ok(list.items.into_iter().map(|item| item.metadata.name).collect())
}

async fn get<T: for<'de> Deserialize<'de>>(
    cluster: &Cluster,
    path: String,
    accept: &'static str,
) -> Result<T, ApiError> {
    let request = ApiRequest { accept, retry: Retry::Never, ..ApiRequest::get(path) };
    let answer = cluster.request(request).await?;
    serde_json::from_slice(&answer.body).map_err(|error| ApiError::Malformed(error.to_string()))
}

#[derive(Deserialize)]
struct List {
    items: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stream {
    status: StreamStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamStatus {
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    tag: String,
    /// Null for a tag whose items are gone.
    #[serde(default)]
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    image: String,
}

impl Stream {
    fn tags(self) -> Box<dyn Iterator<Item = String>> {
        Box::new(self.status.tags.into_iter().map(|tag| tag.tag))
    }

    fn digests(self) -> Box<dyn Iterator<Item = String>> {
        let items = self.status.tags.into_iter().flat_map(|tag| tag.items.unwrap_or_default());
        Box::new(items.map(|item| item.image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_shell_would_act_on_are_not_proposed() {
        let names =
            ["shop", "shop", "sh`id`", "sh$(id)", "sh\u{1b}[2J", "sh\nop", "sh op", "sh\top", "s'h", "other"];
        let names = proposed(names.map(ToOwned::to_owned).to_vec(), "s");
        assert_eq!(lines(&names, Directive::Unfinished), "shop\n:6\n");
    }

    #[test]
    fn descriptions_stand_behind_a_tab() {
        let candidates = [Candidate { word: "--all".to_owned(), about: "Also others".to_owned() }];
        assert_eq!(lines(&candidates, Directive::Alone), "--all\tAlso others\n:4\n");
    }
}
