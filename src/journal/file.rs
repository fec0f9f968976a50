//! Journals on disk: where they are, how one is written, which are found, and which are kept.
//!
//! Folders are of mode 0700 and files of 0600, made anew and never through a symbolic link; of the cluster nothing gets into
//! a path but the host of its API server, which comes from the kubeconfig.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;

use super::format::{self, End, Header, Object, PlannedStream, Record, Resumed, Step, Unreadable};
use crate::cause::io_text;

/// How many journals with nothing left to do are kept, and for how long: they hold what could be restored.
const KEPT: usize = 10;
const KEPT_DAYS: i64 = 30;

const EXTENSION: &str = "journal";

/// How much of a file's end is read at first to find its last line.
const TAIL: u64 = 64 << 10;

/// The folder that holds what belongs to one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// The folder of the cluster with this API server, whose certificates this authority signs, below
    /// `$XDG_STATE_HOME/oc-prune-images` (XDG Base Directory Specification); none if there is no home either.
    #[must_use]
    pub fn of(server: &str, authority: Option<&[u8]>) -> Option<Self> {
        Some(Self { folder: state_folder()?.join(Self::cluster_id(server, authority)) })
    }

    /// The host of the API server, and a number that tells clusters apart which are reached under the same name.
    #[must_use]
    pub fn cluster_id(server: &str, authority: Option<&[u8]>) -> String {
        let host = url::Url::parse(server).ok().and_then(|url| url.host_str().map(str::to_owned));
        let host: String = host
            .unwrap_or_else(|| "server".to_owned())
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' })
            .take(100)
            .collect();
        let number = fnv([server.as_bytes(), authority.unwrap_or_default()]);
        format!("{}-{:08x}", host.trim_start_matches('.'), number & 0xffff_ffff)
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of its folder.
    #[must_use]
    pub fn name(&self) -> String {
        self.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// It cannot be made, or is something else.
    pub fn make(&self) -> io::Result<()> {
        make_folder(&self.folder)
    }

    /// Where the journal of a run that starts now goes.
    #[must_use]
    pub fn new_path(&self, started: Timestamp) -> PathBuf {
        let name = format!("{}-{}.{EXTENSION}", started.strftime("%Y%m%dT%H%M%SZ"), std::process::id());
        self.folder.join(name)
    }

    /// The journals here, the oldest first. Files that are none are left out.
    #[must_use]
    pub fn journals(&self) -> Vec<Found> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        let mut found: Vec<Found> = paths.filter_map(|path| Found::look(&path).ok()).collect();
        found.sort_by(|a, b| (a.header.started, &a.path).cmp(&(b.header.started, &b.path)));
        found
    }

    /// Removes journals that nobody needs any longer: of runs that never began to change anything, and the oldest of
    /// those with nothing left to do.
    pub fn tidy(&self, now: Timestamp) {
        let found = self.journals();
        let oldest = now.checked_sub((KEPT_DAYS * 24).hours()).unwrap_or(now);
        let over =
            found.iter().filter(|found| matches!(found.standing, Standing::Finished(_) | Standing::Early(_)));
        let surplus = over.clone().count().saturating_sub(KEPT);
        let old =
            over.enumerate().filter(|(position, found)| *position < surplus || found.header.started < oldest);
        let void = found.iter().filter(|found| found.standing == Standing::Void);
        for found in old.map(|(_, found)| found).chain(void) {
            remove(&found.path);
        }
    }
}

/// `$XDG_STATE_HOME/oc-prune-images`.
fn state_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("oc-prune-images"))
}

/// FNV-1a: the same number in every version of the program.
fn fnv<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.into_iter().flat_map(|part| part.iter().chain([&0])) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    if std::fs::symlink_metadata(folder)?.is_dir() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotADirectory, "it is a symbolic link or no folder"))
}

/// Options for a file that nobody else may read, and that is no symbolic link.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        #[expect(clippy::cast_possible_wrap, reason = "a flag, not a number")]
        options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    }
    options
}

/// The file beside a journal that holds the objects as they were.
#[must_use]
pub fn objects_path(journal: &Path) -> PathBuf {
    let mut name = OsString::from(journal);
    name.push(".objects");
    name.into()
}

fn remove(journal: &Path) {
    // One that stays does no harm, and is found again.
    let _ = std::fs::remove_file(objects_path(journal));
    let _ = std::fs::remove_file(journal);
}

