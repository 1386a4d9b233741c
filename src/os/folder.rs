//! How are files read, replaced and locked in a folder whose owner may swap every name in it?
//!
//! Root works in folders of the service's user (state files, `/run/fernvpn`). At any moment, that
//! user may replace a file by a link, a FIFO or another file. So a name is resolved once, to an
//! open folder, and everything else happens in that folder:
//!
//! ```text
//! find      a link is followed only if root or this user has made it
//! read      a regular file of root, this user or the folder's owner, without waiting for anybody
//! replace   beside it, fsync, rename, fsync of the folder
//! lock      a file that only its owner may open, with a deadline; who holds it is in the error
//! ```
//!
//! The path of an open folder is `/proc/self/fd/N`. Without `/proc`, and on systems other than
//! Linux, its own path has to be enough.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::platform::files::{without_waiting, without_waiting_or_links};
use super::{process, tried};

/// How long others may hold a lock. They read or write a few small files meanwhile.
pub const LOCK_TIME: Duration = Duration::from_secs(5);
/// The pause between two attempts to take a lock that others hold.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// The most links that lead to links, as in the kernel.
const MAX_LINKS: usize = 40;

/// A name in an open folder.
#[derive(Debug)]
pub struct Entry {
    folder: Option<File>,
    /// The path by which it was found, for people.
    path: PathBuf,
    name: OsString,
}

impl Entry {
    /// Resolves a path, and its last name if that is a link. The file need not exist.
    ///
    /// # Errors
    /// If there is no such folder, or a link of another user leads there.
    pub fn find(path: &Path) -> io::Result<Entry> {
        let mut entry = Entry::open(path, path)?;
        for _ in 0..MAX_LINKS {
            let inside = entry.inside(&entry.name);
            let link = fs::symlink_metadata(&inside).ok();
            let Some(link) = link.filter(Metadata::is_symlink) else {
                return Ok(entry);
            };
            if ![0, process::user()].contains(&owner_of(&link).0) {
                return Err(entry.refused("it is a link of another user"));
            }
            let to = fs::read_link(&inside)?;
            let shown = entry.path.with_file_name(&to);
            entry = Entry::open(&inside.with_file_name(to), &shown)?;
        }
        Err(entry.refused("too many links"))
    }

