//! How does a command ask a running fernvpn? Each instance has a Unix socket, which only its own
//! user and root may open. The question is one line. The answer is everything until the end of the
//! connection.
//!
//! ```text
//!  /run/fernvpn/NAME.sock              root's, and a service's
//!  $XDG_RUNTIME_DIR/fernvpn/NAME.sock  of those who may not write there; /run/user/UID without it
//!  /tmp/fernvpn-UID/NAME.sock          of those who have no such folder either
//!
//!  asks     status json\n
//!  answer   ok\n text …      or, if it was refused, no\n and the reason
//! ```
//!
//! The next instance of the same name replaces the socket that a crash has left, or `fernvpn
//! clean-up` removes it. Each asker has a thread of its own, so that an asker that does not read
//! holds up nobody.

use std::io;

#[cfg(unix)]
pub use system::{Control, ask, clear, names, running, share_folder};

#[cfg(unix)]
mod system {
    use super::io;
    use crate::os::platform::files::for_owner_only;
    use crate::os::{folder, log, process, reason};
    use std::fs::{self, Permissions};
    use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
    use std::net::Shutdown;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    /// How long a thread that cannot accept waits before it tries again.
    const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
    /// How long an asker may take to ask, or to read a part of the answer.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// How long an answer may take: a reload may have to wait for other programs.
    const ANSWER_TIME: Duration = Duration::from_secs(60);
    /// How long an instance may take to accept an asker.
    const CONNECT_TIME: Duration = Duration::from_secs(2);
    /// The most bytes of a question.
    const QUESTION: u64 = 128;
    /// The most bytes of an answer. The report of many thousand clients fits.
    const ANSWER: u64 = 1 << 28;
    /// The most askers at once. Further ones are refused.
    pub(super) const ASKERS: usize = 16;

    /// An instance's socket. It is removed when this is dropped.
    pub struct Control {
        listener: UnixListener,
        pub(super) path: PathBuf,
    }

    impl Control {
        /// Makes the socket of the instance `name`, and answers every question until this process
        /// ends.
        ///
        /// # Errors
        /// Fails if another instance has this name, the socket cannot be made, or no thread is
        /// left.
        pub fn open(
            name: &str,
            answer: impl Fn(&str) -> Result<String, String> + Send + Sync + 'static,
        ) -> io::Result<Control> {
            let mut reasons = Vec::new();
            for folder in own_folders() {
                match open_in(&folder, name) {
                    Ok(control) => {
                        control.serve(answer)?;
                        return Ok(control);
                    }
                    Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
                    Err(error) => reasons.push(error.to_string()),
                }
            }
            Err(io::Error::other(reasons.join("; ")))
        }

        pub(super) fn serve(
            &self,
            answer: impl Fn(&str) -> Result<String, String> + Send + Sync + 'static,
        ) -> io::Result<()> {
            let (listener, answer) = (self.listener.try_clone()?, Arc::new(answer));
            let asked = move || {
                loop {
                    match listener.accept() {
                        // Each asker's thread shares the function that answers.
                        Ok((asker, _)) if Arc::strong_count(&answer) <= ASKERS => {
                            let answer = Arc::clone(&answer);
                            let thread = thread::Builder::new().name("asker".into());
                            let _ = thread.spawn(move || reply(&asker, &*answer));
                        }
                        Ok(_) => {}
                        // No descriptor is left, which will not change at once.
                        Err(_) => thread::sleep(ACCEPT_PAUSE),
                    }
                }
            };
            thread::Builder::new()
                .name("control".into())
                .spawn(asked)
                .map(drop)
        }
    }

