//! Finds and reads the kubeconfig as client-go does, and picks what the flags select.
//!
//! kube's own loader refuses a list with a missing file and falls back to the pod's account on any error; here the
//! files are found by client-go's rules and the choice between kubeconfig and pod is made once, in the open.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use http::Uri;
use kube::config::{AuthInfo, Cluster as ClusterEntry, Kubeconfig};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    options::{ConnectionOptions, Environment},
    proxy,
};
use crate::{cause::io_text, error::Failure, text::sanitize};

/// A cluster and a login, selected and overridden by the flags, with all files but tokens read.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) server: Uri,
    pub(super) context: Option<String>,
    pub(super) user_name: Option<String>,
    pub(super) ca_pem: Option<Vec<u8>>,
    /// Read again every minute: CAs of pods are rotated.
    pub(super) ca_file: Option<PathBuf>,
    pub(super) insecure: bool,
    pub(super) tls_server_name: Option<String>,
    pub(super) proxy: Option<Uri>,
    pub(super) user: AuthInfo,
    pub(super) in_cluster: bool,
    /// The cluster entry, for login programs that ask for it.
    pub(super) entry: ClusterEntry,
}

/// Finds the API server and the login.
pub(super) fn target(options: &ConnectionOptions, environment: &Environment) -> Result<Target, Failure> {
    let files = Files::find(options, environment);
    let kubeconfig = files.read()?;
    if kubeconfig.is_none() && options.server.is_none() {
        if matches!(files, Files::Default(_)) && environment.variable("KUBERNETES_SERVICE_HOST").is_some() {
            return in_cluster(options, environment);
        }
        return Err(nothing_found(&files));
    }
    let mut target = select(kubeconfig.unwrap_or_default(), options, &files)?;
    target.proxy = match target.entry.proxy_url.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => Some(proxy::parse(url).map_err(|cause| {
            Failure::nothing_changed(format!(
                "the proxy-url of the cluster in {} is unusable: {cause}",
                files.shown()
            ))
        })?),
        None => proxy::from_environment(environment, &target.server)?,
    };
    Ok(target)
}

/// The names in the kubeconfig.
#[derive(Debug, Default)]
pub struct Entries {
    /// The names of the contexts.
    pub contexts: Vec<String>,
    /// The names of the clusters.
    pub clusters: Vec<String>,
    /// The names of the users.
    pub users: Vec<String>,
}

/// The names in the kubeconfig that counts; none if there is none.
///
/// # Errors
/// A file that cannot be read.
pub fn entries(options: &ConnectionOptions, environment: &Environment) -> Result<Entries, Failure> {
    let kubeconfig = Files::find(options, environment).read()?.unwrap_or_default();
    Ok(Entries {
        contexts: kubeconfig.contexts.into_iter().map(|entry| entry.name).collect(),
        clusters: kubeconfig.clusters.into_iter().map(|entry| entry.name).collect(),
        users: kubeconfig.auth_infos.into_iter().map(|entry| entry.name).collect(),
    })
}

/// The kubeconfig files that count.
enum Files {
    /// `--kubeconfig`: must exist.
    Flag(PathBuf),
    /// `KUBECONFIG`: missing files are skipped.
    Variable(Vec<PathBuf>),
    /// `~/.kube/config`: may be missing.
    Default(Option<PathBuf>),
}

impl Files {
    fn find(options: &ConnectionOptions, environment: &Environment) -> Self {
        if let Some(path) = &options.kubeconfig {
            return Self::Flag(path.clone());
        }
        let list = environment.variables.get(OsStr::new("KUBECONFIG"));
        let paths: Vec<_> = list
            .map(|list| std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect())
            .unwrap_or_default();
        if !paths.is_empty() {
            return Self::Variable(paths);
        }
        Self::Default(environment.home.as_ref().map(|home| home.join(".kube").join("config")))
    }

