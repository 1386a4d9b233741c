//! How are secrets kept in files, and how is a file replaced so that a crash leaves the old one or
//! the new one?
//!
//! ```text
//! readable_by_others  whether a key file is open to users that it does not concern
//! create_secret       mode 0600, never over an existing file, on disk when it returns
//! write_secret        mode 0600, from the start or from the end, for what grows
//! replace_atomically  write beside it, fsync, rename, fsync of the folder: the durable step of ratcheted keys
//! rewrite             the same for a configuration, whose mode stays
//! lock_folder         for who reads a file there to replace it
//! ```
//!
//! A file keeps its owner when root replaces it, and a new secret of root's belongs to the owner of
//! its folder: a service of another user has to get at both. What it does not do: erase what a disk
//! or a backup still holds of an old file. Elsewhere than on Unix there are no modes and owners
//! here, and no fsync of folders.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{process, tried};

/// The permission bits of an open file if users other than its owner can read it. (Asked of the
/// open file, not of the path, which could name another one by now.) A group that may read a file
/// of root's is one that root chose: a service's.
pub fn readable_by_others(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let others = if owner_of(&metadata).0 == 0 {
        0o004
    } else {
        0o044
    };
    Some(mode_of(&metadata) & 0o777).filter(|mode| mode & others != 0)
}

/// Where the configurations of services are, which belong to root.
const SERVICES: &str = "/etc/fernvpn";
/// The user and the group of services.
pub const SERVICE: &str = "fernvpn";

/// The user who will read this file, if one knows: the services' in their folder.
pub fn reader(path: &Path) -> Option<&'static str> {
    let path = std::path::absolute(path).ok()?;
    path.starts_with(SERVICES).then_some(SERVICE)
}

/// The command that gives a file with a secret to those who need it, and to nobody else.
pub fn command_to_close(path: &Path) -> String {
    let shown = path.display();
    match reader(path) {
        Some(group) => format!("chown root:{group} {shown} && chmod 640 {shown}"),
        None => format!("chmod 600 {shown}"),
    }
}

/// Creates a file with a secret in it that only its owner can read. An existing file is left alone:
/// it may hold the only copy of a key.
pub fn create_secret(path: &Path, text: &str) -> io::Result<()> {
    let shown = path.display();
    let owner = fs::metadata(folder_of(path))
        .ok()
        .filter(|_| process::is_root())
        .map(|folder| owner_of(&folder));
    let written = write_new(path, text.as_bytes(), 0o600, owner).and_then(|()| sync_folder(path));
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => io::Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "{shown} exists already and is left as it is: move it away, or choose another name"
            ),
        ),
        _ => tried(format_args!("cannot create {shown}"), &error),
    })
}

/// Opens a file that grows, for its owner only: at its end, or emptied. One that exists keeps its
/// mode.
pub fn write_secret(path: &Path, at_end: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    owner_only(
        options
            .create(true)
            .append(at_end)
            .write(true)
            .truncate(!at_end),
    );
    options
        .open(path)
        .map_err(|error| tried(format_args!("cannot write {}", path.display()), &error))
}

/// Puts `contents` in the place of `path`, whether it exists or not: after a crash at any moment
/// there is the old file or the new one, whole. When this returns, the new one is on disk. One
/// writer per path at a time.
pub fn replace_atomically(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    super::lock::about_to_wait("the disk");
    let cannot =
        |error: io::Error| tried(format_args!("cannot replace {}", path.display()), &error);
    // A symbolic link stays one: the file it points to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = beside(&target).map_err(cannot)?;
    let owner = fs::metadata(&target).ok().map(|old| owner_of(&old));
    // The name is always the same, so that what a crash left behind, perhaps a key, does not
    // outlive the next call. Removed rather than opened: somebody could have put a link there.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot(error)),
        _ => write_new(&temporary, contents, mode, owner).map_err(cannot)?,
    }
    let renamed = fs::rename(&temporary, &target).and_then(|()| sync_folder(&target));
    renamed.map_err(|error| {
        let _ = fs::remove_file(&temporary); // as best we can; the next call tries again
        cannot(error)
    })
}

/// The same with the mode that the file has.
pub fn rewrite(path: &Path, contents: &[u8]) -> io::Result<()> {
    let metadata = fs::metadata(path)
        .map_err(|error| tried(format_args!("cannot read {}", path.display()), &error))?;
    replace_atomically(path, contents, mode_of(&metadata))
}

/// Waits until no other fernvpn is about to change files in the folder of `path`, and keeps them
/// from it until the result is dropped. (The folder, because a file that is replaced takes its
/// locks along.)
pub fn lock_folder(path: &Path) -> io::Result<File> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = open_to_lock(folder_of(&target)).and_then(|file| file.lock().map(|()| file));
    folder.map_err(|error| {
        tried(
            format_args!("cannot lock the folder of {}", path.display()),
            &error,
        )
    })
}

