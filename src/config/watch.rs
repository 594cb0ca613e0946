//! Tells when a file of the configuration has changed on disk.
//!
//! Editors rename, Kubernetes swaps the symlink `..data`: so folders are watched, not files, and what counts is the
//! content. Where the system offers no notification (network file systems, no watches left) a poll does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::source::{Disk, Files};

/// How often files are compared without any notification.
const POLL: Duration = Duration::from_secs(10);
/// How long it must be quiet after a notification: several files are seldom written at once.
const QUIET: Duration = Duration::from_millis(200);
/// How long quiet is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Folders watched at most; files elsewhere are polled.
const MAX_FOLDERS: usize = 256;

/// Content of a file, as far as comparing goes; nothing when it cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Print(Option<[u8; 32]>);

impl Print {
    /// The print of a file that holds `content`, or cannot be read.
    pub fn of(content: Option<&[u8]>) -> Self {
        Self(content.and_then(|bytes| digest(&SHA256, bytes).as_ref().try_into().ok()))
    }

    fn take(file: &Path) -> Self {
        let bytes = Disk.read(file).map(zeroize::Zeroizing::new).ok();
        Self::of(bytes.as_ref().map(|bytes| bytes.as_slice()))
    }
}

/// Says nothing: what a short secret is could be guessed from its print.
impl fmt::Debug for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Print(..)")
    }
}

/// Files with what they held when they were read.
pub type Prints = BTreeMap<PathBuf, Print>;

/// Watches a set of files.
#[derive(Debug)]
pub struct Watcher {
    prints: Prints,
    folders: BTreeSet<PathBuf>,
    /// Owns the thread of the system's notifications, which ends with it.
    notify: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    /// Asks for a look without any notification; keeps the channel open when there is no `notify`.
    wake: mpsc::Sender<()>,
}

