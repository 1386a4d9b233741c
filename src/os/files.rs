//! How are secrets kept in files, and how is a file replaced so that a crash leaves the old one or
//! the new one?
//!
//! ```text
//! readable_by_others  whether a key file is open to users that it does not concern
//! create_secret       mode 0600, never over an existing file, on disk when it returns
//! write_secret        mode 0600, from the start or from the end, for what grows
//! replace_atomically  write beside it, fsync, rename, fsync of the folder
//! rewrite             the same for a configuration, whose mode stays
//! ```
//!
//! A file keeps its owner when root replaces it, and a new secret of root belongs to the owner of
//! its folder. A service of another user must be able to use both. This does not erase what a disk
//! or a backup still holds of an old file. On systems other than Unix, there are no modes, owners
//! or fsync of folders. Names that somebody else may swap are `folder`'s matter.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::folder::{Entry, mode_of, owner_of, owner_only};
use super::{process, tried};

/// The permission bits of an open file if users other than its owner can read it. It asks about the
/// open file, because the path could name another one by now. If a group may read a file of root,
/// root chose that group for a service.
pub fn readable_by_others(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let others = if owner_of(&metadata).0 == 0 {
        0o004
    } else {
        0o044
    };
    Some(mode_of(&metadata) & 0o777).filter(|mode| mode & others != 0)
}

/// The folder of the services' configurations, which belongs to root.
const SERVICES: &str = "/etc/fernvpn";
/// The user and the group of services.
pub const SERVICE: &str = "fernvpn";

/// The user who will read this file, if that is known. In the services' folder, it is their user.
pub fn reader(path: &Path) -> Option<&'static str> {
    let path = std::path::absolute(path).ok()?;
    path.starts_with(SERVICES).then_some(SERVICE)
}

/// The command that lets only those who need it read a file with a secret.
pub fn command_to_close(path: &Path) -> String {
    let shown = path.display();
    match reader(path) {
        Some(group) => format!("chown root:{group} {shown} && chmod 640 {shown}"),
        None => format!("chmod 600 {shown}"),
    }
}

/// Creates a file with a secret that only its owner can read. An existing file stays as it is,
/// because it may hold the only copy of a key.
pub fn create_secret(path: &Path, text: &str) -> io::Result<()> {
    let entry = Entry::at(path);
    let entry =
        entry.map_err(|error| tried(format_args!("cannot create {}", path.display()), &error))?;
    create_secret_at(&entry, text)
}

/// The same in an open folder.
pub fn create_secret_at(entry: &Entry, text: &str) -> io::Result<()> {
    let shown = entry.path().display();
    let folder = entry.folder_metadata().ok();
    let owner = folder
        .filter(|_| process::is_root())
        .map(|folder| owner_of(&folder));
    let written = entry
        .write_new(text.as_bytes(), 0o600, owner)
        .and_then(|()| entry.sync_folder());
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => io::Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "{shown} exists already and stays as it is. \
                 Try: move it away, or choose another name"
            ),
        ),
        _ => tried(format_args!("cannot create {shown}"), &error),
    })
}

/// Opens a file for its owner only, to append or emptied. An existing file keeps its mode.
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

/// Replaces or creates a file. After a crash at any moment, the old file or the new one is there as
/// a whole. When this returns, the new one is on disk. A file may have only one writer at a time.
pub fn replace_atomically(entry: &Entry, contents: &[u8], mode: u32) -> io::Result<()> {
    super::lock::about_to_wait("the disk");
    entry.replace(contents, mode).map_err(|error| {
        let shown = entry.path().display();
        tried(format_args!("cannot replace {shown}"), &error)
    })
}

/// The same with the mode of the existing file.
pub fn rewrite(entry: &Entry, contents: &[u8]) -> io::Result<()> {
    let metadata = entry.metadata().map_err(|error| {
        let shown = entry.path().display();
        tried(format_args!("cannot read {shown}"), &error)
    })?;
    replace_atomically(entry, contents, mode_of(&metadata))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

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

    fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
        replace_atomically(&Entry::find(path)?, contents, mode)
    }

    #[test]
    fn a_secret_is_created_once_and_read_back() {
        let folder = Folder::new("create");
        let path = folder.0.join("alice.key");
        create_secret(&path, "the key\n").unwrap();
        assert_eq!(mode(&path), 0o600);
        let again = create_secret(&path, "another").unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        assert!(again.to_string().contains("stays as it is"), "{again}");
        assert_eq!(fs::read(&path).unwrap(), b"the key\n");
    }

    #[test]
    fn readers_among_others_are_noticed() {
        let folder = Folder::new("readers");
        let path = folder.0.join("key");
        create_secret(&path, "secret").unwrap();
        let of_group = (!process::is_root()).then_some(0o640); // root chose these groups
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
        replace(&path, b"one", 0o600).unwrap();
        fs::write(folder.0.join(".state.new"), "left by a crash").unwrap();
        symlink(&path, &link).unwrap();
        replace(&link, b"two", 0o640).unwrap();
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
        assert!(replace(&path, b"two", 0o600).is_err());
        assert_eq!(folder.names(), ["state"]);
        assert!(replace(&folder.0.join("none/state"), b"two", 0o600).is_err());
    }
}
