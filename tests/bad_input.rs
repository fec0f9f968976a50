//! What a wrong command line, kubeconfig or registry leads to: the exact text on stderr and the exit code.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fmt::Write as _;
use std::sync::Arc;

use common::objects::{KEEP_ONE, shop};
use common::{Cluster, Plugin, Ran};
use futures::FutureExt as _;
use http::Response;
use regex::Regex;
use sandbox::log::Server;
use sandbox::registry::RegistryConfig;
use sandbox::serve::{Handler, Service, Serving, full, listen, serve};
use sandbox::tls::{Authority, SERVER_NAMES, ServerTls};
use sandbox::{Config, Sandbox};

/// stderr without what changes from run to run.
fn steady(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, steady) in [
        // The server's own: it comes when the list of deployment configs is answered in time.
        (r"(?m)^Warning: .*\n", ""),
        (r"(127\.0\.0\.1|localhost):\d{4,5}", "$1:PORT"),
        (r"/tmp/\.tmp\w+", "DIR"),
        (r"verification time \d+", "verification time N"),
        (r"\(\d+ seconds ago\)", "(N seconds ago)"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, steady).into_owned();
    }
    text
}

/// Compares all cases before it fails, so that one run shows all that is different.
#[derive(Default)]
struct Table {
    wrong: String,
}

impl Table {
    fn check(&mut self, name: &str, ran: &Ran, code: i32, stderr: &str) {
        let usage = if code == 2 { "hint: see 'oc prune-images --help' for usage\n" } else { "" };
        let (found, expected) = (steady(&ran.stderr), format!("{}{usage}", stderr.trim_start()));
        if ran.code != Some(code) || found != expected {
            let _ =
                write!(self.wrong, "\n## {name}\n{ran}--- expected {code}\n{expected}\n--- found\n{found}\n");
        }
    }

    fn finish(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong);
    }
}