    /// Resolves the folder of a path. The last name stays as it is, link or not.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn at(path: &Path) -> io::Result<Entry> {
        Entry::open(path, path)
    }

    fn open(path: &Path, shown: &Path) -> io::Result<Entry> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
        Ok(Entry {
            folder: open_folder(folder_of(path))?,
            path: shown.to_owned(),
            name,
        })
    }

    /// The path by which it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A neighbour in the same folder.
    fn inside(&self, name: &OsStr) -> PathBuf {
        let open = self.folder.as_ref().map(by_number);
        match open.filter(|open| open.exists()) {
            Some(open) => open.join(name),
            None => self.path.with_file_name(name),
        }
    }

    /// The entry of a neighbour, by the prefix and the ending that its name has in addition.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn beside(&self, ending: &str) -> io::Result<Entry> {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(ending);
        Ok(Entry {
            folder: self.folder.as_ref().map(File::try_clone).transpose()?,
            path: self.path.with_file_name(&name),
            name,
        })
    }

    fn refused(&self, reason: &str) -> io::Error {
        io::Error::other(format!("{} is refused: {reason}", self.path.display()))
    }

    /// The metadata of the file, if it exists. A link is not followed.
    pub fn metadata(&self) -> io::Result<Metadata> {
        fs::symlink_metadata(self.inside(&self.name))
    }

    /// The metadata of the folder.
    ///
    /// # Errors
    /// It is gone.
    pub fn folder_metadata(&self) -> io::Result<Metadata> {
        match &self.folder {
            Some(folder) => folder.metadata(),
            None => fs::metadata(folder_of(&self.path)),
        }
    }

    /// Opens the file to read it.
    ///
    /// # Errors
    /// There is no file, or none that root should read here.
    pub fn read(&self) -> io::Result<File> {
        self.open_with(OpenOptions::new().read(true))
    }

    fn open_with(&self, options: &mut OpenOptions) -> io::Result<File> {
        let inside = self.inside(&self.name);
        without_waiting_or_links(options);
        let file = options.open(&inside).map_err(|error| {
            let is_link = fs::symlink_metadata(&inside).is_ok_and(|data| data.is_symlink());
            if is_link {
                self.refused("it has become a link")
            } else {
                error
            }
        })?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(self.refused("it is no regular file"));
        }
        let owner = owner_of(&metadata).0;
        let folder = self.folder_metadata()?;
        let others_write = mode_of(&folder) & 0o022 != 0;
        if [0, process::user(), owner_of(&folder).0].contains(&owner) || !others_write {
            Ok(file)
        } else {
            Err(self.refused("it belongs to another user"))
        }
    }

    /// Creates the file for its owner only, whatever the umask is. Another owner and mode may
    /// follow.
    ///
    /// # Errors
    /// `AlreadyExists`, or this process may not write to the folder.
    pub fn create(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        owner_only(options.write(true).create_new(true));
        options.open(self.inside(&self.name))
    }

    /// Creates the file with these bytes, which are on disk when this returns. Without an `owner`,
    /// it belongs to this user.
    ///
    /// # Errors
    /// `AlreadyExists`, or it cannot be written. There is no file then.
    pub fn write_new(
        &self,
        contents: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        let mut file = self.create()?;
        let owned = file
            .metadata()
            .and_then(|now| set_owner(&file, &now, owner.unwrap_or(owner_of(&now))));
        // The mode comes last, because a change of owner removes bits of it.
        let written = owned
            .and_then(|()| set_mode(&file, mode))
            .and_then(|()| file.write_all(contents));
        let written = written.and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = self.remove(); // this process created it a moment ago
        }
        written
    }

    /// Replaces the file by these bytes. After a crash at any moment, the old file or the new one
    /// is there as a whole. When this returns, the new one is on disk. There may be only one writer
    /// at a time.
    ///
    /// # Errors
    /// It cannot be written. It may be the old file or the new one then.
    pub fn replace(&self, contents: &[u8], mode: u32) -> io::Result<()> {
        let new = self.beside(".new")?;
        let owner = self.metadata().ok().map(|old| owner_of(&old));
        // The name is always the same, so that the next call removes what a crash has left, perhaps
        // a key. It removes the file and does not open it, because somebody could have put a link
        // there.
        match new.remove() {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => new.write_new(contents, mode, owner)?,
        }
        new.rename_to(self)
            .and_then(|()| self.sync_folder())
            .inspect_err(|_| {
                let _ = new.remove(); // the next call tries again
            })
    }

    /// Takes the name of a file in the same folder.
    ///
    /// # Errors
    /// This process may not write to the folder.
    pub fn rename_to(&self, other: &Entry) -> io::Result<()> {
        fs::rename(self.inside(&self.name), self.inside(&other.name))
    }

    /// # Errors
    /// There is no file, or this process may not write to the folder.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_file(self.inside(&self.name))
    }

    /// A new name in a folder is durable when the folder is.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync_folder(&self) -> io::Result<()> {
        self.folder.as_ref().map_or(Ok(()), File::sync_all)
    }

    /// Locks this file, and creates it if there is none. It has no other use.
    ///
    /// A new file belongs to the owner of `like`, so that a command of root does not lock out the
    /// service of another user. An existing file keeps its owner, but no other user may open it
    /// from now on.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds it for longer than `patience`. Otherwise it cannot be
    /// opened.
    pub fn lock(&self, like: &Metadata, patience: Duration) -> io::Result<FileLock> {
        let end = Instant::now() + patience;
        loop {
            let file = self.open_lock(like)?;
            match file.try_lock() {
                // The process that held it may have removed it.
                Ok(()) if self.metadata().is_ok_and(|now| is_same(&now, &file)) => {
                    return Ok(FileLock { file, gone: None });
                }
                Err(TryLockError::Error(error)) => return Err(error),
                _ if Instant::now() >= end => {
                    let text = format!("{} holds {}", holder(&file), self.path.display());
                    return Err(io::Error::new(ErrorKind::WouldBlock, text));
                }
                _ => thread::sleep(LOCK_PAUSE),
            }
        }
    }

    /// Keeps every other fernvpn from changing this file. The lock leaves no file behind.
    ///
    /// # Errors
    /// Fails if another process holds it for longer than [`LOCK_TIME`], or it cannot be made.
    pub fn lock_for_a_change(&self) -> io::Result<FileLock> {
        let shown = self.path.display();
        let like = self.metadata().or_else(|_| self.folder_metadata());
        let lock = self.beside(".lock")?;
        let locked = like.and_then(|like| lock.lock(&like, LOCK_TIME));
        let mut locked =
            locked.map_err(|error| tried(format_args!("cannot lock {shown}"), &error))?;
        locked.gone = Some(lock);
        Ok(locked)
    }

    fn open_lock(&self, like: &Metadata) -> io::Result<File> {
        match self.create() {
            Ok(new) => {
                if let Ok(now) = new.metadata() {
                    let _ = set_owner(&new, &now, owner_of(like)); // as far as this process may
                }
                Ok(new)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let file = self.open_with(OpenOptions::new().read(true).write(true))?;
                close_to_others(&file);
                Ok(file)
            }
            Err(error) => Err(error),
        }
    }
}

