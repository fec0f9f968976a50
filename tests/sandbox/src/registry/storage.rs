//! The storage directory, in distribution's own file-system layout, so that a real `docker-registry` process can
//! serve the same directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::digest::Digest;

const ROOT: &str = "/docker/registry/v2";

/// Which set of links of a repository: its layers (configs included) or its manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `_layers`
    Layer,
    /// `_manifests/revisions`
    Manifest,
}

/// Blobs, links, tags and unfinished uploads below one directory.
#[derive(Clone, Debug)]
pub struct Storage {
    directory: PathBuf,
}

impl Storage {
    /// The storage in `directory`, which need not exist yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every blob that has data.
    #[must_use]
    pub fn blobs(&self) -> BTreeSet<Digest> {
        self.digests(&format!("{ROOT}/blobs"), 1, "data")
    }

    /// Every repository that has or had a link, a tag or an upload.
    #[must_use]
    pub fn repositories(&self) -> BTreeSet<String> {
        let root = format!("{ROOT}/repositories");
        let mut found = BTreeSet::new();
        let mut open = vec![String::new()];
        while let Some(prefix) = open.pop() {
            for entry in self.entries(&format!("{root}/{prefix}")) {
                if entry.starts_with('_') {
                    found.insert(prefix.trim_end_matches('/').to_owned());
                } else {
                    open.push(format!("{prefix}{entry}/"));
                }
            }
        }
        found
    }

    /// The layers and configs linked in a repository.
    #[must_use]
    pub fn layer_links(&self, repository: &str) -> BTreeSet<Digest> {
        self.digests(&links_path(Link::Layer, repository), 0, "link")
    }

    /// The manifests linked in a repository.
    #[must_use]
    pub fn manifest_links(&self, repository: &str) -> BTreeSet<Digest> {
        self.digests(&links_path(Link::Manifest, repository), 0, "link")
    }

    /// The tags written in a repository. The image stream, not the storage, says what a tag names.
    #[must_use]
    pub fn tags(&self, repository: &str) -> BTreeSet<String> {
        self.entries(&tags_path(repository)).into_iter().collect()
    }

    /// Removes a repository with all its links and says whether there was one.
    pub fn delete_repository(&self, repository: &str) -> io::Result<bool> {
        found(fs::remove_dir_all(self.file(&format!("{ROOT}/repositories/{repository}"))))
    }