/// Makes what was written to a folder last.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Windows cannot open folders; its file system keeps their order by itself.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// What becomes of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The run goes on.
    Running,
    /// The run ended before it changed anything.
    Void,
    /// The run was cut short: it did not say how it ended.
    CutShort,
    /// It ended, and left something that only its journal knows of.
    Open(End),
    /// It was ended early or could not prune everything; the next run prunes the rest by itself.
    Early(End),
    /// Nothing is left.
    Finished(End),
}

impl Standing {
    /// Whether something is left that a plain prune does not find by itself.
    #[must_use]
    pub fn needs_resume(&self) -> bool {
        matches!(self, Self::CutShort | Self::Open(_))
    }
}

/// A journal that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub path: PathBuf,
    /// Who began it.
    pub header: Header,
    /// What becomes of it.
    pub standing: Standing,
}

impl Found {
    /// Reads the beginning and the end of a journal.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn look(path: &Path) -> Result<Self, Unreadable> {
        let file = private().read(true).open(path)?;
        let header = {
            let mut first = BufReader::new(&file);
            format::read(&mut format::first_line(&mut first)?.as_slice())?.header
        };
        let standing = if matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            Standing::Running
        } else {
            standing(last_record(file)?)
        };
        Ok(Self { path: path.to_owned(), header, standing })
    }
}

fn standing(last: Option<Record>) -> Standing {
    match last {
        None | Some(Record::Begin(_) | Record::Stream(_) | Record::Image { .. } | Record::Blob { .. }) => {
            Standing::Void
        }
        Some(Record::End(end)) if !end.is_clean() => Standing::Open(end),
        Some(Record::End(end)) if end.early.is_some() || end.failures > 0 => Standing::Early(end),
        Some(Record::End(end)) => Standing::Finished(end),
        Some(
            Record::Planned { .. }
            | Record::Decided(_)
            | Record::Done { .. }
            | Record::Note { .. }
            | Record::Resumed(_),
        ) => Standing::CutShort,
    }
}

/// The last whole line.
fn last_record(mut file: File) -> Result<Option<Record>, Unreadable> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut window = TAIL;
    loop {
        let start = length.saturating_sub(window);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        (&file).take(window).read_to_end(&mut tail)?;
        let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else {
            if start == 0 {
                return Ok(None);
            }
            window = window.saturating_mul(4);
            continue;
        };
        match tail[..end].iter().rposition(|byte| *byte == b'\n') {
            None if start > 0 => window = window.saturating_mul(4),
            begin => {
                let line = &tail[begin.map_or(0, |at| at + 1)..end];
                // Garbage at the end is found when the whole is read.
                return Ok(Some(serde_json::from_slice(line).unwrap_or(Record::Planned {
                    streams: 0,
                    images: 0,
                    blobs: 0,
                })));
            }
        }
    }
}

/// A journal that is being written.
///
/// A step is handed to the kernel as it is finished, so it outlives the process, but is not waited for until it is on the
/// disk: a machine that loses power may lose the last steps, which does no harm, because each can be done twice. What would
/// do harm is waited for: the plan, what was decided anew, notes.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    objects: Mutex<BufWriter<File>>,
    begun: Instant,
    /// Whether the plan is complete.
    complete: OnceLock<()>,
    /// Why something could not be written.
    trouble: OnceLock<String>,
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.complete.get().is_none() {
            remove(&self.path);
        }
    }
}