/// Group root may stay: it is root without the right to open every file.
fn close_to_others(file: &File) {
    if let Ok(metadata) = file.metadata() {
        let others = if owner_of(&metadata).1 == 0 {
            0o007
        } else {
            0o077
        };
        if mode_of(&metadata) & others != 0 {
            // After an error, the owner's next lock repeats this.
            let _ = set_mode(file, mode_of(&metadata) & !others);
        }
    }
}

/// Allows root without the right to open every file to use a lock in another user's folder.
#[cfg(unix)]
pub fn share_lock(folder: &Path) -> io::Result<()> {
    let lock = Entry::find(&folder.join(LOCK))?;
    let like = lock.folder_metadata()?;
    let file = lock.open_lock(&like)?;
    std::os::unix::fs::fchown(&file, Some(owner_of(&like).0), Some(0))?;
    set_mode(&file, 0o660)
}

/// The file that is locked for a whole folder.
const LOCK: &str = ".lock";

/// Keeps every other fernvpn from changing the files in a folder. It is for folders that no process
/// locks for long.
///
/// # Errors
/// Fails if another process holds it for longer than [`LOCK_TIME`], or it cannot be opened.
pub fn lock(folder: &Path) -> io::Result<FileLock> {
    let locked = Entry::find(&folder.join(LOCK))
        .and_then(|lock| lock.lock(&lock.folder_metadata()?, LOCK_TIME));
    locked.map_err(|error| tried(format_args!("cannot lock {}", folder.display()), &error))
}

/// A lock between processes, until this is dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    /// The file that is removed with it.
    gone: Option<Entry>,
}

/// Closing the file is not enough. A program that another thread starts at this moment has a copy
/// of it for a while.
impl Drop for FileLock {
    fn drop(&mut self) {
        if let Some(gone) = &self.gone {
            let _ = gone.remove();
        }
        let _ = self.file.unlock();
    }
}

/// The process that holds the lock of an open file, as far as the kernel tells.
pub fn holder(file: &File) -> String {
    let unknown = || "another program".to_owned();
    let Some(pid) = holder_pid(file) else {
        return unknown();
    };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match super::log::printable(name.trim()) {
        name if name.is_empty() => format!("process {pid}"),
        name => format!("process {pid} ({name})"),
    }
}