impl Watcher {
    /// Starts watching; what the files held when they were read is what later content is compared with.
    ///
    /// # Errors
    /// None today: without notifications of the system it polls. Kept for systems where watching may be refused.
    pub fn new(files: Prints) -> io::Result<Self> {
        let (sender, events) = mpsc::channel(1);
        let wake = sender.clone();
        let notify = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Reading the files is an event too, and ours.
            if !matches!(
                event,
                Ok(Event {
                    kind: EventKind::Access(_),
                    ..
                })
            ) {
                // A full channel already holds the news.
                let _ = wake.try_send(());
            }
        });
        let notify = notify
            .inspect_err(|error| tracing::warn!(%error, "no file notifications, configuration files are polled"))
            .ok();
        let mut watcher = Self {
            prints: BTreeMap::new(),
            folders: BTreeSet::new(),
            notify,
            events,
            wake: sender,
        };
        watcher.follow(files);
        Ok(watcher)
    }

    /// Watches these files from now on, and compares them with what they held when they were read: a change since then
    /// is not lost.
    pub fn follow(&mut self, files: Prints) {
        self.prints = files;
        self.watch_folders();
        // What changed before the folders were watched made no notification. A full channel already asks for a look.
        let _ = self.wake.try_send(());
    }

    /// Waits until the content of any file differs from what it was at the last call.
    ///
    /// # Cancel safety
    /// Cancel safe: what was seen is remembered only when it is returned.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                _ = self.events.recv() => self.wait_for_quiet().await,
                () = sleep(POLL) => {}
            }
            let files: Vec<_> = self.prints.keys().cloned().collect();
            let prints = tokio::task::spawn_blocking(move || {
                files
                    .into_iter()
                    .map(|file| {
                        let print = Print::take(&file);
                        (file, print)
                    })
                    .collect()
            });
            // A panic in there, or a runtime that shuts down: try again at the next poll.
            let Ok(prints) = prints.await else { continue };
            if prints != self.prints {
                self.prints = prints;
                // Symlinks may lead elsewhere now.
                self.watch_folders();
                return;
            }
        }
    }

    async fn wait_for_quiet(&mut self) {
        let end = Instant::now() + PATIENCE;
        while let Ok(Some(())) =
            timeout_at((Instant::now() + QUIET).min(end), self.events.recv()).await
        {
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// Watches the folder of each file, and the one its symlinks lead to.
    fn watch_folders(&mut self) {
        let Some(notify) = &mut self.notify else {
            return;
        };
        let mut wanted = BTreeSet::new();
        for file in self.prints.keys() {
            let resolved = file.canonicalize().ok();
            for path in std::iter::once(file.as_path()).chain(resolved.as_deref()) {
                let folder = match path.parent() {
                    Some(folder) if folder != Path::new("") => folder,
                    _ => Path::new("."),
                };
                if wanted.len() < MAX_FOLDERS {
                    wanted.insert(folder.to_owned());
                }
            }
        }
        for gone in self.folders.difference(&wanted) {
            // It may have been deleted, and its watch with it.
            let _ = notify.unwatch(gone);
        }
        let mut watched: BTreeSet<PathBuf> = self.folders.intersection(&wanted).cloned().collect();
        for new in wanted.difference(&self.folders) {
            match notify.watch(new, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(new.clone());
                }
                Err(error) => {
                    tracing::debug!(%error, folder = %new.display(), "folder is polled, not watched");
                }
            }
        }
        self.folders = watched;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path =
                std::env::temp_dir().join(format!("daypass-watch-{}-{number}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn join(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn waiting_may_move_between_threads() {
        fn is_send<T: Send>(_: T) {}
        let mut watcher = Watcher::new(Prints::new()).unwrap();
        is_send(watcher.changed());
    }

    fn held<const N: usize>(files: [&PathBuf; N]) -> Prints {
        files
            .into_iter()
            .map(|file| (file.clone(), Print::take(file)))
            .collect()
    }

    async fn changes(watcher: &mut Watcher) -> bool {
        tokio::time::timeout(Duration::from_secs(30), watcher.changed())
            .await
            .is_ok()
    }

    async fn stays(watcher: &mut Watcher) -> bool {
        tokio::time::timeout(Duration::from_millis(600), watcher.changed())
            .await
            .is_err()
    }

    #[tokio::test]
    async fn a_file_that_is_written_renamed_over_or_removed_has_changed() {
        let folder = Folder::new();
        let file = folder.join("daypass.yaml");
        fs::write(&file, "a").unwrap();
        let mut watcher = Watcher::new(held([&file])).unwrap();
        fs::write(&file, "b").unwrap();
        assert!(changes(&mut watcher).await, "written");
        let draft = folder.join("draft");
        fs::write(&draft, "c").unwrap();
        fs::rename(&draft, &file).unwrap();
        assert!(changes(&mut watcher).await, "renamed over");
        fs::remove_file(&file).unwrap();
        assert!(changes(&mut watcher).await, "removed");
        fs::write(&file, "d").unwrap();
        assert!(changes(&mut watcher).await, "came back");
    }

    #[tokio::test]
    async fn the_same_content_or_another_file_is_no_change() {
        let folder = Folder::new();
        let file = folder.join("daypass.yaml");
        fs::write(&file, "a").unwrap();
        let mut watcher = Watcher::new(held([&file])).unwrap();
        fs::write(&file, "a").unwrap();
        fs::write(folder.join("other"), "b").unwrap();
        assert!(stays(&mut watcher).await);
    }

    /// STANDARDS CFG-02: the files of a mounted Secret are symlinks through `..data`.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_swap_of_the_data_symlink_is_a_change() {
        use std::os::unix::fs::symlink;
        let folder = Folder::new();
        for (version, text) in [("..1", "old"), ("..2", "new")] {
            fs::create_dir(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("key"), text).unwrap();
        }
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/key", folder.join("key")).unwrap();
        let mut watcher = Watcher::new(held([&folder.join("key")])).unwrap();
        symlink("..2", folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        fs::remove_dir_all(folder.join("..1")).unwrap();
        assert!(changes(&mut watcher).await);
    }

    #[tokio::test]
    async fn a_change_between_reading_and_watching_is_not_lost() {
        let folder = Folder::new();
        let (a, b) = (folder.join("a"), folder.join("b"));
        fs::write(&a, "1").unwrap();
        fs::write(&b, "1").unwrap();
        let read = held([&a]);
        fs::write(&a, "2").unwrap();
        let mut watcher = Watcher::new(read).unwrap();
        assert!(changes(&mut watcher).await, "at the start");
        let read = held([&a, &b]);
        fs::write(&b, "2").unwrap();
        watcher.follow(read);
        assert!(changes(&mut watcher).await, "the new file");
        watcher.follow(held([&a]));
        fs::write(&b, "3").unwrap();
        assert!(stays(&mut watcher).await, "no longer followed");
    }
}
