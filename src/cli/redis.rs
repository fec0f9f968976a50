//! The flags of the registry's Redis: where it is and how to log in there, unless that is found in the cluster.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use secrecy::SecretString;

use super::validate::{nonempty, nonempty_path, timeout};
use crate::{
    cache::redis::{AddressError, Certificates, RedisAddress, RedisOptions, Topology, Whereabouts},
    cause::io_text,
    error::Failure,
    text::{self, sanitize},
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// The registry's Redis, as typed.
#[derive(Args)]
#[command(next_help_heading = "Redis")]
#[expect(clippy::struct_field_names, reason = "the names of the flags")]
pub(super) struct RedisArgs {
    /// The address, as redis://[USER@]HOST[:PORT][/DATABASE]
    #[arg(long, value_name = "URL", long_help = REDIS_URL)]
    redis_url: Option<String>,

    /// The file that holds the password
    #[arg(long, value_name = "FILE")]
    redis_password_file: Option<PathBuf>,

    /// The CA that signed the server's certificate
    ///
    /// Trusted instead of the system's authorities.
    #[arg(long, value_name = "FILE")]
    redis_ca: Option<PathBuf>,

    /// The client certificate, a PEM file
    #[arg(long, value_name = "FILE")]
    redis_client_certificate: Option<PathBuf>,

    /// The key of the client certificate, a PEM file
    #[arg(long, value_name = "FILE")]
    redis_client_key: Option<PathBuf>,

    /// How long to go on without an answer or any progress
    ///
    /// A lost connection, a server that is loading and a failover are waited for. Default: 30s.
    #[arg(long, value_name = "DURATION")]
    redis_timeout: Option<String>,
}

/// Not a doc comment: there it would be links.
const REDIS_URL: &str = "\
The address, as redis://[USER@]HOST[:PORT][/DATABASE]

rediss:// for TLS, unix:///PATH for a socket, redis-cluster://HOST,HOST for a cluster, \
redis-sentinel://HOST,HOST/MASTER for Sentinels. A password in it is seen by everyone who can list processes: \
use --redis-password-file. Default: the one that the registry is configured with; none for a registry that has \
none, whatever its configuration seems to say.";

impl RedisArgs {
    /// Checks the values and reads the files that they name.
    pub(super) fn options(self) -> Result<RedisOptions, Failure> {
        let patience = timeout("--redis-timeout", self.redis_timeout.as_deref(), TIMEOUT)?;
        let whereabouts = match nonempty(self.redis_url.clone()).as_deref() {
            None => Whereabouts::Detect,
            Some("none") => Whereabouts::Absent,
            Some(url) => Whereabouts::At(address(url)?),
        };
        let flags = self.flags(&whereabouts);
        let password_file = nonempty_path(self.redis_password_file);
        let (ca, certificate, key) = (
            nonempty_path(self.redis_ca),
            nonempty_path(self.redis_client_certificate),
            nonempty_path(self.redis_client_key),
        );
        let has_certificates = ca.is_some() || certificate.is_some() || key.is_some();
        match &whereabouts {
            Whereabouts::At(address) => {
                if password_file.is_some() && address.password.is_some() {
                    return Err(Failure::usage(
                        "--redis-password-file cannot be specified with a password in --redis-url",
                    )
                    .hint("leave the password out of --redis-url"));
                }
                if has_certificates && !address.tls {
                    return Err(without_tls(address));
                }
            }
            Whereabouts::Absent if has_certificates || password_file.is_some() => {
                return Err(Failure::usage("--redis-url=none cannot be specified with other flags of Redis"));
            }
            Whereabouts::Absent | Whereabouts::Detect => {}
        }
        // Last, because these read files: a mistake on the command line comes first.
        let certificates = certificates(ca, certificate, key)?;
        let password = password_file.as_deref().map(password).transpose()?;
        if let Whereabouts::At(address) = &whereabouts
            && address.user.is_some()
            && address.password.is_none()
            && password.is_none()
        {
            return Err(Failure::usage("--redis-url names a user, and there is no password")
                .hint("give it in a file: --redis-password-file=FILE"));
        }
        Ok(RedisOptions { whereabouts, certificates, password, patience, flags })
    }

    /// Checks the values for a run in the cluster, which takes what is secret from Secrets: whether the address is
    /// given, and the authority.
    pub(super) fn in_cluster(&self, has_password: bool, has_client: bool) -> Result<InCluster, Failure> {
        timeout("--redis-timeout", self.redis_timeout.as_deref(), TIMEOUT)?;
        if nonempty_path(self.redis_password_file.clone()).is_some() {
            return Err(Failure::usage("--redis-password-file: the job has no file of this machine")
                .hint("name a Secret in the job's namespace, and its key: --redis-secret=NAME/KEY"));
        }
        let client = [&self.redis_client_certificate, &self.redis_client_key];
        if client.into_iter().any(|path| nonempty_path(path.clone()).is_some()) {
            return Err(Failure::usage("--redis-client-certificate: the job has no file of this machine")
                .hint("name a Secret of type kubernetes.io/tls in the job's namespace: --redis-client-secret=NAME"));
        }
        let ca = nonempty_path(self.redis_ca.clone());
        let url = nonempty(self.redis_url.clone());
        let is_given = url.is_some();
        match url.as_deref() {
            Some("none") if has_password || has_client || ca.is_some() => {
                return Err(Failure::usage("--redis-url=none cannot be specified with other flags of Redis"));
            }
            None | Some("none") => {}
            Some(url) => {
                let address = address(url)?;
                if address.password.is_some() {
                    return Err(Failure::usage(
                        "--redis-url: everybody who may read jobs would see its password",
                    )
                    .hint("leave the password out, and name a Secret: --redis-secret=NAME/KEY"));
                }
                if (has_client || ca.is_some()) && !address.tls {
                    return Err(without_tls(&address));
                }
                if address.user.is_some() && !has_password {
                    return Err(Failure::usage("--redis-url names a user, and there is no password")
                        .hint("name a Secret that has it: --redis-secret=NAME/KEY"));
                }
            }
        }
        let pem = certificates(ca, None, None)?.ca;
        // What parsed as PEM is text.
        let ca = pem.map(|pem| String::from_utf8_lossy(&pem).into_owned());
        Ok(InCluster { is_given, ca })
    }

    /// The flags to repeat this with, without the password: one in the URL must come from a file then.
    fn flags(&self, whereabouts: &Whereabouts) -> String {
        let path = |path: &Option<PathBuf>| {
            nonempty_path(path.clone()).map(|path| path.to_string_lossy().into_owned())
        };
        let (url, password) = match whereabouts {
            Whereabouts::At(address) => (Some(address.to_string()), address.password.as_ref()),
            Whereabouts::Absent => (Some("none".to_owned()), None),
            Whereabouts::Detect => (None, None),
        };
        let password_file = path(&self.redis_password_file).or_else(|| password.map(|_| "FILE".to_owned()));
        text::flags([
            ("--redis-url", url),
            ("--redis-password-file", password_file),
            ("--redis-ca", path(&self.redis_ca)),
            ("--redis-client-certificate", path(&self.redis_client_certificate)),
            ("--redis-client-key", path(&self.redis_client_key)),
            ("--redis-timeout", nonempty(self.redis_timeout.clone())),
        ])
    }
}

/// The registry's Redis for a run in the cluster.
pub(super) struct InCluster {
    /// Whether its address is given, or that there is none.
    pub(super) is_given: bool,
    /// The authority that signed its certificate, a PEM text.
    pub(super) ca: Option<String>,
}

fn address(url: &str) -> Result<RedisAddress, Failure> {
    // Not the text itself: it may hold a password.
    RedisAddress::parse(url).map_err(|error| {
        let failure = Failure::usage(format!("invalid argument for \"--redis-url\" flag: {error}"));
        match error {
            AddressError::SeveralHosts => failure.hint(
                "a cluster is redis-cluster://HOST,HOST; Sentinels are redis-sentinel://HOST,HOST/MASTER",
            ),
            AddressError::Setting(_) => failure.hint("settings are ?protocol=resp3 and ?db=N; a user stands before the host, a password is given in --redis-password-file=FILE"),
            AddressError::Encoding | AddressError::Ambiguous => failure.hint("write a % in a user as %25, and give the password in --redis-password-file=FILE"),
            _ => failure.hint("the form is redis://[USER@]HOST[:PORT][/DATABASE]"),
        }
    })
}

fn without_tls(address: &RedisAddress) -> Failure {
    let secure = match address.topology {
        Topology::Cluster(_) => "rediss-cluster://",
        Topology::Sentinel { .. } => "rediss-sentinel://",
        Topology::Single { .. } | Topology::Unix(_) => "rediss://",
    };
    Failure::usage("certificates cannot be specified without TLS")
        .hint(format!("give a {secure} URL in --redis-url, or leave the certificates out"))
}

fn certificates(
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Certificates, Failure> {
    let ca = ca
        .map(|path| {
            let pem = file("--redis-ca", &path)?;
            let mut roots = rustls::RootCertStore::empty();
            let (good, bad) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
            if good == 0 || bad > 0 { Err(no_pem("--redis-ca", &path, "CERTIFICATE")) } else { Ok(pem) }
        })
        .transpose()?;
    let client = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            let pem = file("--redis-client-certificate", &certificate)?;
            if CertificateDer::from_pem_slice(&pem).is_err() {
                return Err(no_pem("--redis-client-certificate", &certificate, "CERTIFICATE"));
            }
            let secret = file("--redis-client-key", &key)?;
            if PrivateKeyDer::from_pem_slice(&secret).is_err() {
                return Err(no_pem("--redis-client-key", &key, "PRIVATE KEY"));
            }
            let secret =
                String::from_utf8(secret).map_err(|_| no_pem("--redis-client-key", &key, "PRIVATE KEY"))?;
            Some((pem, SecretString::from(secret)))
        }
        _ => {
            return Err(Failure::usage("--redis-client-certificate and --redis-client-key need each other"));
        }
    };
    Ok(Certificates { ca, client })
}

fn password(path: &Path) -> Result<SecretString, Failure> {
    const FLAG: &str = "--redis-password-file";
    let text = String::from_utf8(file(FLAG, path)?)
        .map_err(|_| Failure::nothing_changed(format!("read {FLAG}: {} is not valid UTF-8", shown(path))))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::nothing_changed(format!("read {FLAG}: {} is empty", shown(path))));
    }
    Ok(SecretString::from(password))
}

fn file(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::nothing_changed(format!("read {flag}: {}: {}", shown(path), io_text(&error)))
    })
}

fn no_pem(flag: &str, path: &Path, kind: &str) -> Failure {
    Failure::nothing_changed(format!("read {flag}: {} holds no usable PEM block", shown(path)))
        .hint(format!("the file must hold a block that begins with -----BEGIN {kind}-----"))
}

fn shown(path: &Path) -> String {
    sanitize(&path.to_string_lossy())
}
