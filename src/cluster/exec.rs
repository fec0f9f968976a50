//! Login programs of the kubeconfig (`users[].user.exec`): the client-go credential plugin protocol.
//!
//! kube runs such a program three times to build one client, so somebody at a terminal would log in three times;
//! here it runs once, and again only when its credentials are about to expire or were refused.
//! Protocol: <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>.

use std::{collections::BTreeMap, ffi::OsString, process::Stdio};

use jiff::{SignedDuration, Timestamp};
use kube::config::{ExecAuthCluster, ExecConfig, ExecInteractiveMode};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::process::Command;

use super::{kubeconfig::Target, options::Environment};
use crate::{cause::io_text, error::Failure, text::sanitize};

/// Credentials are renewed this long before they expire, or earlier for those that live long.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// A certificate and its key, both PEM.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: SecretString,
}

/// What a login program answers.
#[derive(Debug)]
pub(super) struct ExecCredential {
    pub(super) token: Option<SecretString>,
    pub(super) identity: Option<Identity>,
    /// From when on the program is run again; never, if it said nothing.
    pub(super) renew_at: Option<Timestamp>,
}

/// A login program, ready to run.
#[derive(Debug)]
pub(super) struct ExecPlugin {
    command: String,
    arguments: Vec<String>,
    environment: BTreeMap<OsString, OsString>,
    api_version: String,
    interactive: bool,
    silent: bool,
    install_hint: Option<String>,
}

impl ExecPlugin {
    /// Checks the entry. Nothing runs yet.
    pub(super) fn new(
        exec: &ExecConfig,
        target: &Target,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let fail = |cause: &str| Failure::nothing_changed(format!("get credentials: exec plugin: {cause}"));
        let command = exec
            .command
            .clone()
            .filter(|command| !command.is_empty())
            .ok_or_else(|| fail("command must be specified to use exec authentication plugin"))?;
        let api_version = exec.api_version.clone().unwrap_or_default();
        if !matches!(
            api_version.as_str(),
            "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1"
        ) {
            return Err(fail(&format!("invalid apiVersion \"{}\"", sanitize(&api_version))).hint(
                "use client.authentication.k8s.io/v1 in the user's exec entry (oc login writes it anew)",
            ));
        }
        let interactive = match exec.interactive_mode {
            Some(ExecInteractiveMode::Never) => false,
            Some(ExecInteractiveMode::Always) if !environment.stdin_is_terminal => {
                return Err(fail(
                    "exec plugin cannot support interactive mode: standard input is not a terminal",
                )
                .hint("run it at a terminal, or pass a token: --token=TOKEN"));
            }
            Some(ExecInteractiveMode::Always) => true,
            Some(ExecInteractiveMode::IfAvailable) | None => environment.stdin_is_terminal,
        };
        let cluster = if exec.provide_cluster_info { Some(cluster_info(target)?) } else { None };
        let mut spec = serde_json::json!({ "interactive": interactive });
        if let Some(cluster) = cluster {
            spec["cluster"] = cluster;
        }
        let info = serde_json::json!({ "kind": "ExecCredential", "apiVersion": api_version, "spec": spec });
        let mut variables = environment.variables.clone();
        for entry in exec.env.iter().flatten() {
            if let (Some(name), Some(value)) = (entry.get("name"), entry.get("value")) {
                variables.insert(name.into(), value.into());
            }
        }
        variables.insert("KUBERNETES_EXEC_INFO".into(), info.to_string().into());
        Ok(Self {
            command,
            arguments: exec.args.clone().unwrap_or_default(),
            environment: variables,
            api_version,
            interactive,
            silent: environment.asks_nobody,
            install_hint: exec.install_hint.clone(),
        })
    }

    /// Runs the program. Its messages and questions (stderr) reach the user, if there is one; its answer (stdout) never does.
    pub(super) async fn run(&self) -> Result<ExecCredential, Failure> {
        let shown = sanitize(&self.command);
        let output = Command::new(&self.command)
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .stdin(if self.interactive { Stdio::inherit() } else { Stdio::null() })
            .stderr(if self.silent { Stdio::null() } else { Stdio::inherit() })
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| self.not_started(&shown, &error))?;
        if !output.status.success() {
            let how = match output.status.code() {
                Some(code) => format!("failed with exit code {code}"),
                None => "was ended by a signal".to_owned(),
            };
            return Err(Failure::nothing_changed(format!("get credentials: exec: executable {shown} {how}"))
                .hint("log in again: oc login, or pass a token: --token=TOKEN"));
        }
        parse(&output.stdout, &self.api_version).map_err(|cause| {
            Failure::nothing_changed(format!("get credentials: exec: executable {shown}: {cause}"))
        })
    }

    fn not_started(&self, shown: &str, error: &std::io::Error) -> Failure {
        if error.kind() != std::io::ErrorKind::NotFound {
            return Failure::nothing_changed(format!(
                "get credentials: exec: executable {shown}: {}",
                io_text(error)
            ));
        }
        let failure =
            Failure::nothing_changed(format!("get credentials: exec: executable {shown} not found"));
        let hints = self
            .install_hint
            .iter()
            .flat_map(|hint| hint.lines())
            .map(sanitize)
            .filter(|line| !line.is_empty());
        let failure = hints.fold(failure, Failure::hint);
        if failure.hints.is_empty() {
            return failure.hint(format!("install {shown}, or pass a token: --token=TOKEN"));
        }
        failure
    }
}

