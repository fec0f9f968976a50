//! Starts and stops the servers of a sandbox.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::api::{Access, Api, Rule, Settings, Store};
use crate::fault::{Action, Faults};
use crate::log::{RequestLog, Server};
use crate::serve::{Service, Serving, serve};
use crate::tls::{Authority, SERVER_NAMES};

/// How a sandbox starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API server listens.
    pub listen: SocketAddr,
    /// Whether the API server speaks https.
    pub tls: bool,
    /// How the API server behaves.
    pub settings: Settings,
    /// Further users: name, role and rules.
    pub users: Vec<(String, String, Vec<Rule>)>,
    /// Rights taken away: user, verb, group and resource.
    pub denied: Vec<(String, String, String, String)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: true,
            settings: Settings::default(),
            users: Vec::new(),
            denied: Vec::new(),
        }
    }
}

impl Config {
    /// Takes a right away from a user.
    #[must_use]
    pub fn deny(mut self, user: &str, verb: &str, group: &str, resource: &str) -> Self {
        self.denied.push((user.to_owned(), verb.to_owned(), group.to_owned(), resource.to_owned()));
        self
    }

    /// Adds a user with the rules of a role.
    #[must_use]
    pub fn user(mut self, user: &str, role: &str, rules: Vec<Rule>) -> Self {
        self.users.push((user.to_owned(), role.to_owned(), rules));
        self
    }

    /// Leaves a group unregistered.
    #[must_use]
    pub fn without_group(mut self, group: &str) -> Self {
        self.settings.disabled_groups.insert(group.to_owned());
        self
    }

    /// Registers a group that is off by default.
    #[must_use]
    pub fn with_group(mut self, group: &str) -> Self {
        self.settings.disabled_groups.remove(group);
        self
    }
}

/// A running API server with its runtime. Dropping it closes all connections and stops everything.
#[derive(Debug)]
pub struct Sandbox {
    tls: bool,
    authority: Authority,
    api: Api,
    faults: Faults,
    log: RequestLog,
    serving: Serving,
    /// Only `None` while the sandbox is dropped.
    runtime: Option<Runtime>,
}

impl Sandbox {
    /// Starts an API server on 127.0.0.1; works with and without an async runtime around it.
    #[must_use]
    pub fn start(config: Config) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("sandbox")
            .enable_all()
            .build()
            .expect("a runtime");
        let authority = Authority::default();
        let api = Api::default();
        api.configure(|settings| *settings = config.settings);
        for (user, role, rules) in config.users {
            api.access().add_user(&user, &role, rules);
        }
        for (user, verb, group, resource) in &config.denied {
            api.access().deny(user, verb, group, resource);
        }
        let (faults, log) = (Faults::default(), RequestLog::default());
        let service =
            Service { server: Server::Api, handler: api.handler(), faults: faults.clone(), log: log.clone() };
        let tls = config.tls.then(|| authority.server(&SERVER_NAMES));
        let listener = TcpListener::bind(config.listen).expect("listen");
        let serving = serve(runtime.handle(), listener, tls, service);
        Self { tls: config.tls, authority, api, faults, log, serving, runtime: Some(runtime) }
    }

    /// The URL of the API server.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.serving.address())
    }

    /// The certificate of the authority that signed the servers' certificates.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    /// Writes that certificate to `ca.crt` in a directory.
    #[must_use]
    pub fn write_ca(&self, dir: &Path) -> PathBuf {
        let path = dir.join("ca.crt");
        std::fs::write(&path, self.ca_pem()).expect("write the certificate");
        path
    }

    /// The authority, to make further certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A token of a user: `admin`, `pruner` (system:image-pruner alone), `puller`, `nobody`, or one that was added.
    #[must_use]
    pub fn token(&self, user: &str) -> String {
        let token = self.api.access().token(user);
        assert!(!token.is_empty(), "no user {user:?}");
        token
    }

    /// The API server: its settings, and the cluster as the registry sees it.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.api.store()
    }

    /// The users, their tokens and rights.
    #[must_use]
    pub fn access(&self) -> &Access {
        self.api.access()
    }

    /// What the servers were asked.
    #[must_use]
    pub fn request_log(&self) -> &RequestLog {
        &self.log
    }

    /// The faults to inject.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The runtime, to serve further things on.
    #[must_use]
    pub fn runtime(&self) -> Handle {
        self.runtime.as_ref().expect("the sandbox runs").handle().clone()
    }

    /// An action that changes the objects before a request is handled.
    #[must_use]
    pub fn hook(&self, change: impl Fn(&Store) + Send + Sync + 'static) -> Action {
        let store = self.store().clone();
        Action::hook(move || change(&store))
    }

    /// Lets the list after this many pages find its continue token expired, once.
    pub fn expire_continue_after(&self, pages: usize) {
        self.api.configure(|settings| settings.expire_continue_after = Some(pages));
    }

    /// Writes `kubeconfig-<user>` with a token of the user into a directory.
    #[must_use]
    pub fn write_kubeconfig(&self, dir: &Path, user: &str) -> PathBuf {
        let credentials = format!("    token: {}\n", self.token(user));
        self.kubeconfig(dir, user, &credentials)
    }

    /// Writes `kubeconfig-<user>` with a client certificate for the user into a directory.
    #[must_use]
    pub fn write_certificate_kubeconfig(&self, dir: &Path, user: &str) -> PathBuf {
        let identity = self.authority.client(user);
        let credentials = format!(
            "    client-certificate-data: {}\n    client-key-data: {}\n",
            STANDARD.encode(identity.certificate_pem),
            STANDARD.encode(identity.key_pem)
        );
        self.kubeconfig(dir, user, &credentials)
    }

    fn kubeconfig(&self, dir: &Path, user: &str, credentials: &str) -> PathBuf {
        let mut cluster = format!("    server: {}\n", self.api_url());
        if self.tls {
            let _ = writeln!(cluster, "    certificate-authority-data: {}", STANDARD.encode(self.ca_pem()));
        }
        let content = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: sandbox\n\
             \x20 cluster:\n{cluster}\
             users:\n\
             - name: {user}\n\
             \x20 user:\n{credentials}\
             contexts:\n\
             - name: sandbox\n\
             \x20 context:\n\
             \x20   cluster: sandbox\n\
             \x20   user: {user}\n\
             \x20   namespace: default\n\
             current-context: sandbox\n"
        );
        let path = dir.join(format!("kubeconfig-{user}"));
        std::fs::write(&path, content).expect("write the kubeconfig");
        path
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Unlike dropping the runtime, this is allowed inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