/// A line of the kernel's list is one lock: `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`.
/// The device may be another one than that of the file's metadata (btrfs, overlayfs).
pub(super) fn holder_pid(file: &File) -> Option<u32> {
    let inode = format!(":{}", inode_of(&file.metadata().ok()?));
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let mut lines = locks.lines().map(|line| line.split_ascii_whitespace());
    lines.find_map(|mut words| {
        let is_flock = words.nth(1)? == "FLOCK";
        let (pid, at) = (words.nth(2)?, words.next()?);
        (is_flock && at.ends_with(&inode)).then(|| pid.parse().ok())?
    })
}

/// Opens a file that its caller has named, which may be a pipe or a device of this user or root.
///
/// # Errors
/// There is no file, or another user could make a reader of it wait.
pub fn open_named(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    without_waiting(&mut options);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() || metadata.is_dir() {
        return Ok(file);
    }
    if ![0, process::user()].contains(&owner_of(&metadata).0) {
        return Err(io::Error::other(
            "it is no regular file, and belongs to another user",
        ));
    }
    // This opens the same file, and its reader waits for data.
    let again = by_number(&file);
    File::open(if again.exists() { &again } else { path })
}

pub(super) fn folder_of(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

#[cfg(unix)]
mod system {
    use super::{File, Metadata, OpenOptions, Path, PathBuf, fs, io, without_waiting};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};

    pub(in crate::os) fn mode_of(metadata: &Metadata) -> u32 {
        metadata.mode() & 0o7777
    }

    /// User and group.
    pub(in crate::os) fn owner_of(metadata: &Metadata) -> (u32, u32) {
        (metadata.uid(), metadata.gid())
    }

    pub(super) fn inode_of(metadata: &Metadata) -> u64 {
        metadata.ino()
    }

    pub(super) fn is_same(metadata: &Metadata, file: &File) -> bool {
        file.metadata()
            .is_ok_and(|own| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino()))
    }

    /// Root may change owners. For others, this only succeeds if nothing changes.
    pub(super) fn set_owner(file: &File, now: &Metadata, owner: (u32, u32)) -> io::Result<()> {
        if owner_of(now) == owner {
            return Ok(());
        }
        std::os::unix::fs::fchown(file, Some(owner.0), Some(owner.1))
    }

    pub(in crate::os) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(fs::Permissions::from_mode(mode))
    }

    /// A file that these create has mode 0600.
    pub(in crate::os) fn owner_only(options: &mut OpenOptions) {
        options.mode(0o600);
    }

    pub(super) fn open_folder(path: &Path) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        options.read(true);
        without_waiting(&mut options);
        options.open(path).map(Some)
    }

    pub(super) fn by_number(file: &File) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }
}

/// There are no owners, modes and inodes.
#[cfg(not(unix))]
mod system {
    use super::{File, Metadata, OpenOptions, Path, PathBuf, io};

    pub(in crate::os) fn mode_of(_: &Metadata) -> u32 {
        0
    }

    pub(in crate::os) fn owner_of(_: &Metadata) -> (u32, u32) {
        (0, 0)
    }

    pub(super) fn inode_of(_: &Metadata) -> u64 {
        0
    }

    pub(super) fn is_same(_: &Metadata, _: &File) -> bool {
        true
    }

    pub(super) fn set_owner(_: &File, _: &Metadata, _: (u32, u32)) -> io::Result<()> {
        Ok(())
    }

    pub(in crate::os) fn set_mode(_: &File, _: u32) -> io::Result<()> {
        Ok(())
    }

    pub(in crate::os) fn owner_only(_: &mut OpenOptions) {}

    pub(super) fn open_folder(_: &Path) -> io::Result<Option<File>> {
        Ok(None)
    }