    /// Reads and merges; `None` if no file exists.
    fn read(&self) -> Result<Option<Kubeconfig>, Failure> {
        let paths = match self {
            Self::Flag(path) => {
                if let Err(error) = fs::metadata(path) {
                    return Err(Failure::nothing_changed(format!(
                        "read kubeconfig {}: {}",
                        shown(path),
                        io_text(&error)
                    ))
                    .hint("name an existing file in --kubeconfig=FILE, or leave the flag out"));
                }
                std::slice::from_ref(path)
            }
            Self::Variable(paths) => paths,
            Self::Default(path) => path.as_slice(),
        };
        let mut merged: Option<Kubeconfig> = None;
        for path in paths {
            match fs::metadata(path) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    tracing::debug!(path = %path.display(), "kubeconfig not found, skipped");
                    continue;
                }
                Err(error) => return Err(unreadable(path, &io_text(&error))),
            }
            let mut next =
                Kubeconfig::read_from(path).map_err(|error| unreadable(path, &reading_error(&error)))?;
            // For client-go an empty name is no name, and the next file may give one.
            next.current_context = next.current_context.filter(|name| !name.is_empty());
            merged = Some(match merged {
                Some(merged) => {
                    merged.merge(next).map_err(|error| unreadable(path, &reading_error(&error)))?
                }
                None => next,
            });
        }
        Ok(merged)
    }

    fn shown(&self) -> String {
        match self {
            Self::Flag(path) => shown(path),
            Self::Variable(paths) => paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", "),
            Self::Default(path) => path.as_deref().map_or_else(|| "~/.kube/config".to_owned(), shown),
        }
    }
}

/// What is wrong with a file, without the excerpt that the YAML library shows: it may be a token.
fn reading_error(error: &kube::config::KubeconfigError) -> String {
    use kube::config::KubeconfigError as Error;
    match error {
        Error::ReadConfig(error, _) => io_text(error),
        Error::Parse(error) => match error.location() {
            Some(location) => {
                format!("not a kubeconfig (line {}, column {})", location.line(), location.column())
            }
            None => "not a kubeconfig".to_owned(),
        },
        other => sanitize(&other.to_string()),
    }
}

fn unreadable(path: &Path, cause: &str) -> Failure {
    Failure::nothing_changed(format!("read kubeconfig {}: {cause}", shown(path)))
        .hint("see what kubectl makes of it: kubectl config view")
}

fn shown(path: &Path) -> String {
    sanitize(&path.to_string_lossy())
}

fn nothing_found(files: &Files) -> Failure {
    Failure::nothing_changed(format!(
        "missing or incomplete configuration info: no kubeconfig at {}",
        files.shown()
    ))
    .hint("log in: oc login https://api.CLUSTER:6443")
    .hint("or name an existing kubeconfig: --kubeconfig=FILE, or the variable KUBECONFIG")
}

fn select(kubeconfig: Kubeconfig, options: &ConnectionOptions, files: &Files) -> Result<Target, Failure> {
    let context_name = options.context.clone().or(kubeconfig.current_context);
    let context = match &context_name {
        Some(name) => {
            let found = kubeconfig.contexts.into_iter().find(|entry| entry.name == *name);
            let context = found.and_then(|entry| entry.context);
            if context.is_none() && options.context.is_none() && options.server.is_some() {
                None
            } else {
                Some(context.ok_or_else(|| missing("context", name, files, "oc config get-contexts"))?)
            }
        }
        None => None,
    };
    let cluster_name =
        options.cluster.clone().or_else(|| context.as_ref().map(|context| context.cluster.clone()));
    let entry = match cluster_name.filter(|name| !name.is_empty()) {
        Some(name) => {
            let found = kubeconfig.clusters.into_iter().find(|entry| entry.name == name);
            found
                .and_then(|entry| entry.cluster)
                .ok_or_else(|| missing("cluster", &name, files, "oc config get-clusters"))?
        }
        None if options.server.is_some() => ClusterEntry::default(),
        None => {
            return Err(Failure::nothing_changed(format!("no current context is set in {}", files.shown()))
                .hint("name one: --context=NAME (oc config get-contexts lists them)")
                .hint("or log in: oc login https://api.CLUSTER:6443"));
        }
    };
    let user_name = options.user.clone().or_else(|| context.and_then(|context| context.user));
    let user = match user_name.as_ref().filter(|name| !name.is_empty()) {
        Some(name) => {
            let found = kubeconfig.auth_infos.into_iter().find(|entry| entry.name == *name);
            // An entry without content is a user without credentials.
            found
                .ok_or_else(|| missing("user", name, files, "oc config get-users"))?
                .auth_info
                .unwrap_or_default()
        }
        None => AuthInfo::default(),
    };
    let insecure = options.insecure_skip_tls_verify || entry.insecure_skip_tls_verify.unwrap_or(false);
    // As in client-go, the flag drops the kubeconfig's CA, and an address of one's own drops the name to expect.
    let ca_pem = if options.insecure_skip_tls_verify { None } else { ca(&entry)? };
    if insecure && ca_pem.is_some() {
        return Err(Failure::nothing_changed(format!(
            "specifying a root certificates file with the insecure flag is not allowed (cluster in {})",
            files.shown()
        ))
        .hint("remove insecure-skip-tls-verify or the certificate authority from the cluster's entry"));
    }
    let tls_server_name = match (&options.tls_server_name, &options.server) {
        (None, None) => entry.tls_server_name.clone().filter(|name| !name.is_empty()),
        (name, _) => name.clone(),
    };
    let server = server(options.server.as_deref().or(entry.server.as_deref()).unwrap_or_default(), files)?;
    Ok(Target {
        server,
        context: context_name,
        user_name,
        ca_pem,
        ca_file: None,
        insecure,
        tls_server_name,
        proxy: None,
        user: overridden(user, options)?,
        in_cluster: false,
        entry,
    })
}

