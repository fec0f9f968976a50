//! The registry over the sandbox's own API server: what is pushed becomes objects there, and those decide what the
//! registry serves and deletes.

use std::sync::Arc;

use http::{Method, StatusCode};
use sandbox::registry::client::{Client, Credentials, Format};
use sandbox::registry::{Registry, RegistryConfig};
use sandbox::serve::listen;
use sandbox::tls::SERVER_NAMES;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

#[tokio::test]
async fn pushed_images_become_objects_which_decide_what_may_be_deleted() {
    let sandbox = Sandbox::start(Config::default());
    let directory = tempfile::tempdir().unwrap();
    let cluster = Arc::new(sandbox.api().clone());
    let registry = Registry::new(directory.path(), cluster, RegistryConfig::default()).await.unwrap();
    let serving = registry.replica().serve(
        &sandbox.runtime(),
        listen(),
        Some(sandbox.authority().server(&SERVER_NAMES)),
        sandbox.faults(),
        sandbox.request_log(),
    );
    let url = format!("https://{}", serving.address());
    let client = |user| Client::new(&url, Credentials::Basic(sandbox.token(user)), Some(&sandbox.ca_pem()));

    let config = json!({"architecture": "amd64", "config": {}});
    let layers = [b"a layer".to_vec()];
    let admin = client("admin");
    let image = admin.push_image("shop/web", None, Format::Oci, &layers, &config).await.unwrap();
    let refused = client("puller").pull_whole("shop/web", image.digest.as_str()).await;
    assert!(refused.is_err(), "no stream lists it yet");
    let index =
        admin.push_index("shop/web", Some("v1"), Format::Oci, &[(image.clone(), "amd64")]).await.unwrap();
    let pulled = client("puller").pull_whole("shop/web", "v1").await.unwrap();
    assert_eq!(pulled.digest, index.digest);
    assert_eq!(pulled.blobs.len(), 2);
    assert_eq!(sandbox.store().names("images").len(), 2);

    let pruner = client("pruner");
    assert!(pruner.pull_whole("shop/web", "v1").await.is_err());
    for digest in [&index.digest, &image.digest] {
        let path = format!("/v2/shop/web/manifests/{digest}");
        let delete = async || pruner.send(Method::DELETE, &path, &[], "").await.unwrap().status();
        assert_eq!(delete().await, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert!(
        sandbox
            .store()
            .update("imagestreams", "shop", "web", |stream| stream["status"]["tags"] = Value::Null)
    );
    for digest in [&index.digest, &image.digest] {
        let path = format!("/v2/shop/web/manifests/{digest}");
        assert_eq!(pruner.send(Method::DELETE, &path, &[], "").await.unwrap().status(), StatusCode::ACCEPTED);
    }
    assert!(registry.storage().manifest_links("shop/web").is_empty());
    let users =
        sandbox.request_log().filter(|entry| entry.method == Method::DELETE && entry.path.starts_with("/v2"));
    assert!(users.iter().all(|entry| entry.user.as_deref().is_some_and(|user| user.contains("pruner"))));
}
