//! The certificate authority of a sandbox and the certificates it signs.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::lock;

/// The names every server certificate of a sandbox is valid for, unless a test asks for others.
pub const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "image-registry.openshift-image-registry.svc"];

/// A certificate authority made when the sandbox starts.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Certificates issued to clients, so that a server need not parse X.509 to learn who it talks to.
    clients: Mutex<HashMap<Vec<u8>, String>>,
}

/// A certificate and its key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key.
    pub key_pem: String,
}

/// How a listener speaks TLS.
#[derive(Clone)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    authority: Authority,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new("sandbox")
    }
}

impl Authority {
    /// Makes a new authority with this common name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("generate a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("sign the authority's certificate");
        Self { inner: Arc::new(Inner { issuer, clients: Mutex::default() }) }
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.inner.issuer.pem()
    }

    /// TLS for a server that answers to these host names and addresses.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> ServerTls {
        self.server_with(names, |_| {})
    }

    /// TLS with a certificate that expired years ago.
    #[must_use]
    pub fn expired_server(&self, names: &[&str]) -> ServerTls {
        self.server_with(names, |params| {
            params.not_before = date_time_ymd(2015, 1, 1);
            params.not_after = date_time_ymd(2016, 1, 1);
        })
    }

    /// A client certificate that makes its holder this user.
    #[must_use]
    pub fn client(&self, user: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.sign(&params);
        lock(&self.inner.clients).insert(certificate.der().to_vec(), user.to_owned());
        Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// A certificate for a server that is a program of its own and answers to these host names and addresses.
    #[must_use]
    pub fn server_identity(&self, names: &[&str]) -> Identity {
        let (certificate, key) = self.sign(&server_params(names));
        Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    fn server_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> ServerTls {
        let mut params = server_params(names);
        change(&mut params);
        let (certificate, key) = self.sign(&params);

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.inner.issuer.der().clone()).expect("the authority's certificate");
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .expect("a verifier of client certificates");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a server certificate");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        ServerTls { config: Arc::new(config), authority: self.clone() }
    }

    fn sign(&self, params: &CertificateParams) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("generate a key");
        let certificate = params.signed_by(&key, &self.inner.issuer).expect("sign a certificate");
        (certificate, key)
    }
}

fn server_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("names of a server");
    params.distinguished_name.push(DnType::CommonName, "sandbox server");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

impl ServerTls {
    /// The user that a client certificate stands for.
    pub(crate) fn client_user(&self, certificates: Option<&[CertificateDer<'_>]>) -> Option<String> {
        let leaf = certificates?.first()?;
        lock(&self.authority.inner.clients).get(leaf.as_ref()).cloned()
    }
}