fn missing(what: &str, name: &str, files: &Files, list: &str) -> Failure {
    Failure::nothing_changed(format!("{what} \"{}\" does not exist in {}", sanitize(name), files.shown()))
        .hint(format!("see the names: {list}"))
}

/// Reads the server's URL; one without a scheme is spoken to in TLS.
fn server(text: &str, files: &Files) -> Result<Uri, Failure> {
    let bad = |cause: &str| {
        let text = sanitize(text);
        Failure::nothing_changed(format!("the server {text:?} is no URL: {cause}"))
            .hint(format!("the form is https://HOST:PORT, in --server or in {}", files.shown()))
    };
    if text.is_empty() {
        return Err(bad("it is empty"));
    }
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: Uri = text.parse().map_err(|_| bad("it does not parse"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(bad("the scheme must be https or http"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("there is no host"));
    }
    if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Failure::nothing_changed(
            "the server's URL must not have a user name, a password or a query",
        ));
    }
    Ok(uri)
}

fn ca(entry: &ClusterEntry) -> Result<Option<Vec<u8>>, Failure> {
    let data = entry.certificate_authority_data.as_deref().filter(|data| !data.is_empty());
    let file = entry.certificate_authority.as_deref().filter(|file| !file.is_empty());
    let (pem, source) = match (data, file) {
        (Some(data), _) => (base64_data(data, "certificate-authority-data")?, "certificate-authority-data"),
        (None, Some(file)) => (read(file, "certificate-authority")?, file),
        (None, None) => return Ok(None),
    };
    if certificates(&pem).is_empty() {
        return Err(Failure::nothing_changed(format!(
            "unable to load root certificates: no valid certificate authority data seen in {}",
            sanitize(source)
        )));
    }
    Ok(Some(pem))
}

/// The certificates of a PEM file; other blocks are skipped.
pub(super) fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem).flatten().map(|certificate| certificate.to_vec()).collect()
}

/// Applies the flags about the login, and reads the files of a client certificate.
fn overridden(mut user: AuthInfo, options: &ConnectionOptions) -> Result<AuthInfo, Failure> {
    if let Some(token) = &options.token {
        // The client certificate stays, as in kubectl: it belongs to the connection, and the token decides.
        user = AuthInfo {
            token: Some(token.clone()),
            token_file: None,
            username: None,
            password: None,
            exec: None,
            auth_provider: None,
            ..user
        };
    }
    if options.impersonate.is_some() {
        user.impersonate.clone_from(&options.impersonate);
    }
    if options.impersonate_uid.is_some() {
        user.impersonate_uid.clone_from(&options.impersonate_uid);
    }
    if !options.impersonate_groups.is_empty() {
        user.impersonate_groups = Some(options.impersonate_groups.clone());
    }
    let more = user.impersonate_uid.is_some()
        || user.impersonate_groups.as_ref().is_some_and(|groups| !groups.is_empty())
        || user.impersonate_user_extra.as_ref().is_some_and(|extra| !extra.is_empty());
    if more && user.impersonate.is_none() {
        return Err(Failure::nothing_changed(
            "requesting uid, groups or user-extra without impersonating a user",
        )
        .hint("name the user as well: --as=USER"));
    }
    if let Some(path) = &options.client_certificate {
        user.client_certificate_data = None;
        user.client_certificate = Some(path.to_string_lossy().into_owned());
    }
    if let Some(path) = &options.client_key {
        user.client_key_data = None;
        user.client_key = Some(path.to_string_lossy().into_owned());
    }
    Ok(user)
}