impl Journal {
    /// Begins a journal.
    ///
    /// # Errors
    /// The files cannot be made, or are there already.
    pub fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let file = private().append(true).create_new(true).open(path)?;
        let objects = private().append(true).create_new(true).open(objects_path(path));
        let objects = objects.inspect_err(|_| drop(std::fs::remove_file(path)))?;
        lock(&file)?;
        let journal = Self::new(path, file, objects);
        journal.write(&Record::Begin(header.clone()))?;
        Ok(journal)
    }

    fn new(path: &Path, file: File, objects: File) -> Self {
        Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            objects: Mutex::new(BufWriter::new(objects)),
            begun: Instant::now(),
            complete: OnceLock::new(),
            trouble: OnceLock::new(),
        }
    }

    /// Goes on with a journal whose first `whole` bytes are whole lines.
    ///
    /// # Errors
    /// It cannot be written, or another run is at it ([`io::ErrorKind::WouldBlock`]).
    pub fn resume(path: &Path, whole: u64, resumed: Resumed) -> io::Result<Self> {
        let file = private().append(true).open(path)?;
        lock(&file)?;
        file.set_len(whole)?;
        let objects = private().append(true).create(true).open(objects_path(path))?;
        let journal = Self::new(path, file, objects);
        // It was complete before.
        let _ = journal.complete.set(());
        journal.write(&Record::Resumed(resumed))?;
        journal.file().sync_all()?;
        Ok(journal)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn objects(&self) -> MutexGuard<'_, BufWriter<File>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As one write: what a reader finds is a whole line, or the torn last one.
    fn write(&self, record: &Record) -> io::Result<()> {
        let line = record.line()?;
        self.file().write_all(&line)
    }

    fn write_and_wait(&self, record: &Record) -> io::Result<()> {
        let line = record.line()?;
        let mut file = self.file();
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Writes the plan; nothing may be changed before [`Journal::complete`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn plan(
        &self,
        each: impl FnOnce(&mut dyn FnMut(&Record) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        let file = self.file();
        let mut out = BufWriter::with_capacity(1 << 18, &*file);
        each(&mut |record| out.write_all(&record.line()?))?;
        out.flush()
    }

    /// Keeps an object as it is. It is on its way to the disk when the next object is kept, or with [`Journal::complete`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(&self, object: &Object<'_>) -> io::Result<()> {
        let line = object.line()?;
        self.objects().write_all(&line)
    }

    /// The plan and the objects are complete, and on the disk.
    ///
    /// # Errors
    /// What the file system says: nothing may be changed.
    pub fn complete(&self, streams: usize, images: usize, blobs: usize) -> io::Result<()> {
        {
            let mut objects = self.objects();
            objects.flush()?;
            objects.get_ref().sync_all()?;
        }
        self.write_and_wait(&Record::Planned { streams, images, blobs })?;
        sync_folder(&self.path)?;
        let _ = self.complete.set(());
        Ok(())
    }

    /// Keeps a stream as it is before it is updated. It outlives the process from then on.
    ///
    /// # Errors
    /// What the file system says: the stream may not be updated.
    pub fn before_update(&self, object: &Object<'_>) -> io::Result<()> {
        let line = object.line()?;
        let mut objects = self.objects();
        objects.write_all(&line)?;
        objects.flush()
    }

    /// Writes down what was decided anew, and waits until it is on the disk.
    ///
    /// # Errors
    /// What the file system says: the stream may not be updated.
    pub fn decided(&self, stream: PlannedStream) -> io::Result<()> {
        self.write_and_wait(&Record::Decided(stream))
    }

    /// Writes down a finished step. That it cannot be written is kept for [`Journal::trouble`].
    pub fn done(&self, step: Step) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = self.write(&Record::Done { step, ms }) {
            let _ = self.trouble.set(io_text(&error));
        }
    }

    /// Remembers something for the next run, should this one be cut short; null takes it back.
    ///
    /// # Errors
    /// What the file system says: what it is for may not be changed.
    pub fn note(&self, name: &str, value: Value) -> io::Result<()> {
        self.write_and_wait(&Record::Note { name: name.to_owned(), value })
    }

    /// The run has ended.
    ///
    /// # Errors
    /// What the file system says: the next run takes it for one that was cut short.
    pub fn end(&self, end: End) -> io::Result<()> {
        self.write_and_wait(&Record::End(end))
    }

    /// Why steps could not be written, if that was so.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }
}

/// When the last step of a journal was written: no request was begun after it, and what was under way has ended a while
/// later.
#[must_use]
pub fn last_write(path: &Path) -> Option<SystemTime> {
    const UNDER_WAY: Duration = Duration::from_secs(60);
    std::fs::metadata(path).ok()?.modified().ok()?.checked_add(UNDER_WAY)
}

/// Takes the lock of a file; a file system that knows none is trusted.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => {
            tracing::info!("files cannot be locked here: {error}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Selection, read};

    fn header(started: Timestamp) -> Header {
        Header {
            version: format::VERSION,
            program: "0.1.0".into(),
            server: "https://api:6443".into(),
            cluster: "api-1".into(),
            user: "admin".into(),
            host: "laptop".into(),
            pid: 7,
            started,
            selection: Selection {
                now: started,
                keep_tag_revisions: None,
                keep_younger_than: None,
                all: true,
                namespace: None,
                selector: None,
                referrers_from: Vec::new(),
                prune_registry: true,
                ignore_invalid_refs: false,
            },
        }
    }

    fn end() -> End {
        End { at: Timestamp::UNIX_EPOCH, early: None, failures: 0, orphans: 0, cache_may_lie: false }
    }

    fn place() -> (tempfile::TempDir, Place) {
        let home = tempfile::tempdir().unwrap();
        let place = Place { folder: home.path().join("state/oc-prune-images/api-1") };
        place.make().unwrap();
        (home, place)
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_cluster_has_a_folder_whose_name_does_no_harm() {
        let id = |server: &str| Place::cluster_id(server, None);
        assert!(id("https://api.example.com:6443").starts_with("api.example.com-"));
        assert_ne!(id("https://api.example.com:6443"), id("https://api.example.com:443"));
        assert_ne!(id("https://h:1"), Place::cluster_id("https://h:1", Some(b"other")));
        for server in ["https://[::1]:6443", "https://..", "../../etc", "https://h/../..", ""] {
            let id = id(server);
            let harmless = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            assert!(id.chars().all(harmless) && !id.starts_with('.'), "{server}: {id}");
        }
        assert_eq!(id("https://api:6443"), "api-e5e6c4ab".to_owned(), "it must stay the same for ever");
    }

    #[test]
    fn a_journal_goes_from_void_to_finished() {
        let (_home, place) = place();
        let path = place.new_path(second(7));
        let journal = Journal::create(&path, &header(second(7))).unwrap();
        let standing = || place.journals().into_iter().map(|found| found.standing).collect::<Vec<_>>();
        assert_eq!(standing(), [Standing::Running]);
        drop(journal);
        assert_eq!(standing(), [], "what was never complete is no use to anybody");

        let journal = Journal::create(&path, &header(second(7))).unwrap();
        journal.complete(0, 0, 0).unwrap();
        assert!(Journal::create(&path, &header(second(7))).is_err(), "it is never written over");
        journal.done(Step::Image { name: "x".into() });
        let is_private = |path: &Path| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::metadata(path).unwrap().permissions().mode().trailing_zeros() >= 6
        };
        assert!(is_private(&path) && is_private(&objects_path(&path)) && is_private(place.folder()));
        drop(journal);
        assert_eq!(standing(), [Standing::CutShort]);

        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(br#"{"record":"do"#).unwrap();
        assert_eq!(standing(), [Standing::CutShort]);
        let loaded = read(BufReader::new(File::open(&path).unwrap())).unwrap();
        let resumed = Resumed { user: "b".into(), host: "c".into(), pid: 8, started: second(9) };
        let journal = Journal::resume(&path, loaded.whole, resumed.clone()).unwrap();
        let twice = Journal::resume(&path, loaded.whole, resumed).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::WouldBlock);
        journal.end(End { orphans: 1, ..end() }).unwrap();
        drop(journal);
        assert_eq!(standing(), [Standing::Open(End { orphans: 1, ..end() })]);
        let loaded = read(BufReader::new(File::open(&path).unwrap())).unwrap();
        assert_eq!((loaded.steps, loaded.resumed.len(), loaded.end.unwrap().orphans), (1, 1, 1));
    }

    #[test]
    fn the_last_line_is_found_however_long_it_is() {
        let (_home, place) = place();
        for length in [0, 10, 70_000, 600_000] {
            let path = place.new_path(second(length));
            let journal = Journal::create(&path, &header(second(length))).unwrap();
            journal.complete(0, 0, 0).unwrap();
            let early = Some("x".repeat(usize::try_from(length).unwrap()));
            journal.end(End { early: early.clone(), ..end() }).unwrap();
            drop(journal);
            assert_eq!(Found::look(&path).unwrap().standing, Standing::Early(End { early, ..end() }));
        }
    }

    #[test]
    fn old_journals_go_unless_something_is_left() {
        let (_home, place) = place();
        let begin = |at: i64| {
            let journal = Journal::create(&place.new_path(second(at)), &header(second(at))).unwrap();
            journal.complete(0, 0, 0).unwrap();
            journal
        };
        drop(begin(1));
        for at in 2..16 {
            begin(at).end(end()).unwrap();
        }
        std::fs::write(place.folder().join("notes.journal"), "mine").unwrap();
        let running = begin(16);
        place.tidy(second(20));
        let left = || -> Vec<i64> {
            place.journals().iter().map(|found| found.header.started.as_second()).collect()
        };
        assert_eq!(left(), [1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        place.tidy(second(KEPT_DAYS * 86400 + 15));
        assert_eq!(left(), [1, 15, 16]);
        assert!(place.folder().join("notes.journal").exists());
        drop(running);
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let (home, place) = place();
        let target = home.path().join("target");
        std::fs::write(&target, "").unwrap();
        let path = place.new_path(second(1));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(Journal::create(&path, &header(second(1))).is_err());
        assert!(Found::look(&path).is_err());
        let elsewhere = home.path().join("elsewhere");
        std::os::unix::fs::symlink(place.folder(), &elsewhere).unwrap();
        assert!(Place { folder: elsewhere }.make().is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"");
    }
}