/// Gives a file to the owner of another one, if this process may.
pub fn give(file: &File, like: &Path) {
    if let (Ok(now), Ok(like)) = (file.metadata(), fs::metadata(like)) {
        let _ = set_owner(file, &now, owner_of(&like));
    }
}

/// A new file, whole and on disk, or none.
fn write_new(path: &Path, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut file = open_new(path)?;
    let owned = file
        .metadata()
        .and_then(|now| set_owner(&file, &now, owner.unwrap_or(owner_of(&now))));
    // The mode after the owner, which takes bits of it away.
    let written = owned
        .and_then(|()| set_mode(&file, mode))
        .and_then(|()| file.write_all(contents));
    let written = written.and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path); // ours: created three lines above
    }
    written
}

/// `/folder/.name.new` for `/folder/name`.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    Ok(path.with_file_name(temporary))
}

fn folder_of(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

#[cfg(unix)]
fn mode_of(metadata: &fs::Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt;
    metadata.mode() & 0o7777
}

/// User and group.
#[cfg(unix)]
fn owner_of(metadata: &fs::Metadata) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    (metadata.uid(), metadata.gid())
}

/// Root may, others only where nothing changes.
#[cfg(unix)]
fn set_owner(file: &File, now: &fs::Metadata, owner: (u32, u32)) -> io::Result<()> {
    if owner_of(now) == owner {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(owner.0), Some(owner.1))
}

/// Created for its owner only; others are let in, if at all, by `set_mode` (the umask has no say in
/// that).
fn open_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    owner_only(options.write(true).create_new(true));
    options.open(path)
}

/// A file that these create has mode 0600.
#[cfg(unix)]
fn owner_only(options: &mut OpenOptions) {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}

#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// A new name in a folder is durable when the folder is.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// What is locked for a folder: the folder itself.
#[cfg(unix)]
fn open_to_lock(folder: &Path) -> io::Result<File> {
    File::open(folder)
}

/// What is locked for a folder: a file in it, since a folder cannot be locked here.
#[cfg(not(unix))]
fn open_to_lock(folder: &Path) -> io::Result<File> {
    let file = folder.join(".fernvpn.lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).open(file)
}

#[cfg(not(unix))]
fn mode_of(_metadata: &fs::Metadata) -> u32 {
    0
}

#[cfg(not(unix))]
fn owner_of(_metadata: &fs::Metadata) -> (u32, u32) {
    (1, 1)
}

#[cfg(not(unix))]
fn set_owner(_file: &File, _now: &fs::Metadata, _owner: (u32, u32)) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn owner_only(_options: &mut OpenOptions) {}

#[cfg(not(unix))]
fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A folder of its own for one test, gone afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("fernvpn-files-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_secret_is_created_once_and_read_back() {
        let folder = Folder::new("create");
        let path = folder.0.join("alice.key");
        create_secret(&path, "the key\n").unwrap();
        assert_eq!(mode(&path), 0o600);
        let again = create_secret(&path, "another").unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        assert!(again.to_string().contains("left as it is"), "{again}");
        assert_eq!(fs::read(&path).unwrap(), b"the key\n");
    }

    #[test]
    fn readers_among_others_are_noticed() {
        let folder = Folder::new("readers");
        let path = folder.0.join("key");
        create_secret(&path, "secret").unwrap();
        let of_group = (!process::is_root()).then_some(0o640); // root's groups are chosen
        for (bits, noticed) in [
            (0o600, None),
            (0o400, None),
            (0o640, of_group),
            (0o604, Some(0o604)),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!(
                readable_by_others(&File::open(&path).unwrap()),
                noticed,
                "{bits:o}"
            );
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_links_stay() {
        let folder = Folder::new("replace");
        let (path, link) = (folder.0.join("state"), folder.0.join("link"));
        replace_atomically(&path, b"one", 0o600).unwrap();
        fs::write(folder.0.join(".state.new"), "left by a crash").unwrap();
        symlink(&path, &link).unwrap();
        replace_atomically(&link, b"two", 0o640).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), mode(&path)),
            (b"two".to_vec(), 0o640)
        );
        assert_eq!(folder.names(), ["link", "state"]);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_failed_replacement_changes_nothing() {
        let folder = Folder::new("failed");
        let path = folder.0.join("state");
        fs::create_dir(&path).unwrap();
        assert!(replace_atomically(&path, b"two", 0o600).is_err());
        assert_eq!(folder.names(), ["state"]);
        assert!(replace_atomically(&folder.0.join("none/state"), b"two", 0o600).is_err());
    }
}
