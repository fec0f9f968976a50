//! Reads the cluster: all lists of `docs/decision.md`, paged, several in flight, each object reduced as it arrives.

mod decode;
mod lists;
mod read;
mod watch;
mod whole;

pub use lists::{
    Absence, Content, List, ListState, Parts, Read, read_lists, read_lists_selecting, read_pages,
};
pub use read::{
    Event, ResourceName, Scope, add_appeared, image_path, read, reduce_stream, reread_referrers,
    reread_streams, stream_path,
};
pub use watch::{News, Tell, Told, Watching};
pub use whole::whole_images;
