//! What the registry half of the sandbox needs from the API server half.

/// What the registry asks of the cluster (the integrated registry asks the API server the same).
pub trait Cluster: Send + Sync + 'static {
    /// The user of a bearer token, if the token is valid.
    fn user(&self, token: &str) -> Option<String>;
    /// Whether the user may do `verb` on `resource/subresource` (group image.openshift.io) in the namespace
    /// ("" = cluster-wide), for the object `name` ("" = any).
    fn allowed(&self, user: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> bool;
    /// Whether the stream exists.
    fn stream_exists(&self, namespace: &str, name: &str) -> bool;
    /// Whether any tag event item of the stream (or a sub-manifest of an index it lists) names this image
    /// digest.
    fn stream_names_image(&self, namespace: &str, name: &str, digest: &str) -> bool;
    /// Whether any image the stream lists has this blob (layer or config), as `imagestreams/layers` says.
    fn stream_has_blob(&self, namespace: &str, name: &str, digest: &str) -> bool;
    /// Everything that `imagestreams/layers` names: the blobs and the images that the stream lists. A registry that has
    /// asked for one of them knows all of them then.
    fn stream_digests(&self, namespace: &str, name: &str) -> Vec<String>;
    /// The digest a tag's newest item names.
    fn stream_tag(&self, namespace: &str, name: &str, tag: &str) -> Option<String>;
    /// Called on a manifest PUT: creates the Image and the tag event item (tag is None for a push by digest),
    /// creates the stream if missing.
    fn image_pushed(&self, namespace: &str, name: &str, tag: Option<&str>, image: serde_json::Value);
    /// The Image object, if it exists.
    fn image(&self, digest: &str) -> Option<serde_json::Value>;
}