const CA: &str = "--certificate-authority=ca.crt";
const HTTPS: &str = "--registry-url=https://registry.example.com:5443";

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn flags_are_refused_before_anything_is_asked() {
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["extra"],
            2,
            r"
error: no arguments are allowed to this command
",
        ),
        (
            &["--nope"],
            2,
            r"
error: unknown flag: --nope
",
        ),
        (
            &["--confirm=maybe"],
            2,
            r#"
error: invalid argument "maybe" for "--confirm" flag: strconv.ParseBool: parsing "maybe": invalid syntax
"#,
        ),
        (
            &["-o", "xyz"],
            2,
            r#"
error: unable to match a printer suitable for the output format "xyz", allowed formats are: json,name,text,wide,yaml
"#,
        ),
        (
            &["--keep-tag-revisions=-1"],
            2,
            r"
error: --keep-tag-revisions must be greater than or equal to 0
",
        ),
        (
            &["--keep-tag-revisions=many"],
            2,
            r#"
error: invalid argument "many" for "--keep-tag-revisions" flag: strconv.ParseInt: parsing "many": invalid syntax
"#,
        ),
        (
            &["--keep-younger-than=-1m"],
            2,
            r"
error: --keep-younger-than must be greater than or equal to 0
",
        ),
        (
            &["--keep-younger-than=ten"],
            2,
            r#"
error: invalid argument "ten" for "--keep-younger-than" flag: time: invalid duration "ten"
hint: a duration is numbers with units: --keep-younger-than=90m, --keep-younger-than=96h, --keep-younger-than=1h30m
"#,
        ),
        (
            &["--keep-younger-than=3d"],
            2,
            r#"
error: invalid argument "3d" for "--keep-younger-than" flag: time: unknown unit "d" in duration "3d"
hint: days are no unit, use hours: --keep-younger-than=72h
"#,
        ),
        (
            &["--timeout=0"],
            2,
            r#"
error: invalid argument "0" for "--timeout" flag: it must be greater than 0
"#,
        ),
        (
            &["--field-manager=a\tb"],
            2,
            r#"
error: invalid argument "a\tb" for "--field-manager" flag: it must be at most 128 printable characters
"#,
        ),
        (
            &["--show-kept", "-oname"],
            2,
            r"
error: --show-kept cannot be specified with --output=name
",
        ),
        (
            &["-l", "app=web api"],
            2,
            r#"
error: invalid argument "app=web api" for "-l, --selector" flag: unable to parse requirement: found 'api', expected: ',' or 'end of string'
hint: the grammar is kubectl's: --selector='app=web,tier in (a,b),!old'
"#,
        ),
        (
            &["--num-workers=-1"],
            2,
            r"
error: --num-workers must be greater than or equal to 0
",
        ),
        (
            &["--num-workers=few"],
            2,
            r#"
error: invalid argument "few" for "--num-workers" flag: strconv.ParseInt: parsing "few": invalid syntax
"#,
        ),
        (
            &["--prune-over-size-limit", "--keep-tag-revisions=3"],
            2,
            r"
error: --prune-over-size-limit cannot be specified with --keep-tag-revisions nor --keep-younger-than
",
        ),
        (
            &["--prune-over-size-limit", "--keep-younger-than=60m"],
            2,
            r"
error: --prune-over-size-limit cannot be specified with --keep-tag-revisions nor --keep-younger-than
",
        ),
        (
            &["--prune-over-size-limit=false"],
            2,
            r#"
error: invalid argument "false" for "--prune-over-size-limit" flag: it can only be switched on
hint: leave --prune-over-size-limit out to keep by revisions and age
"#,
        ),
        (
            &[HTTPS, CA, "--force-insecure"],
            2,
            r"
error: --certificate-authority cannot be specified with --force-insecure
hint: leave one of the two out: a certificate is either verified or it is not
",
        ),
        (
            &["--registry-url=http://registry.example.com:5080", CA],
            2,
            r"
error: --certificate-authority cannot be specified for insecure http protocol
hint: give an https:// URL in --registry-url, or leave --certificate-authority out
",
        ),
        (
            &[HTTPS, "--certificate-authority=nope.crt"],
            1,
            r"
error: failed to read registry ca bundle: open nope.crt: no such file or directory
hint: --certificate-authority=FILE names a PEM file with the CA of the registry's certificate
",
        ),
        (
            &[HTTPS, "--certificate-authority=no-ca.crt"],
            1,
            r"
error: unable to load root certificates: no valid certificate authority data seen
hint: no-ca.crt must hold a block that begins with -----BEGIN CERTIFICATE-----
",
        ),
        (
            &[HTTPS, "--certificate-authority=empty.crt"],
            1,
            r"
error: unable to load root certificates: no valid certificate authority data seen
hint: empty.crt must hold a block that begins with -----BEGIN CERTIFICATE-----
",
        ),
        (
            &[HTTPS, "--certificate-authority=."],
            1,
            r"
error: failed to read registry ca bundle: read .: is a directory
hint: --certificate-authority=FILE names a PEM file with the CA of the registry's certificate
",
        ),
        (
            &["--registry-url=https://registry.example.com:5443/v2/"],
            2,
            r"
error: invalid --registry-url flag: no path after <host>[:<port>] is allowed
hint: the form is --registry-url=[http://|https://]HOST[:PORT]
",
        ),
        (
            &["--registry-url=https://registry.example.com:5443?x=1"],
            2,
            r"
error: invalid --registry-url flag: no query arguments are allowed after <host>[:<port>]
hint: the form is --registry-url=[http://|https://]HOST[:PORT]
",
        ),
        (
            &["--registry-url=ftp://registry.example.com:5443"],
            2,
            r"
error: invalid --registry-url flag: unsupported scheme: ftp
hint: the form is --registry-url=[http://|https://]HOST[:PORT]
",
        ),
        (
            &["--registry-url=https://"],
            2,
            r"
error: invalid --registry-url flag: no host name specified
hint: the form is --registry-url=[http://|https://]HOST[:PORT]
",
        ),
        (
            &["--registry-url=https://user:geheim@registry.example.com"],
            2,
            r"
error: invalid --registry-url flag: no user name or password is allowed before <host>[:<port>]
hint: the registry is logged in to with the bearer token: --token=TOKEN or oc login
",
        ),
        (
            &["--registry-url=registry.example.com:99999"],
            2,
            r"
error: invalid --registry-url flag: invalid port: 99999
hint: the form is --registry-url=[http://|https://]HOST[:PORT]
",
        ),
        (
            &["--registry-url"],
            2,
            r"
error: flag needs an argument: --registry-url
",
        ),
        (
            &["-n", "Shop"],
            2,
            r#"
error: invalid argument "Shop" for "-n, --namespace" flag: a namespace has at most 63 lower case letters, digits and '-', and neither begins nor ends with '-'
"#,
        ),
        (
            &["--request-timeout=soon"],
            2,
            r#"
error: invalid argument "soon" for "--request-timeout" flag: Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit (e.g. 1s | 2m | 3h)
"#,
        ),
        (
            &["-v=loud"],
            2,
            r#"
error: invalid argument "loud" for "-v, --v" flag: strconv.ParseInt: parsing "loud": invalid syntax
"#,
        ),
    ];
    let cluster = Cluster::start();
    let mut table = Table::default();
    for (args, code, stderr) in cases {
        let plugin = cluster.plugin("pruner").arg("--confirm").args(*args);
        let plugin = plugin.file("ca.crt", cluster.sandbox.ca_pem()).file("no-ca.crt", "no certificate\n");
        let ran = plugin.file("empty.crt", "").run();
        table.check(&args.join(" "), &ran, *code, stderr);
        assert_eq!(ran.stdout, "", "{ran}");
    }
    table.finish();
    assert_eq!(cluster.sandbox.request_log().entries().len(), 0, "a server was asked");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn kubeconfigs_that_do_not_do_are_named() {
    let sandbox = Sandbox::start(Config::default());
    let directory = tempfile::tempdir().unwrap();
    let good = std::fs::read_to_string(sandbox.write_kubeconfig(directory.path(), "pruner")).unwrap();
    let with = |content: &str| Plugin::new().file("config", content).arg("--kubeconfig=config");
    let mut table = Table::default();
    for (name, plugin, stderr) in [
        (
            "no kubeconfig at all",
            Plugin::new(),
            r"
error: missing or incomplete configuration info: no kubeconfig at DIR/.kube/config
hint: log in: oc login https://api.CLUSTER:6443
hint: or name an existing kubeconfig: --kubeconfig=FILE, or the variable KUBECONFIG
",
        ),
        (
            "a file that is not there",
            Plugin::new().arg("--kubeconfig=nope"),
            r"
error: read kubeconfig nope: no such file or directory
hint: name an existing file in --kubeconfig=FILE, or leave the flag out
",
        ),
        (
            "KUBECONFIG names files that are not there",
            Plugin::new().env("KUBECONFIG", "a:b"),
            r"
error: missing or incomplete configuration info: no kubeconfig at a, b
hint: log in: oc login https://api.CLUSTER:6443
hint: or name an existing kubeconfig: --kubeconfig=FILE, or the variable KUBECONFIG
",
        ),
        (
            "not YAML",
            with("]["),
            r"
error: read kubeconfig config: not a kubeconfig (line 1, column 1)
hint: see what kubectl makes of it: kubectl config view
",
        ),
        (
            "another document",
            with("geheim: 1\n"),
            r"
error: no current context is set in config
hint: name one: --context=NAME (oc config get-contexts lists them)
hint: or log in: oc login https://api.CLUSTER:6443
",
        ),
        (
            "no current context",
            with(&good.replace("current-context: sandbox", "")),
            r"
error: no current context is set in config
hint: name one: --context=NAME (oc config get-contexts lists them)
hint: or log in: oc login https://api.CLUSTER:6443
",
        ),
        (
            "missing context",
            with(&good).arg("--context=nope"),
            r#"
error: context "nope" does not exist in config
hint: see the names: oc config get-contexts
"#,
        ),
        (
            "missing cluster",
            with(&good).arg("--cluster=nope"),
            r#"
error: cluster "nope" does not exist in config
hint: see the names: oc config get-clusters
"#,
        ),
        (
            "missing user",
            with(&good).arg("--user=nope"),
            r#"
error: user "nope" does not exist in config
hint: see the names: oc config get-users
"#,
        ),
        (
            "a server that is no URL",
            with(&good).arg("--server=https://[::1"),
            r#"
error: the server "https://[::1" is no URL: it does not parse
hint: the form is https://HOST:PORT, in --server or in config
"#,
        ),
        (
            "CA and insecure",
            with(&good.replace("    server:", "    insecure-skip-tls-verify: true\n    server:")),
            r"
error: specifying a root certificates file with the insecure flag is not allowed (cluster in config)
hint: remove insecure-skip-tls-verify or the certificate authority from the cluster's entry
",
        ),
        (
            "a CA that is none",
            with(&Regex::new("authority-data: .*").unwrap().replace(&good, "authority-data: Z2VoZWlt")),
            r"
error: unable to load root certificates: no valid certificate authority data seen in certificate-authority-data
",
        ),
        (
            "a token file that is not there",
            with(&Regex::new("token: .*").unwrap().replace(&good, "tokenFile: nope")),
            r"
error: get credentials: read token file nope: no such file or directory
hint: log in again: oc login
",
        ),
        (
            "an exec plugin that is not there",
            with(&Regex::new("token: .*").unwrap().replace(
                &good,
                "exec: {apiVersion: client.authentication.k8s.io/v1, command: nope, interactiveMode: Never}",
            )),
            r"
error: get credentials: exec: executable nope not found
hint: install nope, or pass a token: --token=TOKEN
",
        ),
        (
            "groups without a user",
            with(&good).arg("--as-group=x"),
            r"
error: requesting uid, groups or user-extra without impersonating a user
hint: name the user as well: --as=USER
",
        ),
    ] {
        table.check(name, &plugin.run(), 1, stderr);
    }
    table.finish();
    assert!(sandbox.request_log().is_empty(), "the server was asked");
}

#[test]
fn an_api_server_that_refuses_is_named_with_what_helps() {
    let mut table = Table::default();
    let cluster = Cluster::of(shop());
    let good = |args: &[&str]| cluster.plugin("pruner").args(args).run();
    let other_ca = Authority::new("other").pem();
    let good_config = std::fs::read_to_string(cluster.kubeconfig("pruner")).unwrap();
    let ca = Regex::new("certificate-authority-data: .*").unwrap();
    let foreign = Plugin::new()
        .file("ca.crt", other_ca)
        .file("config", ca.replace(&good_config, "certificate-authority: ca.crt").as_bytes())
        .arg("--kubeconfig=config");
    let plain = Sandbox::start(Config { tls: false, ..Config::default() });
    let port_of = |url: &str| url.rsplit_once(':').unwrap().1.to_owned();
    let (https, http) = (port_of(&cluster.sandbox.api_url()), port_of(&plain.api_url()));
    for (name, ran, stderr) in [
        (
            "a token that is not valid",
            good(&["--token=wrong"]),
            r#"
error: You must be logged in to the server (Unauthorized)
hint: log in again: oc login https://127.0.0.1:PORT
hint: or pass a token: --token="$(oc create token pruner -n openshift-image-registry)"
"#,
        ),
        (
            "https server spoken to in http",
            good(&[&format!("--server=http://127.0.0.1:{https}")]),
            r"
error: reach the API server: refused as invalid: Client sent an HTTP request to an HTTPS server.
hint: http://127.0.0.1:PORT speaks https: --server=https://127.0.0.1:PORT
",
        ),
        (
            "http server spoken to in https",
            good(&[&format!("--server=https://127.0.0.1:{http}")]),
            r"
error: reach the API server: connect to https://127.0.0.1:PORT: http: server gave HTTP response to HTTPS client
hint: the server speaks plain HTTP there; check the port: --server=https://HOST:PORT
",
        ),
        (
            "another CA",
            foreign.run(),
            r"
error: reach the API server: connect to https://127.0.0.1:PORT: tls: failed to verify certificate: x509: certificate signed by unknown authority
hint: the kubeconfig must name the CA of the API server: oc login --certificate-authority=FILE
hint: or do not verify it: --insecure-skip-tls-verify
",
        ),
        (
            "another host's certificate",
            good(&["--tls-server-name=api.example.com"]),
            r"
error: reach the API server: connect to https://127.0.0.1:PORT: tls: failed to verify certificate: x509: certificate is valid for localhost, image-registry.openshift-image-registry.svc, not api.example.com
hint: if the certificate carries another name: --tls-server-name=NAME
hint: or do not verify it: --insecure-skip-tls-verify
",
        ),
        (
            "nobody listens",
            good(&["--server=https://127.0.0.1:1"]),
            r#"
error: reach the API server: connect to https://127.0.0.1:1: connection refused
hint: is this the right cluster? context "sandbox"; another: --context=NAME
"#,
        ),
        (
            "no such host",
            good(&["--server=https://no-such-host.invalid:6443"]),
            r#"
error: reach the API server: connect to https://no-such-host.invalid:6443: no such host
hint: is this the right cluster? context "sandbox"; another: --context=NAME
"#,
        ),
    ] {
        table.check(name, &ran, 1, stderr);
    }
    table.finish();
    assert!(cluster.changes().is_empty());
}

#[test]
fn a_login_without_a_token_cannot_prune_the_registry() {
    let cluster = Cluster::of(shop());
    let kubeconfig = cluster.sandbox.write_certificate_kubeconfig(cluster.directory(), "pruner");
    let run = |args: &[&str]| Plugin::new().arg("--kubeconfig").arg(&kubeconfig).args(args).run();
    let mut table = Table::default();
    let refused = r#"
error: log in to the registry: you must use a client config with a token, and this login has none
hint: log in with a token: oc login
hint: or pass one: --token="$(oc create token pruner -n openshift-image-registry)"
hint: or remove API objects only, and leave the registry alone: --prune-registry=false
"#;
    table.check("confirmed", &run(&["--confirm"]), 1, refused);
    table.finish();
    assert!(cluster.changes().is_empty());

    run(&[KEEP_ONE]).exits(0).prints("Summary: would delete 4 image object(s)");
    run(&[KEEP_ONE, "--confirm", "--prune-registry=false"])
        .exits(0)
        .prints("Summary: deleted 4 image object(s)");
}

/// A registry somewhere else than the cluster's own, with its own way to speak TLS.
fn registry(cluster: &Cluster, tls: Option<ServerTls>) -> (Serving, String) {
    let (sandbox, replica) = (&cluster.sandbox, cluster.registry.replica());
    let serving = replica.serve(&sandbox.runtime(), listen(), tls, sandbox.faults(), sandbox.request_log());
    let port = serving.address().port().to_string();
    (serving, port)
}

/// A web server that answers everything with a login page.
fn login_page(cluster: &Cluster) -> (Serving, String) {
    let handler: Handler = Arc::new(|_| {
        let mut page = Response::new(full("<html><title>Log in</title></html>"));
        page.headers_mut().insert("content-type", "text/html".parse().unwrap());
        async move { page }.boxed()
    });
    let sandbox = &cluster.sandbox;
    let (faults, log) = (sandbox.faults().clone(), sandbox.request_log().clone());
    let service = Service { server: Server::Registry(99), handler, faults, log };
    let tls = Some(sandbox.authority().server(&SERVER_NAMES));
    let serving = serve(&sandbox.runtime(), listen(), tls, service);
    let port = serving.address().port().to_string();
    (serving, port)
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_registry_that_cannot_be_reached_is_named_with_the_flag_that_helps() {
    let cluster = Cluster::of(shop());
    let other = Authority::new("other");
    let (_trusted, trusted) = registry(&cluster, Some(cluster.sandbox.authority().server(&SERVER_NAMES)));
    let (_foreign, foreign) = registry(&cluster, Some(other.server(&SERVER_NAMES)));
    let (_elsewhere, elsewhere) =
        registry(&cluster, Some(cluster.sandbox.authority().server(&["registry.example.com"])));
    let (_expired, expired) =
        registry(&cluster, Some(cluster.sandbox.authority().expired_server(&SERVER_NAMES)));
    let (_plain, plain) = registry(&cluster, None);
    let (_page, page) = login_page(&cluster);
    let run = |url: &str, port: &str, args: &[&str]| {
        let url = format!("--registry-url={}", url.replace("PORT", port));
        let plugin = cluster.plugin("pruner").args(["--confirm", &url]).args(args);
        plugin.file("ca.crt", cluster.sandbox.ca_pem()).file("other-ca.crt", other.pem()).run()
    };
    let other_ca = "--certificate-authority=other-ca.crt";
    let mut table = Table::default();
    for (name, ran, code, stderr) in [
        (
            "unknown CA",
            run("https://localhost:PORT", &foreign, &[]),
            1,
            r#"
error: failed to ping registry https://localhost:PORT: Get "https://localhost:PORT/": tls: failed to verify certificate: x509: certificate signed by unknown authority
hint: name the CA that signed the registry's certificate: --certificate-authority=<file>
hint: Append --force-insecure if you really want to prune the registry using insecure connection.
"#,
        ),
        (
            "wrong CA",
            run("https://localhost:PORT", &foreign, &[CA]),
            1,
            r#"
error: failed to ping registry https://localhost:PORT: Get "https://localhost:PORT/": tls: failed to verify certificate: x509: certificate signed by unknown authority
hint: another CA than the one in --certificate-authority signed the registry's certificate
hint: of the service: oc get configmap openshift-service-ca.crt -n openshift-image-registry -o jsonpath='{.data.service-ca\.crt}'
hint: of a route: oc extract secret/router-ca -n openshift-ingress-operator --keys=tls.crt --to=-
"#,
        ),
        (
            "wrong CA, private address",
            run("127.0.0.1:PORT", &foreign, &[CA]),
            1,
            r#"
error: failed to ping registry 127.0.0.1:PORT: Get "https://127.0.0.1:PORT/": tls: failed to verify certificate: x509: certificate signed by unknown authority
hint: another CA than the one in --certificate-authority signed the registry's certificate
hint: of the service: oc get configmap openshift-service-ca.crt -n openshift-image-registry -o jsonpath='{.data.service-ca\.crt}'
hint: of a route: oc extract secret/router-ca -n openshift-ingress-operator --keys=tls.crt --to=-
"#,
        ),
        (
            "certificate for another host",
            run("https://127.0.0.1:PORT", &elsewhere, &[]),
            1,
            r#"
error: failed to ping registry https://127.0.0.1:PORT: Get "https://127.0.0.1:PORT/": tls: failed to verify certificate: x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs
hint: use the name that the certificate is for: --registry-url=https://<name>[:<port>]
"#,
        ),
        (
            "expired certificate",
            run("https://localhost:PORT", &expired, &[]),
            1,
            r#"
error: failed to ping registry https://localhost:PORT: Get "https://localhost:PORT/": tls: failed to verify certificate: x509: certificate has expired or is not yet valid: certificate expired: verification time N (UNIX), but certificate is not valid after 1451606400 (N seconds ago)
hint: have the registry's certificate renewed
hint: Append --force-insecure if you really want to prune the registry using insecure connection.
"#,
        ),
        (
            "https registry spoken to in http",
            run("http://localhost:PORT", &trusted, &[]),
            1,
            r"
error: failed to ping registry http://localhost:PORT: unexpected status: 400 Bad Request
hint: if it is an https server: --registry-url=https://localhost:PORT
",
        ),
        (
            "http server behind https",
            run("https://localhost:PORT", &plain, &[]),
            1,
            r#"
error: failed to ping registry https://localhost:PORT: Get "https://localhost:PORT/": http: server gave HTTP response to HTTPS client
hint: speak plain http to it: --registry-url=http://localhost:PORT
"#,
        ),
        (
            "http server, https and --force-insecure",
            run("https://localhost:PORT", &plain, &["--force-insecure"]),
            1,
            r#"
error: failed to ping registry https://localhost:PORT: Get "https://localhost:PORT/": http: server gave HTTP response to HTTPS client
hint: speak plain http to it: --registry-url=http://localhost:PORT
"#,
        ),
        (
            "http server, no scheme, with a CA",
            run("localhost:PORT", &plain, &[other_ca]),
            1,
            r#"
error: failed to ping registry localhost:PORT: Get "https://localhost:PORT/": http: server gave HTTP response to HTTPS client
hint: speak plain http to it: --registry-url=http://localhost:PORT, and leave --certificate-authority out: it forbids http
"#,
        ),
        (
            "no registry listens",
            run("https://127.0.0.1:PORT", "1", &[]),
            1,
            r#"
error: failed to ping registry https://127.0.0.1:1: Get "https://127.0.0.1:1/": dial tcp 127.0.0.1:1: connect: connection refused
hint: check the host and the port in --registry-url=https://127.0.0.1:1
hint: reach it by a route, or else through the API server: --registry-via=auto
hint: a route from outside the cluster: oc get route -n openshift-image-registry -o jsonpath='{.items[*].spec.host}'
hint: make a route if there is none: oc patch configs.imageregistry.operator.openshift.io/cluster --type=merge -p '{"spec":{"defaultRoute":true}}'
"#,
        ),
        (
            "nobody listens, no scheme",
            run("127.0.0.1:PORT", "1", &[]),
            1,
            r#"
error: failed to ping registry 127.0.0.1:1: Get "https://127.0.0.1:1/": dial tcp 127.0.0.1:1: connect: connection refused
hint: check the host and the port in --registry-url=127.0.0.1:1
hint: reach it by a route, or else through the API server: --registry-via=auto
hint: a route from outside the cluster: oc get route -n openshift-image-registry -o jsonpath='{.items[*].spec.host}'
hint: make a route if there is none: oc patch configs.imageregistry.operator.openshift.io/cluster --type=merge -p '{"spec":{"defaultRoute":true}}'
"#,
        ),
        (
            "no such registry host",
            run("https://no-such-host.invalid:5000", "", &[]),
            1,
            r#"
error: failed to ping registry https://no-such-host.invalid:5000: Get "https://no-such-host.invalid:5000/": dial tcp: lookup no-such-host.invalid: no such host (Name or service not known)
hint: check the host and the port in --registry-url=https://no-such-host.invalid:5000
hint: reach it by a route, or else through the API server: --registry-via=auto
hint: a route from outside the cluster: oc get route -n openshift-image-registry -o jsonpath='{.items[*].spec.host}'
hint: make a route if there is none: oc patch configs.imageregistry.operator.openshift.io/cluster --type=merge -p '{"spec":{"defaultRoute":true}}'
"#,
        ),
        (
            "found from the cluster, and internal",
            cluster.plugin("pruner").arg("--confirm").run(),
            1,
            r#"
error: failed to ping registry image-registry.openshift-image-registry.svc:5000: Get "https://image-registry.openshift-image-registry.svc:5000/": dial tcp: lookup image-registry.openshift-image-registry.svc: no such host (Name or service not known)
  find a route to service image-registry in namespace openshift-image-registry: forbidden: routes.route.openshift.io is forbidden: User "pruner" cannot list resource "routes" in API group "route.openshift.io" in the namespace "openshift-image-registry"
  open a port-forward to the registry: no pod of the registry is ready
hint: Please provide a reachable route to the integrated registry using --registry-url.
hint: make a route if there is none: oc patch configs.imageregistry.operator.openshift.io/cluster --type=merge -p '{"spec":{"defaultRoute":true}}'
hint: for a route a right is missing: oc create role prune-images-list-routes --verb=list --resource=routes.route.openshift.io -n openshift-image-registry && oc adm policy add-role-to-user prune-images-list-routes <user> --role-namespace=openshift-image-registry -n openshift-image-registry
hint: see how its pods are: oc get pods -n openshift-image-registry
"#,
        ),
        (
            "a login page",
            run("https://localhost:PORT", &page, &[]),
            1,
            r"
error: failed to log in to registry https://localhost:PORT: https://localhost:PORT/v2/ answered 200 OK (a web page), but it is not an image registry
hint: the token was not sent; name the registry's own address: --registry-url=<host>[:<port>]
hint: a route from outside the cluster: oc get route -n openshift-image-registry -o jsonpath='{.items[*].spec.host}'
",
        ),
        (
            "an API server",
            run(&cluster.sandbox.api_url(), "", &[]),
            1,
            r#"
error: failed to log in to registry https://127.0.0.1:PORT: https://127.0.0.1:PORT/v2/ answered 403 Forbidden: {"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"forbidden: User \"system:anonymous\" cannot get path \"/v2/\"","reason":"Forbidden","details":{},"code":403}, but it is not an image registry
hint: the token was not sent; name the registry's own address: --registry-url=<host>[:<port>]
hint: a route from outside the cluster: oc get route -n openshift-image-registry -o jsonpath='{.items[*].spec.host}'
"#,
        ),
    ] {
        table.check(name, &ran, code, stderr);
    }
    table.finish();
    assert!(cluster.changes().is_empty(), "something was changed");
}

#[test]
fn a_registry_with_deletes_disabled_is_named() {
    let config = RegistryConfig { delete_enabled: false, ..RegistryConfig::default() };
    let cluster = Cluster::with(Config::default(), config);
    cluster.sandbox.load_objects(shop().into());
    cluster.seed();
    let ran = cluster.prune(&[KEEP_ONE]).exits(3);
    let grouped = "
  delete layer link: method not allowed: the registry has deletion disabled
    shop/";
    ran.says(grouped)
        .says(" object(s) could not be pruned\n")
        .says("hint: run the same command again, from here: what is left is tried again, also the links, of which only");
    // Links that nobody knows of any longer would stay behind: no image goes.
    assert!(cluster.changes().images.is_empty());
}

#[test]
fn a_list_that_may_not_be_read_stops_the_run() {
    let cluster = Cluster::of(shop());
    cluster.sandbox.access().deny("pruner", "list", "apps", "daemonsets");
    let mut table = Table::default();
    table.check(
        "403",
        &cluster.prune(&[]),
        1,
        r#"
error: list daemonsets.apps: forbidden: daemonsets.apps is forbidden: User "pruner" cannot list resource "daemonsets" in API group "apps" at the cluster scope
hint: oc adm policy add-cluster-role-to-user system:image-pruner pruner
"#
    );
    table.finish();
    assert!(cluster.changes().is_empty());
}

#[test]
fn a_user_without_any_right_hears_which_role_helps() {
    let cluster = Cluster::of(shop());
    // Lists are read at once: which one is refused first is chance.
    let nobody = cluster.plugin("nobody").run().exits(1);
    nobody
        .says(r#"is forbidden: User "nobody" cannot list resource ""#)
        .says("\nhint: oc adm policy add-cluster-role-to-user system:image-pruner nobody\n");
    let posing = cluster.plugin("pruner").arg("--as=admin").run().exits(1);
    posing
        .says(r#"User "pruner" cannot impersonate resource "users" in API group "" at the cluster scope"#)
        .says("see who may: oc adm policy who-can impersonate users\n");
    assert!(cluster.changes().is_empty());
}