    /// The size of a blob that has data.
    #[must_use]
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.file(&data_path(digest))).ok().filter(fs::Metadata::is_file).map(|data| data.len())
    }

    /// A blob's data, if there is any.
    #[must_use]
    pub fn read_blob(&self, digest: &Digest) -> Option<Bytes> {
        fs::read(self.file(&data_path(digest))).ok().map(Bytes::from)
    }

    /// Stores `bytes` under their SHA-256 digest.
    pub fn put_blob(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest).is_none() {
            self.write(&data_path(&digest), bytes)?;
        }
        Ok(digest)
    }

    /// Removes a blob's data and says whether there was any.
    pub fn delete_blob(&self, digest: &Digest) -> io::Result<bool> {
        found(fs::remove_dir_all(self.file(&blob_path(digest))))
    }

    /// Whether a repository has the link.
    #[must_use]
    pub fn is_linked(&self, link: Link, repository: &str, digest: &Digest) -> bool {
        self.file(&link_path(link, repository, digest)).is_file()
    }

    /// Links a blob into a repository, whether or not it has data.
    pub fn link(&self, link: Link, repository: &str, digest: &Digest) -> io::Result<()> {
        self.write(&link_path(link, repository, digest), digest.as_str().as_bytes())
    }

    /// Removes a link and says whether there was one. Tags that point at a manifest go with its link.
    pub fn unlink(&self, link: Link, repository: &str, digest: &Digest) -> io::Result<bool> {
        let removed = found(fs::remove_file(self.file(&link_path(link, repository, digest))))?;
        if link == Link::Manifest {
            for tag in self.tags(repository) {
                let tag = self.file(&format!("{}/{tag}", tags_path(repository)));
                if fs::read(tag.join("current/link"))
                    .is_ok_and(|current| current == digest.as_str().as_bytes())
                {
                    found(fs::remove_dir_all(tag))?;
                }
            }
        }
        Ok(removed)
    }

    /// Points a tag at a manifest.
    pub fn tag(&self, repository: &str, tag: &str, digest: &Digest) -> io::Result<()> {
        let directory = format!("{}/{tag}", tags_path(repository));
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        self.write(&format!("{directory}/index/{algorithm}/{hex}/link"), digest.as_str().as_bytes())?;
        self.write(&format!("{directory}/current/link"), digest.as_str().as_bytes())
    }

    /// Puts a file of `size` bytes under a digest that is not its own, for snapshots that name blobs whose contents
    /// nobody has, and links it. The file has holes only: it takes no room.
    pub fn seed_fake(
        &self,
        digest: &Digest,
        size: u64,
        layer_in: &[&str],
        manifest_in: &[&str],
    ) -> io::Result<()> {
        let path = self.file(&data_path(digest));
        create_parent(&path)?;
        fs::File::create(path)?.set_len(size)?;
        for repository in layer_in {
            self.link(Link::Layer, repository, digest)?;
        }
        for repository in manifest_in {
            self.link(Link::Manifest, repository, digest)?;
        }
        Ok(())
    }

    /// Begins an upload.
    pub(super) fn begin_upload(&self, repository: &str, id: &str, started_at: &str) -> io::Result<()> {
        let directory = upload_path(repository, id);
        self.write(&format!("{directory}/startedat"), started_at.as_bytes())?;
        self.write(&format!("{directory}/data"), &[])
    }

    /// How much of an upload has arrived; `None` for an upload that was not begun.
    pub(super) fn upload_size(&self, repository: &str, id: &str) -> Option<u64> {
        fs::metadata(self.file(&format!("{}/data", upload_path(repository, id)))).ok().map(|data| data.len())
    }

    /// Appends to an upload.
    pub(super) fn append_upload(&self, repository: &str, id: &str, bytes: &[u8]) -> io::Result<()> {
        let data = self.file(&format!("{}/data", upload_path(repository, id)));
        fs::OpenOptions::new().append(true).open(data)?.write_all(bytes)
    }

    /// Turns an upload into a linked blob, unless its content has another digest: then it is dropped, and the
    /// answer is `false`.
    pub(super) fn finish_upload(&self, repository: &str, id: &str, digest: &Digest) -> io::Result<bool> {
        let data = fs::read(self.file(&format!("{}/data", upload_path(repository, id))))?;
        let fits = Digest::of(&data) == *digest;
        if fits {
            self.put_blob(&data)?;
            self.link(Link::Layer, repository, digest)?;
        }
        self.cancel_upload(repository, id)?;
        Ok(fits)
    }

    /// Drops an upload.
    pub(super) fn cancel_upload(&self, repository: &str, id: &str) -> io::Result<()> {
        found(fs::remove_dir_all(self.file(&upload_path(repository, id)))).map(drop)
    }

    fn file(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    /// Writes a whole file or nothing: replicas read the same directory at the same time.
    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.file(path);
        create_parent(&path)?;
        let partial = path.with_extension(format!("{:016x}.partial", fastrand::u64(..)));
        fs::write(&partial, bytes)?;
        fs::rename(partial, path)
    }

    /// The names in a directory; one that is not there has none.
    fn entries(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.file(path)) else { return Vec::new() };
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }

    /// The digests `<root>/<algorithm>/…/<hex>` that hold `file`, with `shards` directory levels in between.
    fn digests(&self, root: &str, shards: usize, file: &str) -> BTreeSet<Digest> {
        let mut digests = BTreeSet::new();
        for algorithm in self.entries(root) {
            let mut directories = vec![format!("{root}/{algorithm}")];
            for _ in 0..shards {
                directories = directories
                    .iter()
                    .flat_map(|path| {
                        self.entries(path).into_iter().map(move |entry| format!("{path}/{entry}"))
                    })
                    .collect();
            }
            for directory in directories {
                for hex in self.entries(&directory) {
                    if self.file(&format!("{directory}/{hex}/{file}")).is_file() {
                        digests.extend(Digest::parse(&format!("{algorithm}:{hex}")));
                    }
                }
            }
        }
        digests
    }
}

/// The path of a blob's data as the storage driver names it in error messages.
pub(super) fn data_path(digest: &Digest) -> String {
    format!("{}/data", blob_path(digest))
}

/// The path of a link as the storage driver names it in error messages.
pub(super) fn link_path(link: Link, repository: &str, digest: &Digest) -> String {
    format!("{}/{}/{}/link", links_path(link, repository), digest.algorithm(), digest.hex())
}

pub(super) fn blob_path(digest: &Digest) -> String {
    let (algorithm, hex) = (digest.algorithm(), digest.hex());
    format!("{ROOT}/blobs/{algorithm}/{}/{hex}", hex.get(..2).unwrap_or_default())
}

fn links_path(link: Link, repository: &str) -> String {
    let set = match link {
        Link::Layer => "_layers",
        Link::Manifest => "_manifests/revisions",
    };
    format!("{ROOT}/repositories/{repository}/{set}")
}

fn tags_path(repository: &str) -> String {
    format!("{ROOT}/repositories/{repository}/_manifests/tags")
}

fn upload_path(repository: &str, id: &str) -> String {
    format!("{ROOT}/repositories/{repository}/_uploads/{id}")
}

fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn found(removal: io::Result<()>) -> io::Result<bool> {
    match removal {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