    pub(super) fn by_number(_: &File) -> PathBuf {
        PathBuf::new()
    }
}

use system::{by_number, inode_of, is_same, open_folder, set_owner};
pub(super) use system::{mode_of, owner_of, owner_only, set_mode};

#[cfg(all(unix, not(fernvpn_portable)))]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{lchown, symlink};
    use std::process::Command;

    /// A folder of its own for one test, gone afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("fernvpn-folder-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        mode_of(&fs::metadata(path).unwrap())
    }

    #[test]
    fn a_lock_is_its_owners_and_says_who_holds_it() {
        let folder = Folder::new("lock");
        fs::write(folder.0.join(".lock"), "").unwrap();
        set_mode(&File::open(folder.0.join(".lock")).unwrap(), 0o644).unwrap();
        let held = lock(&folder.0).unwrap();
        assert_eq!(
            mode(&folder.0.join(".lock")) & 0o007,
            0,
            "others cannot open it"
        );
        let entry = Entry::find(&folder.0.join(".lock")).unwrap();
        let like = entry.folder_metadata().unwrap();
        let error = entry.lock(&like, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let holder = format!("process {} (", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        drop(held);
        drop(entry.lock(&like, Duration::ZERO).unwrap());
        // Anybody may lock the folder itself, which holds up nobody.
        let whole = File::open(&folder.0).unwrap();
        whole.lock().unwrap();
        drop(lock(&folder.0).unwrap());
    }

    #[test]
    fn a_lock_for_a_change_leaves_nothing_and_lets_one_in() {
        let folder = Folder::new("change");
        let path = folder.0.join("server.conf");
        fs::write(&path, "0").unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let entry = Entry::find(&path).unwrap();
                    let _lock = entry.lock_for_a_change().unwrap();
                    let mut text = String::new();
                    io::Read::read_to_string(&mut entry.read().unwrap(), &mut text).unwrap();
                    let next = text.parse::<u32>().unwrap() + 1;
                    entry.replace(next.to_string().as_bytes(), 0o600).unwrap();
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "8");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_is_swapped_leads_nowhere() {
        let folder = Folder::new("swapped");
        let (own, other) = (folder.0.join("own"), folder.0.join("other"));
        for path in [&own, &other] {
            fs::create_dir(path).unwrap();
        }
        let victim = other.join("state");
        fs::write(&victim, "untouched").unwrap();
        fs::write(own.join("state"), "one").unwrap();
        let entry = Entry::find(&own.join("state")).unwrap();
        // The file becomes a link.
        fs::remove_file(own.join("state")).unwrap();
        symlink(&victim, own.join("state")).unwrap();
        assert!(entry.read().is_err());
        entry.replace(b"two", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(own.join("state")).unwrap(), "two");
        // The folder becomes one.
        fs::rename(&own, folder.0.join("away")).unwrap();
        symlink(&other, &own).unwrap();
        entry.replace(b"three", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        let there = folder.0.join("away/state");
        assert_eq!(fs::read_to_string(there).unwrap(), "three");
    }

    #[test]
    fn nothing_but_a_regular_file_is_read_and_nobody_waits() {
        let folder = Folder::new("fifo");
        let path = folder.0.join("state");
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let error = Entry::find(&path).unwrap().read().unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        if process::is_root() {
            lchown(&path, Some(12345), Some(12345)).unwrap();
            let error = open_named(&path).unwrap_err();
            assert!(error.to_string().contains("another user"), "{error}");
            // A link of that user is not followed either.
            let link = folder.0.join("link");
            symlink("/etc/passwd", &link).unwrap();
            assert!(Entry::find(&link).is_ok());
            lchown(&link, Some(12345), Some(12345)).unwrap();
            let error = Entry::find(&link).unwrap_err();
            assert!(
                error.to_string().contains("link of another user"),
                "{error}"
            );
        }
    }
}
