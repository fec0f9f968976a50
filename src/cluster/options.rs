//! What a connection needs to know: the user's choices and the process's surroundings, as plain data.

use std::{collections::BTreeMap, ffi::OsString, io::IsTerminal as _, path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::text;

/// The connection flags that kubectl has too, with kubectl's meaning.
#[derive(Debug, Clone, Default)]
pub struct ConnectionOptions {
    /// `--kubeconfig`: this file alone; it must exist.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`: the context to use instead of the current one.
    pub context: Option<String>,
    /// `--cluster`: the cluster entry to use instead of the context's.
    pub cluster: Option<String>,
    /// `--user`: the user entry to use instead of the context's.
    pub user: Option<String>,
    /// `--server`: the API server's URL.
    pub server: Option<String>,
    /// `--token`: a bearer token; beats everything else that the user entry says.
    pub token: Option<SecretString>,
    /// `--as`: the user to impersonate towards the API server.
    pub impersonate: Option<String>,
    /// `--as-group`: the groups to impersonate.
    pub impersonate_groups: Vec<String>,
    /// `--as-uid`: the UID to impersonate.
    pub impersonate_uid: Option<String>,
    /// `--request-timeout`.
    pub request_timeout: RequestTimeout,
    /// `--insecure-skip-tls-verify`: the API server's certificate is not verified.
    pub insecure_skip_tls_verify: bool,
    /// `--tls-server-name`: the name that the API server's certificate must carry.
    pub tls_server_name: Option<String>,
    /// `--client-certificate`: a PEM file.
    pub client_certificate: Option<PathBuf>,
    /// `--client-key`: a PEM file.
    pub client_key: Option<PathBuf>,
    /// `--field-manager`: the name under which the server notes what is changed.
    pub field_manager: Option<String>,
}

impl ConnectionOptions {
    /// The flags to repeat a command with, each with a blank in front, but for the token.
    #[must_use]
    pub fn flags(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let timeout = match self.request_timeout {
            RequestTimeout::Progress => None,
            RequestTimeout::Whole(timeout) => Some(format!("{}ms", timeout.as_millis())),
            RequestTimeout::Unlimited => Some("0".to_owned()),
        };
        let line = text::flags([
            ("--kubeconfig", path(&self.kubeconfig)),
            ("--context", self.context.clone()),
            ("--cluster", self.cluster.clone()),
            ("--user", self.user.clone()),
            // A URL may hold a password.
            ("--server", self.server.clone().filter(|url| !url.contains('@'))),
            ("--as", self.impersonate.clone()),
            ("--as-uid", self.impersonate_uid.clone()),
            ("--client-certificate", path(&self.client_certificate)),
            ("--client-key", path(&self.client_key)),
            ("--insecure-skip-tls-verify", self.insecure_skip_tls_verify.then(|| "true".to_owned())),
            ("--tls-server-name", self.tls_server_name.clone()),
            ("--request-timeout", timeout),
        ]);
        line + &text::flags(self.impersonate_groups.iter().map(|group| ("--as-group", Some(group.clone()))))
    }

    /// The same for a command that changes objects.
    #[must_use]
    pub fn writing_flags(&self) -> String {
        self.flags() + &text::flags([("--field-manager", self.field_manager.clone())])
    }
}

/// The field manager unless another one is asked for.
pub(super) const FIELD_MANAGER: &str = "oc-prune-images";

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestTimeout {
    /// No limit for a request as a whole, but one for the first byte and one for every pause in the answer.
    #[default]
    Progress,
    /// This long for a request as a whole, the answer's body included.
    Whole(Duration),
    /// No limit at all (`--request-timeout=0`).
    Unlimited,
}

/// What the process finds around itself, passed in so that tests can set it.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The environment variables.
    pub variables: BTreeMap<OsString, OsString>,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// Whether somebody can answer a login program's questions.
    pub stdin_is_terminal: bool,
    /// Whether nobody is there to read what a login program says.
    pub asks_nobody: bool,
    /// Where Kubernetes mounts a pod's credentials.
    pub service_account: PathBuf,
}

impl Environment {
    /// The surroundings of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            home: std::env::home_dir(),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            asks_nobody: false,
            service_account: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"),
        }
    }

    /// The variable's value, if it is set, not empty and UTF-8.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(std::ffi::OsStr::new(name))?.to_str().filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_repeated_in_the_same_cluster_and_without_a_secret() {
        assert_eq!(ConnectionOptions::default().flags(), "");
        let options = ConnectionOptions {
            kubeconfig: Some("my config".into()),
            context: Some("prod".into()),
            token: Some("geheim".into()),
            impersonate: Some("system:admin".into()),
            impersonate_groups: vec!["a".into(), "b".into()],
            request_timeout: RequestTimeout::Whole(Duration::from_millis(1500)),
            server: Some("https://api:6443".into()),
            ..ConnectionOptions::default()
        };
        assert_eq!(
            options.flags(),
            " --kubeconfig='my config' --context=prod --server=https://api:6443 --as=system:admin --request-timeout=1500ms --as-group=a --as-group=b"
        );
        let options = ConnectionOptions { server: Some("https://u:geheim@api".into()), ..Default::default() };
        assert_eq!(options.flags(), "");
    }
}