    impl Drop for Control {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Prepares the folder for root, before root gives up the right to write everywhere. If a
    /// service has made the folder, root's group may write there too.
    pub fn share_folder() {
        let folder = Path::new("/run/fernvpn");
        if process::is_root() && fs::metadata(folder).is_ok_and(|data| data.uid() != 0) {
            let _ = chown(folder, None, Some(0))
                .and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o775)))
                .and_then(|()| folder::share_lock(folder));
        }
    }

    /// The folders for sockets of this user's instances, the best one first.
    fn own_folders() -> Vec<PathBuf> {
        let user = process::user();
        let run = match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(folder) if !folder.is_empty() => PathBuf::from(folder),
            _ => PathBuf::from(format!("/run/user/{user}")),
        };
        let last = std::env::temp_dir().join(format!("fernvpn-{user}"));
        vec![PathBuf::from("/run/fernvpn"), run.join("fernvpn"), last]
    }

    /// The folders in which to look for instances. Root also finds those of other users.
    fn folders() -> Vec<PathBuf> {
        let mut folders = own_folders();
        folders.retain(|folder| !is_open_to_all(folder) || is_own(folder));
        if process::is_root() {
            let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
            let users = inside(Path::new("/run/user"));
            folders.extend(users.map(|user| user.path().join("fernvpn")));
            let others = inside(&std::env::temp_dir())
                .filter(|entry| {
                    entry
                        .file_name()
                        .as_encoded_bytes()
                        .starts_with(b"fernvpn-")
                })
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.extend(others.map(|entry| entry.path()));
        }
        folders.sort();
        folders.dedup();
        folders
    }

    /// Whether everybody may make a folder of this name with sockets in it.
    fn is_open_to_all(folder: &Path) -> bool {
        folder.parent() == Some(&std::env::temp_dir())
    }

    /// Whether this user made the folder, and only they may write there.
    fn is_own(folder: &Path) -> bool {
        fs::symlink_metadata(folder).is_ok_and(|data| {
            data.is_dir() && data.uid() == process::user() && data.mode() & 0o077 == 0
        })
    }

    /// Connects, but does not wait long for an instance whose queue of askers is full. A socket may
    /// be in another user's folder.
    fn connect(path: &Path) -> io::Result<UnixStream> {
        let (tell, told) = mpsc::channel();
        let path = path.to_owned();
        let connecting = move || {
            let _ = tell.send(UnixStream::connect(path)); // the asker may be gone
        };
        thread::Builder::new().spawn(connecting)?;
        let late = || io::Error::new(ErrorKind::TimedOut, "nobody accepts the connection");
        told.recv_timeout(CONNECT_TIME)
            .unwrap_or_else(|_| Err(late()))
    }

    /// Makes a folder for sockets if there is none.
    fn make_folder(folder: &Path) -> io::Result<()> {
        if !is_open_to_all(folder) {
            return fs::create_dir_all(folder);
        }
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ if is_own(folder) => Ok(()),
            _ => Err(io::Error::new(
                ErrorKind::PermissionDenied,
                "the folder belongs to another user, or others may use it",
            )),
        }
    }

    pub(super) fn socket(folder: &Path, name: &str) -> PathBuf {
        folder.join(format!("{name}.sock"))
    }

    pub(super) fn open_in(folder: &Path, name: &str) -> io::Result<Control> {
        let path = socket(folder, name);
        let cannot = |error: io::Error| {
            io::Error::other(format!(
                "cannot make {}: {}",
                path.display(),
                reason(&error)
            ))
        };
        make_folder(folder).map_err(cannot)?;
        // The lock lets two instances that start at once look one after the other.
        let _alone = folder::lock(folder)?;
        match connect(&path) {
            Ok(_) => {
                let text =
                    format!("another instance is called {name}. Try: --name with another name");
                return Err(io::Error::new(ErrorKind::AddrInUse, text));
            }
            // The instance that listened there is dead.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                fs::remove_file(&path).map_err(cannot)?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(error)),
        }
        Ok(Control {
            listener: bind(&path).map_err(cannot)?,
            path,
        })
    }

    /// The socket belongs to its owner alone from the start. The folder's owner could put a link
    /// there before a later change of its mode.
    fn bind(path: &Path) -> io::Result<UnixListener> {
        let listener = for_owner_only(|| UnixListener::bind(path))?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map(|()| listener)
    }

    /// If the asker is gone, nobody can be told.
    fn reply(mut asker: &UnixStream, answer: &dyn Fn(&str) -> Result<String, String>) {
        let mut question = String::new();
        let _ = asker.set_read_timeout(Some(PATIENCE));
        let _ = asker.set_write_timeout(Some(PATIENCE));
        if BufReader::new(asker.take(QUESTION))
            .read_line(&mut question)
            .is_err()
        {
            return;
        }
        let text = match answer(question.trim_end()) {
            Ok(text) => format!("ok\n{text}"),
            Err(reason) => format!("no\n{reason}"),
        };
        let _ = asker.write_all(text.as_bytes());
    }

    /// Asks the instance `name`. A refusal is an error too.
    ///
    /// # Errors
    /// Fails if the instance refuses or does not answer. The kind is `NotFound` if there is none.
    pub fn ask(name: &str, question: &str) -> io::Result<String> {
        let none = format!(
            "no fernvpn called {name} is running here, or it belongs to another user. Try: fernvpn \
             status"
        );
        let mut failed = io::Error::new(ErrorKind::NotFound, none);
        for path in folders().iter().map(|folder| socket(folder, name)) {
            let mut instance = match connect(&path) {
                Ok(instance) => instance,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    let advice = "only its own user and root may ask";
                    let text = format!(
                        "cannot ask by {}: {} ({advice})",
                        path.display(),
                        reason(&error)
                    );
                    failed = io::Error::new(error.kind(), text);
                    continue;
                }
            };
            let lost = |error: io::Error| {
                io::Error::other(format!(
                    "no answer by {}: {}",
                    path.display(),
                    reason(&error)
                ))
            };
            instance.set_read_timeout(Some(ANSWER_TIME)).map_err(lost)?;
            let mut answer = String::new();
            writeln!(instance, "{question}")
                .and_then(|()| instance.shutdown(Shutdown::Write))
                .and_then(|()| instance.take(ANSWER).read_to_string(&mut answer))
                .map_err(lost)?;
            // Root may ask another user's instance, so the owner of that folder chooses who
            // answers, and what.
            let answer = answer
                .split('\n')
                .map(log::printable)
                .collect::<Vec<_>>()
                .join("\n");
            return match answer.split_once('\n') {
                Some(("ok", text)) => Ok(text.into()),
                Some(("no", reason)) => Err(io::Error::other(reason)),
                _ => Err(lost(io::Error::other("it ended the connection"))),
            };
        }
        Err(failed)
    }

    fn sockets(folders: Vec<PathBuf>) -> impl Iterator<Item = PathBuf> {
        let files = folders
            .into_iter()
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flatten()
            .flatten();
        files
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|end| end == "sock"))
    }

    /// Removes the sockets at which no instance listens, as far as this user may.
    pub fn clear() {
        // Other users remove their own, so that no link leads root to another file.
        for path in sockets(own_folders()) {
            let alone = folder::lock(path.parent().unwrap_or(&path));
            let dead =
                connect(&path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            let _ = (alone.is_ok() && dead).then(|| fs::remove_file(&path));
        }
    }

    /// The names of the instances that run here, sorted, as far as this user may ask them.
    pub fn running() -> Vec<String> {
        let is_alive = |path: &PathBuf| connect(path).is_ok();
        named(sockets(folders()).filter(is_alive))
    }

    /// The names for which there is a socket, sorted.
    pub fn names() -> Vec<String> {
        named(sockets(folders()))
    }

    fn named(sockets: impl Iterator<Item = PathBuf>) -> Vec<String> {
        let mut names: Vec<String> = sockets
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

#[cfg(not(unix))]
pub use elsewhere::{Control, ask, clear, names, running, share_folder};

#[cfg(not(unix))]
mod elsewhere {
    use super::io;

    /// This is never made.
    pub struct Control;

    impl Control {
        /// # Errors
        /// Always, because there are no Unix sockets.
        pub fn open(
            _: &str,
            _: impl Fn(&str) -> Result<String, String> + Send + Sync + 'static,
        ) -> io::Result<Control> {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "there are no Unix sockets here",
            ))
        }
    }

    /// There are none.
    pub fn clear() {}

    /// There is none.
    pub fn share_folder() {}

    /// # Errors
    /// Always, because there are no Unix sockets.
    pub fn ask(_: &str, _: &str) -> io::Result<String> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "there are no Unix sockets here",
        ))
    }

    /// None.
    pub fn running() -> Vec<String> {
        Vec::new()
    }

    /// None.
    pub fn names() -> Vec<String> {
        Vec::new()
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::system::*;
    use std::fs;
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_socket_is_its_owners_replaced_when_stale_and_gone_in_the_end() {
        let folder = std::env::temp_dir().join(format!("fernvpn-control-{}", std::process::id()));
        let first = open_in(&folder, "one").unwrap();
        let path = socket(&folder, "one");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let second = open_in(&folder, "one").err().unwrap();
        assert_eq!(second.kind(), ErrorKind::AddrInUse);
        assert!(second.to_string().contains("--name"), "{second}");
        drop(first);
        assert!(!path.exists());
        // A crash leaves this: the file without a listener.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(open_in(&folder, "one").unwrap());
        assert!(!path.exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn who_does_not_read_holds_up_nobody() {
        let folder = std::env::temp_dir().join(format!("fernvpn-askers-{}", std::process::id()));
        let control = open_in(&folder, "one").unwrap();
        let long = |question: &str| match question {
            "why?" => Err("because".to_owned()),
            question => Ok(format!("{question}{}", ".".repeat(1 << 22))),
        };
        control.serve(long).unwrap();
        let ask = |question: &str| {
            let mut asker = UnixStream::connect(&control.path).unwrap();
            writeln!(asker, "{question}").unwrap();
            asker
        };
        let _stuck: Vec<UnixStream> = (0..ASKERS / 2).map(|_| ask("long")).collect();
        let mut answer = String::new();
        ask("other").read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("ok\nother.") && answer.len() > 1 << 22);
        answer.clear();
        ask("why?").read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "no\nbecause");
        drop(control);
        fs::remove_dir_all(folder).unwrap();
    }
}
