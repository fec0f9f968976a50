//! `kubectl krew install --manifest=F --archive=A` and `uninstall`, step by step as krew does them, without a network.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::archive::{self, entries};
use crate::manifest::{FileOperation, Manifest, check, clean};

/// A `KREW_ROOT`.
pub(crate) struct Krew<'a> {
    pub(crate) root: &'a Path,
    /// `KREW_OS` and `KREW_ARCH`, or the host's.
    pub(crate) platform: (&'a str, &'a str),
}

impl Krew<'_> {
    fn link(&self, name: &str) -> PathBuf {
        let exe = if self.platform.0 == "windows" { ".exe" } else { "" };
        self.root.join("bin").join(format!("kubectl-{}{exe}", name.replace('-', "_")))
    }

    fn receipt(&self, name: &str) -> PathBuf {
        self.root.join("receipts").join(format!("{name}.yaml"))
    }

    /// What krew says on stderr.
    pub(crate) fn install(&self, manifest: &Manifest, archive: &[u8]) -> Result<String, String> {
        let Manifest { metadata, spec, .. } = manifest;
        let name = &metadata.name;
        // 1. The folders.
        for folder in ["store", "bin", "index", "receipts"] {
            fs::create_dir_all(self.root.join(folder)).unwrap();
        }
        // 2. The manifest, its name against itself.
        check(manifest, &format!("{name}.yaml"))?;
        // 3. What is installed already is left alone.
        if self.receipt(name).exists() {
            return Ok(format!("Skipping plugin {name:?}, it is already installed\n"));
        }
        // 4. The first platform that fits.
        let (os, arch) = self.platform;
        let platform = spec.platforms.iter().find(|platform| platform.matches(os, arch));
        let platform = platform.ok_or_else(|| format!("does not offer installation for {os}/{arch}"))?;
        // 5. Checksum, extraction into one folder, the files into a second one, which becomes the installation.
        if archive::sha256(archive) != platform.sha256 {
            return Err("checksum does not match".to_owned());
        }
        let (extracted, staged) = (self.root.join("extracted"), self.root.join("staged"));
        fs::create_dir_all(&extracted).unwrap();
        fs::create_dir_all(&staged).unwrap();
        for entry in entries(archive)? {
            let path = extracted.join(&entry.name);
            if entry.is_folder {
                fs::create_dir_all(&path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, &entry.content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).unwrap();
            }
        }
        let everything = [FileOperation { from: "*".to_owned(), to: ".".to_owned() }];
        for operation in platform.files.as_deref().unwrap_or(&everything) {
            move_files(&extracted, &staged, operation)?;
        }
        let installed = self.root.join("store").join(name).join(&spec.version);
        fs::create_dir_all(installed.parent().unwrap()).unwrap();
        fs::rename(&staged, &installed).unwrap();
        fs::remove_dir_all(&extracted).unwrap();
        // 6. The link to the program.
        let program = installed.join(clean(&platform.bin));
        if !program.is_file() {
            return Err(format!("{} is not in the archive", platform.bin));
        }
        let link = self.link(name);
        match fs::symlink_metadata(&link) {
            Ok(found) if found.is_symlink() => fs::remove_file(&link).unwrap(),
            Ok(_) => return Err(format!("{} is no link", link.display())),
            Err(_) => {}
        }
        symlink(&program, &link).unwrap();
        // 7. The receipt, and what is said.
        let mut receipt = serde_json::to_value(manifest).unwrap();
        receipt["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        receipt["status"] = serde_json::json!({ "source": { "name": "detached" } });
        fs::write(self.receipt(name), serde_saphyr::to_string(&receipt).unwrap()).unwrap();
        Ok(format!(
            "Installing plugin: {name}\nInstalled plugin: {name}\n\\\n | Use this plugin:\n | \tkubectl {name}\n\
             | Documentation:\n | \t{}\n | Caveats:\n{}/\n",
            spec.homepage, spec.caveats
        ))
    }

    /// 8. The link, the store, the receipt, in that order.
    pub(crate) fn uninstall(&self, name: &str) {
        fs::remove_file(self.link(name)).unwrap();
        fs::remove_dir_all(self.root.join("store").join(name)).unwrap();
        fs::remove_file(self.receipt(name)).unwrap();
    }
}

/// `from` that exists is moved as it is; `*` moves all that is there. Ours has no other pattern.
fn move_files(from: &Path, to: &Path, operation: &FileOperation) -> Result<(), String> {
    let target = to.join(&operation.to);
    let moved: Vec<PathBuf> = match operation.from.as_str() {
        "*" => fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect(),
        name => vec![from.join(name)],
    };
    if moved.is_empty() || !moved.iter().all(|path| path.exists()) {
        return Err(format!("no file is called {}", operation.from));
    }
    for path in moved {
        fs::create_dir_all(&target).unwrap();
        fs::rename(&path, target.join(path.file_name().unwrap())).unwrap();
    }
    Ok(())
}
