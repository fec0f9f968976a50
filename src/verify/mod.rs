//! Whether images that stay can be pulled: their manifests, configs and layers, in each repository that uses them.
//!
//! Which questions there are is decided by [`places`] and [`sharing`], without I/O; [`verify`] asks the registry.

mod ask;
mod outcome;
mod select;

pub use ask::verify;
pub use outcome::{BrokenPart, PartKind, Problem, Verification, VerifiedBroken};
pub use select::{Check, Part, Place, check, places, sample, sharing};

/// `--verify`: which images are asked for after a prune.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extent {
    /// None.
    Off,
    /// Those that shared blobs with what was deleted, and of them these blobs and the manifests.
    #[default]
    Shared,
    /// All that were pushed to the integrated registry.
    All,
}

impl Extent {
    /// The values of the flag.
    pub const BY_NAME: [(&'static str, Self); 3] =
        [("off", Self::Off), ("shared", Self::Shared), ("all", Self::All)];
}