pub(super) fn base64_data(data: &str, what: &str) -> Result<Vec<u8>, Failure> {
    let data: String = data.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(data).map_err(|_| {
        Failure::nothing_changed(format!("the kubeconfig's {what} is not base64"))
            .hint("write the kubeconfig anew: oc login")
    })
}

pub(super) fn read(file: &str, what: &str) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| {
        Failure::nothing_changed(format!("unable to read {what} {}: {}", sanitize(file), io_text(&error)))
    })
}

fn in_cluster(options: &ConnectionOptions, environment: &Environment) -> Result<Target, Failure> {
    let host = environment.variable("KUBERNETES_SERVICE_HOST").unwrap_or_default();
    let port = environment.variable("KUBERNETES_SERVICE_PORT").unwrap_or("443");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let server: Uri = format!("https://{host}:{port}").parse().map_err(|_| {
        Failure::nothing_changed(
            "the variables KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are no address",
        )
    })?;
    let no_account = |path: &Path, cause: &str| {
        Failure::nothing_changed(format!("read the pod's service account: {}: {cause}", shown(path)))
            .hint("give the pod a service account (automountServiceAccountToken: true), or --kubeconfig=FILE")
    };
    let token_file = environment.service_account.join("token");
    if options.token.is_none() {
        fs::metadata(&token_file).map_err(|error| no_account(&token_file, &io_text(&error)))?;
    }
    let (ca_pem, ca_file) = if options.insecure_skip_tls_verify {
        (None, None)
    } else {
        let path = environment.service_account.join("ca.crt");
        let pem = fs::read(&path).map_err(|error| no_account(&path, &io_text(&error)))?;
        if certificates(&pem).is_empty() {
            return Err(no_account(&path, "no certificate in it"));
        }
        (Some(pem), Some(path))
    };
    let user =
        AuthInfo { token_file: Some(token_file.to_string_lossy().into_owned()), ..AuthInfo::default() };
    Ok(Target {
        server,
        context: None,
        user_name: None,
        ca_pem,
        ca_file,
        insecure: options.insecure_skip_tls_verify,
        tls_server_name: options.tls_server_name.clone(),
        // The API server's address inside a cluster is never behind a proxy.
        proxy: None,
        user: overridden(user, options)?,
        in_cluster: true,
        entry: ClusterEntry::default(),
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::cluster::test_support::{environment, kubeconfig};

    /// A folder with kubeconfig files and a pod's service account.
    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn environment(&self, variables: &[(&str, &str)]) -> Environment {
            let mut environment = environment(variables);
            environment.home = Some(self.0.path().to_owned());
            environment.service_account = self.0.path().join("account");
            environment
        }

        fn path(&self, name: &str) -> String {
            self.0.path().join(name).display().to_string()
        }

        fn pod(&self) {
            let key = rcgen::KeyPair::generate().unwrap();
            let ca = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
            self.write("account/token", "pod-token\n");
            self.write("account/ca.crt", &ca.pem());
        }
    }

    const POD: (&str, &str) = ("KUBERNETES_SERVICE_HOST", "172.30.0.1");

    #[test]
    fn a_missing_file_in_the_list_is_skipped_and_the_first_file_wins() {
        let home = Home::new();
        home.write("one", &kubeconfig("https://one:6443", "token: first"));
        home.write("two", &kubeconfig("https://two:6443", "token: second"));
        let list = format!("{}::{}:{}", home.path("missing"), home.path("one"), home.path("two"));
        let target =
            target(&ConnectionOptions::default(), &home.environment(&[("KUBECONFIG", &list)])).unwrap();
        assert_eq!(target.server, "https://one:6443");
        assert_eq!(target.user.token.unwrap().expose_secret(), "first");
    }

    #[test]
    fn the_flag_must_name_an_existing_file() {
        let home = Home::new();
        home.write(".kube/config", &kubeconfig("https://home:6443", ""));
        let options = ConnectionOptions { kubeconfig: Some("no/such/file".into()), ..Default::default() };
        let failure = target(&options, &home.environment(&[])).unwrap_err();
        assert_eq!(failure.message, "read kubeconfig no/such/file: no such file or directory");
    }

    #[test]
    fn the_pods_account_is_used_only_when_there_is_no_kubeconfig_at_all() {
        let home = Home::new();
        home.pod();
        let options = ConnectionOptions::default();
        let inside = target(&options, &home.environment(&[POD, ("HTTPS_PROXY", "http://proxy:1")])).unwrap();
        assert!(inside.in_cluster && inside.proxy.is_none());
        assert_eq!(inside.server, "https://172.30.0.1:443");

        // A list of missing files, a broken file and a missing context are errors, not reasons to use the pod's rights.
        let missing = home.path("missing");
        let failure = target(&options, &home.environment(&[POD, ("KUBECONFIG", &missing)])).unwrap_err();
        assert!(failure.message.contains(&missing), "{failure}");
        for broken in ["[", "users: 3", "current-context: nowhere"] {
            home.write(".kube/config", broken);
            let failure = target(&options, &home.environment(&[POD])).unwrap_err();
            assert!(failure.message.contains(".kube/config"), "{broken}: {failure}");
        }
    }

    #[test]
    fn nothing_at_all_says_where_it_looked() {
        let home = Home::new();
        let failure = target(&ConnectionOptions::default(), &home.environment(&[])).unwrap_err();
        assert!(failure.message.starts_with("missing or incomplete configuration info"), "{failure}");
        assert!(failure.message.contains(&home.path(".kube/config")), "{failure}");
    }

    #[test]
    fn a_broken_file_does_not_show_its_content() {
        let home = Home::new();
        home.write(".kube/config", "users:\n- name: a\n  user: {token: geheim, exec: [}\n");
        let failure = target(&ConnectionOptions::default(), &home.environment(&[])).unwrap_err();
        assert!(failure.message.contains("not a kubeconfig (line"), "{failure}");
        assert!(!failure.to_string().contains("geheim"), "{failure}");
    }

    #[test]
    fn flags_override_the_entries() {
        let home = Home::new();
        let entries = "{username: a, password: b, tokenFile: t, exec: {command: login}}";
        home.write(
            ".kube/config",
            &kubeconfig("https://home:6443", &entries[1..entries.len() - 1].replace(", ", "\n    ")),
        );
        let options = ConnectionOptions {
            server: Some("other:6443".into()),
            token: Some("flag".into()),
            impersonate: Some("someone".into()),
            impersonate_groups: vec!["g".into()],
            insecure_skip_tls_verify: true,
            ..Default::default()
        };
        let target = target(&options, &home.environment(&[])).unwrap();
        assert_eq!(target.server, "https://other:6443");
        assert!(target.insecure);
        assert_eq!(target.user.token.unwrap().expose_secret(), "flag");
        assert!(
            target.user.exec.is_none() && target.user.token_file.is_none() && target.user.username.is_none()
        );
        assert_eq!(target.user.impersonate.as_deref(), Some("someone"));
    }

    #[test]
    fn names_that_do_not_exist_are_named() {
        let home = Home::new();
        home.write(".kube/config", &kubeconfig("https://home:6443", "token: x"));
        let environment = home.environment(&[]);
        let some = Some("nowhere".to_owned());
        for (what, options) in [
            ("context", ConnectionOptions { context: some.clone(), ..Default::default() }),
            ("cluster", ConnectionOptions { cluster: some.clone(), ..Default::default() }),
            ("user", ConnectionOptions { user: some.clone(), ..Default::default() }),
        ] {
            let failure = target(&options, &environment).unwrap_err();
            assert!(
                failure.message.starts_with(&format!("{what} \"nowhere\" does not exist in ")),
                "{failure}"
            );
        }
        let groups = ConnectionOptions { impersonate_groups: vec!["g".into()], ..Default::default() };
        assert_eq!(target(&groups, &environment).unwrap_err().hints, ["name the user as well: --as=USER"]);
    }

    #[test]
    fn the_kubeconfigs_proxy_wins_over_the_environment() {
        let home = Home::new();
        let text = kubeconfig("https://home:6443", "token: x")
            .replace("server:", "proxy-url: socks5://own:1080\n    server:");
        home.write(".kube/config", &text);
        let environment = home.environment(&[("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", "*")]);
        let target = target(&ConnectionOptions::default(), &environment).unwrap();
        assert_eq!(target.proxy.unwrap(), "socks5://own:1080");
    }
}