/// What the program is told about the cluster, by the names of the protocol.
fn cluster_info(target: &Target) -> Result<serde_json::Value, Failure> {
    let bad = || {
        Failure::nothing_changed("get credentials: exec plugin: the cluster's entry cannot be handed over")
    };
    let mut cluster = ExecAuthCluster::try_from(&target.entry).map_err(|_| bad())?;
    cluster.server = Some(target.server.to_string().trim_end_matches('/').to_owned());
    serde_json::to_value(cluster).map_err(|_| bad())
}

#[derive(Deserialize)]
struct Answer {
    kind: Option<String>,
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    status: Option<AnswerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AnswerStatus {
    expiration_timestamp: Option<String>,
    #[serde(deserialize_with = "secret")]
    token: Option<SecretString>,
    client_certificate_data: Option<String>,
    #[serde(deserialize_with = "secret")]
    client_key_data: Option<SecretString>,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

/// Reads the answer, JSON or YAML as client-go does. The cause never repeats any of it.
fn parse(stdout: &[u8], api_version: &str) -> Result<ExecCredential, String> {
    use secrecy::ExposeSecret as _;
    let answer: Answer = serde_saphyr::from_slice(stdout)
        .map_err(|_| "the output is no ExecCredential document".to_owned())?;
    if answer.kind.as_deref() != Some("ExecCredential") {
        return Err("the output is no ExecCredential document".to_owned());
    }
    let returned = answer.api_version.unwrap_or_default();
    if returned != api_version {
        return Err(format!(
            "exec plugin is configured to use API version {api_version}, plugin returned version {}",
            sanitize(&returned)
        ));
    }
    let status = answer.status.ok_or("exec plugin didn't return a status field")?;
    let token = status.token.filter(|token| !token.expose_secret().trim().is_empty());
    let certificate = status.client_certificate_data.filter(|data| !data.is_empty());
    let key = status.client_key_data.filter(|data| !data.expose_secret().is_empty());
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        (None, None) => None,
        _ => return Err("exec plugin returned only certificate or key, not both".to_owned()),
    };
    if token.is_none() && identity.is_none() {
        return Err("exec plugin didn't return a token or cert/key pair".to_owned());
    }
    let now = Timestamp::now();
    let renew_at = match status.expiration_timestamp {
        Some(text) => {
            let expires: Timestamp =
                text.parse().map_err(|_| "the expirationTimestamp is no RFC 3339 time".to_owned())?;
            // A tenth of the lifetime, lest a token that lives for a minute be renewed for each request.
            let margin = (expires.duration_since(now) / 10).clamp(SignedDuration::ZERO, MARGIN);
            Some(expires - margin)
        }
        None => None,
    };
    Ok(ExecCredential { token, identity, renew_at })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    const V1: &str = "client.authentication.k8s.io/v1";

    #[test]
    fn answers_are_json_or_yaml() {
        for text in [
            r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"geheim"}}"#,
            "kind: ExecCredential\napiVersion: client.authentication.k8s.io/v1\nstatus:\n  token: geheim\n",
        ] {
            let credential = parse(text.as_bytes(), V1).unwrap();
            assert_eq!(credential.token.unwrap().expose_secret(), "geheim");
            assert!(credential.renew_at.is_none() && credential.identity.is_none());
        }
    }

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let expires = Timestamp::now() + SignedDuration::from_hours(1);
        let text = format!(
            r#"{{"kind":"ExecCredential","apiVersion":"{V1}","status":{{"token":"t","expirationTimestamp":"{expires}",
               "clientCertificateData":"C","clientKeyData":"K"}}}}"#
        );
        let credential = parse(text.as_bytes(), V1).unwrap();
        assert_eq!(credential.renew_at.unwrap(), expires - MARGIN);
        assert_eq!(credential.identity.unwrap().certificate, "C");
    }

    #[test]
    fn wrong_answers_are_named_and_not_repeated() {
        let status = |status: &str| format!(r#"{{"kind":"ExecCredential","apiVersion":"{V1}"{status}}}"#);
        for (text, cause) in [
            ("geheim".to_owned(), "the output is no ExecCredential document"),
            ("{geheim".to_owned(), "the output is no ExecCredential document"),
            (r#"{"kind":"geheim"}"#.to_owned(), "the output is no ExecCredential document"),
            (status(""), "exec plugin didn't return a status field"),
            (status(r#","status":{}"#), "exec plugin didn't return a token or cert/key pair"),
            (status(r#","status":{"token":" "}"#), "exec plugin didn't return a token or cert/key pair"),
            (
                status(r#","status":{"clientKeyData":"geheim"}"#),
                "exec plugin returned only certificate or key, not both",
            ),
            (
                status(r#","status":{"token":"geheim","expirationTimestamp":"geheim"}"#),
                "the expirationTimestamp is no RFC 3339 time",
            ),
        ] {
            assert_eq!(parse(text.as_bytes(), V1).unwrap_err(), cause, "{text}");
        }
        let other =
            parse(status(r#","status":{}"#).as_bytes(), "client.authentication.k8s.io/v1beta1").unwrap_err();
        assert!(other.ends_with("plugin returned version client.authentication.k8s.io/v1"), "{other}");
    }
}
