//! The flags of the connection to the cluster, which are kubectl's; every command that speaks with a cluster has them.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args};
use secrecy::SecretString;

use super::{
    duration,
    validate::{invalid, nonempty, nonempty_path, switch},
};
use crate::{
    cluster::{ConnectionOptions, RequestTimeout},
    error::Failure,
};

/// Which cluster, and as whom, as typed.
#[derive(Args)]
#[command(next_help_heading = "Connection (the same flags as kubectl's)")]
pub(super) struct ConnectionArgs {
    /// The kubeconfig file
    ///
    /// Default: the files in the variable KUBECONFIG, else ~/.kube/config; inside a pod that has neither, the pod's
    /// service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The context to use instead of the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// The cluster to use instead of the context's
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    /// The user to use instead of the context's
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// The URL of the API server
    #[arg(long, short, value_name = "URL")]
    server: Option<String>,

    /// The bearer token for the API server and the registry
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,

    /// The user to impersonate
    ///
    /// Reaches only the API server: the registry sees the owner of the token.
    #[arg(long = "as", value_name = "USER")]
    as_user: Option<String>,

    /// A group to impersonate (can be repeated)
    #[arg(long, value_name = "GROUP", action = ArgAction::Append)]
    as_group: Vec<String>,

    /// The UID to impersonate
    #[arg(long, value_name = "UID")]
    as_uid: Option<String>,

    /// The client certificate, a PEM file
    #[arg(long, value_name = "FILE")]
    client_certificate: Option<PathBuf>,

    /// The key of the client certificate, a PEM file
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,

    /// Do not verify the certificate of the API server
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    insecure_skip_tls_verify: Option<String>,

    /// The name that the API server's certificate must carry
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,

    /// How long one request to the API server may take
    ///
    /// 30, 30s, 2m; 0 for no limit. Default: no limit as long as the answer makes progress.
    #[arg(long, value_name = "DURATION")]
    request_timeout: Option<String>,
}

impl ConnectionArgs {
    /// Checks the values and fills in the defaults.
    pub(super) fn options(self) -> Result<ConnectionOptions, Failure> {
        Ok(ConnectionOptions {
            kubeconfig: nonempty_path(self.kubeconfig),
            context: nonempty(self.context),
            cluster: nonempty(self.cluster),
            user: nonempty(self.user),
            server: nonempty(self.server),
            token: nonempty(self.token).map(SecretString::from),
            impersonate: nonempty(self.as_user),
            impersonate_groups: self.as_group,
            impersonate_uid: nonempty(self.as_uid),
            request_timeout: request_timeout(self.request_timeout.as_deref())?,
            insecure_skip_tls_verify: switch(
                "--insecure-skip-tls-verify",
                self.insecure_skip_tls_verify.as_deref(),
            )?,
            tls_server_name: nonempty(self.tls_server_name),
            client_certificate: nonempty_path(self.client_certificate),
            client_key: nonempty_path(self.client_key),
            field_manager: None,
        })
    }
}

/// kubectl's rule: a bare number counts seconds, anything else is a Go duration.
fn request_timeout(word: Option<&str>) -> Result<RequestTimeout, Failure> {
    let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(RequestTimeout::default()) };
    let seconds = word.parse().ok().map(Duration::from_secs);
    let timeout = seconds.or_else(|| Duration::try_from(duration::parse(word).ok()?).ok());
    match timeout {
        Some(Duration::ZERO) => Ok(RequestTimeout::Unlimited),
        Some(timeout) => Ok(RequestTimeout::Whole(timeout)),
        None => Err(invalid(
            "--request-timeout",
            word,
            "Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit \
             (e.g. 1s | 2m | 3h)",
        )),
    }
}
