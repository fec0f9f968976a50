//! What a run is about to delete, and what it has deleted, in a file that outlives it; and the lock that keeps a second
//! run away.
//!
//! The registry and the API know nothing of each other: links of a stream that was updated, and blobs of an image that was
//! deleted, are on nobody's list any longer. So the plan is on disk before the first change, and each finished step follows.
//! `format.rs` is what the file says (pure), `left.rs` what is left of it (pure), `file.rs` writes and finds files, `lock.rs`
//! keeps runs apart.

mod file;
mod format;
mod left;
mod lock;

pub use file::{Found, Journal, Place, Standing, last_write, objects_path};
pub use format::{
    End, Header, LinkKind, Loaded, Object, PlannedItem, PlannedStream, Record, Resumed, Selection, Step,
    Unreadable, VERSION as FORMAT_VERSION, export, objects, read,
};
pub use left::{Inherited, InheritedBlob, Planned, left, open_links, planned, planned_stream};
pub use lock::{Busy, Held, Holder, LEASE, Locks, Pace};
