//! How does a program get a network of its own, without root and without a change to the machine?
//!
//! ```text
//! fernvpn, many threads                              fernvpn --namespace-holder DEVICE, one thread
//!   start /proc/self/exe, socket as its stdin  --->    make new network and mount namespaces
//!                                                      (not root: also a user namespace)
//!                                                      create the TUN device in there
//!   the device's descriptor, by SCM_RIGHTS     <---    'R' or 'U', name | or '!', what went wrong
//!   read and write packets, from outside               wait for the end of the socket, then exit
//!   enter (setns between fork and exec): ip, or the user's command
//! ```
//!
//! A process with threads cannot make a user namespace, and the tunnel must stay outside, where its
//! server is. So there is a second process, the holder. It owns only the namespaces. They vanish
//! with addresses and routes when it and all programs inside have ended, and the device's
//! descriptor is closed. (An open descriptor keeps its network alive.)
//!
//! The holder ends when its socket does. The kernel closes the socket when the parent dies, also
//! after kill -9. (PR_SET_PDEATHSIG would act when the parent's *thread* ends, which may be long
//! before.) The holder is in a process group of its own, so Ctrl-C does not reach it.
//!
//! Commands enter through `setns`; the holder does not run them. So the user's command has our
//! terminal and is our child, and the holder needs no requests. `ip` has to be root in there. A
//! command of the user runs as the user again, in a further user namespace, with the tunnel's
//! resolver:
//!
//! ```text
//! fernvpn --namespace-command USER:GROUP RESOLVERS COMMAND…        started inside, by setns
//!   mounts of its own: another resolv.conf in /etc, and no way around the tunnel ([`MASKED`])
//!   a user namespace in which the user is the user, without any capability; then exec COMMAND
//! ```
//!
//! A network namespace contains IP and abstract Unix sockets. A Unix socket with a path still leads
//! outside: to X11, a Docker daemon or an SSH control master. If something leaks, look for these
//! first.

use super::signal::AWAITED;
use crate::os::namespace::{COMMAND_WORD, HOLDER_WORD, THIS};
use crate::os::tun::Tun;
use crate::os::{command, log, reason, signal, sys, tried};
use std::ffi::{CString, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

/// How long the holder may take to answer. It needs milliseconds to make namespaces.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The longest answer, in bytes.
const ANSWER_LIMIT: usize = 4096;

/// The sockets of services that resolve names, or start programs, outside the private network. They
/// are hidden from a command. `USER` stands for the user's number.
const MASKED: &[&str] = &[
    "/run/dbus",
    "/run/nscd",
    "/run/avahi-daemon",
    "/run/systemd/resolve",
    "/run/user/USER/bus",
    "/run/user/USER/systemd",
    "/run/user/USER/gnupg",
];

/// A private network with one TUN device and a loopback. It vanishes when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    /// Whether it has a user namespace of its own, in which we are root.
    of_user: bool,
    /// Brings the one answer. After that, only its end matters.
    socket: UnixStream,
}

impl Namespace {
    /// Makes a new private network, or enters the one of this name (`ip netns`), and opens the
    /// device in it. The loopback is up, the device not yet. The `main` of `program` calls
    /// [`hold`]: it is [`THIS`], except in tests.
    pub fn create(
        program: &str,
        device: &str,
        offload: bool,
        named: Option<&str>,
    ) -> io::Result<(Namespace, Tun)> {
        let failed =
            |error: io::Error| tried("cannot start the holder of a private network", &error);
        let (near, far) = UnixStream::pair().map_err(failed)?;
        near.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
        let holder = Command::new(program)
            .arg0("fernvpn")
            .args([
                HOLDER_WORD,
                device,
                if offload { "offload" } else { "plain" },
            ])
            .args(named)
            .current_dir("/")
            .stdin(OwnedFd::from(far))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        // From here on, an early return drops the namespace and so ends the holder.
        let mut namespace = Namespace {
            holder,
            of_user: false,
            socket: near,
        };
        let mut buffer = [0; ANSWER_LIMIT];
        let (length, fd) = sys::receive_with_fd(&namespace.socket, &mut buffer).map_err(failed)?;
        let (kind, text) = buffer[..length].split_first().unwrap_or((&0, &[]));
        let text = String::from_utf8_lossy(text);
        let tun = match (kind, fd) {
            (b'R' | b'U', Some(fd)) => Tun::from_fd(fd, &text, offload)?,
            (b'!', _) => {
                return Err(io::Error::other(format!(
                    "cannot make a private network: {text}"
                )));
            }
            _ => return Err(failed(io::Error::other("it ended before it answered"))),
        };
        namespace.of_user = *kind == b'U';
        namespace.run(&["ip", "link", "set", "dev", "lo", "up"])?;
        Ok((namespace, tun))
    }

    /// Runs one program inside and waits for it, as `command::run` does on the host.
    pub fn run(&self, argv: &[&str]) -> io::Result<()> {
        let mut command = command::prepare(argv)?;
        self.enter(&mut command)?;
        command::run_prepared(&mut command, "private: ")
    }

    /// Prepares `command` to run inside, in the current folder, with signals not blocked. In a user
    /// namespace it is root inside, but not outside.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        // The user namespace comes first, because it gives the right to enter the others.
        let kinds = [
            ("user", sys::CLONE_NEWUSER),
            ("net", sys::CLONE_NEWNET),
            ("mnt", sys::CLONE_NEWNS),
        ];
        let mut namespaces = Vec::new();
        for (name, kind) in kinds
            .into_iter()
            .filter(|(name, _)| self.of_user || *name != "user")
        {
            // The holder is our child and was not waited for, so no other process has its number.
            let path = format!("/proc/{}/ns/{name}", self.pid());
            let file = File::open(&path).map_err(|error| {
                tried(
                    format_args!("cannot enter the private network by {path}"),
                    &error,
                )
            })?;
            namespaces.push((OwnedFd::from(file), kind));
        }
        let directory = std::env::current_dir()
            .unwrap_or_default()
            .into_os_string()
            .into_vec();
        let directory = CString::new(directory).map_err(io::Error::other)?;
        sys::enter_before_exec(command, namespaces, directory, AWAITED);
        Ok(())
    }

    /// Prepares the user's command to run inside as that user, with these resolvers.
    pub fn command(&self, resolvers: &[IpAddr], words: &[OsString]) -> io::Result<Command> {
        let (user, group) = sys::effective_ids();
        let ids = if self.of_user {
            format!("{user}:{group}")
        } else {
            "root".into()
        };
        let lines: String = resolvers
            .iter()
            .map(|address| format!("nameserver {address}\n"))
            .collect();
        let mut command = Command::new(THIS);
        command
            .arg0("fernvpn")
            .args([COMMAND_WORD, &ids, &lines])
            .args(words);
        self.enter(&mut command)?;
        Ok(command)
    }

    /// The holder's process number.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Whether only the user who started it exists inside.
    pub fn of_one_user(&self) -> bool {
        self.of_user
    }

    /// The words before a command with which a person looks around inside.
    pub fn enter_command(&self) -> String {
        let pid = self.pid();
        if self.of_user {
            format!("nsenter --preserve-credentials -t {pid} -U -n -m")
        } else {
            format!("nsenter -t {pid} -n -m")
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The end of the socket would be enough. But this way the holder is gone when drop returns,
        // and leaves no zombie.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The `main` of the holder. It must run before the program has a second thread.
pub fn hold() -> ExitCode {
    let Ok(socket) = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
    else {
        return ExitCode::FAILURE;
    };
    // Only the parent may end this process, but systemd's stop signal reaches every process of a
    // service.
    let made = signal::block()
        .map_err(|error| error.to_string())
        .and_then(|()| make_namespaces());
    let answered = match made {
        Ok((kind, tun)) => {
            let answer = [&[kind], tun.name().as_bytes()].concat();
            sys::send_with_fd(&socket, &answer, tun.as_fd()).map(drop)
        } // this closes our own descriptor, so that only the parent has the device
        Err(text) => (&socket).write_all(format!("!{text}").as_bytes()),
    };
    if let Err(error) = answered {
        log::say(format_args!(
            "fernvpn {HOLDER_WORD}: cannot answer: {error} (only fernvpn itself runs this)"
        ));
        return ExitCode::FAILURE;
    }
    // The parent never sends anything. This waits for the end.
    while matches!((&socket).read(&mut [0]), Err(error) if error.kind() == ErrorKind::Interrupted) {
    }
    ExitCode::SUCCESS
}

/// Moves this process into new namespaces and creates the device there. 'R': as root, 'U': as a
/// user.
fn make_namespaces() -> Result<(u8, Tun), String> {
    let mut arguments = std::env::args().skip(2);
    let (device, offload) = (
        arguments.next().unwrap_or_default(),
        arguments.next().unwrap_or_default(),
    );
    // Inside a new user namespace we are nobody, so this asks now.
    let outside = sys::effective_ids();
    let mut network = sys::CLONE_NEWNET | sys::CLONE_NEWNS;
    if let Some(name) = arguments.next() {
        let path = Path::new("/run/netns").join(&name);
        let entered =
            File::open(path).and_then(|file| sys::enter_namespace(file.as_fd(), sys::CLONE_NEWNET));
        let remedy = "Try, as root: ip netns";
        entered
            .map_err(|error| format!("network namespace {name}: {} ({remedy})", reason(&error)))?;
        network = sys::CLONE_NEWNS;
    }

    // 1. If we have the privilege, we use it. Otherwise we do what every user may do.
    let kind = match sys::leave_namespaces(network) {
        Ok(()) => b'R',
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            sys::leave_namespaces(sys::CLONE_NEWUSER | network)
                .map_err(|error| blame("unshare", &error))?;
            b'U'
        }
        Err(error) => return Err(blame("unshare", &error)),
    };
    // 2. Root inside is the user outside. No other user is mapped.
    if kind == b'U' {
        map_ids((0, 0), outside)?;
    }
    // 3. Mounts inside, such as another resolv.conf, must not show outside.
    sys::make_mounts_private().map_err(|error| blame("make mounts private", &error))?;
    // 4. The device belongs to the namespace in which /dev/net/tun is opened.
    let tun = Tun::create(&device, offload == "offload").map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => match forbidding_setting("/proc/sys") {
            Some(setting) => format!("{error}; {setting}"),
            None => error.to_string(),
        },
        _ => error.to_string(),
    })?;
    Ok((kind, tun))
}

/// Maps one user and one group in the user namespace this process has just made. A user may map
/// a group only after giving up setgroups(2) (user_namespaces(7)).
fn map_ids(inside: (u32, u32), outside: (u32, u32)) -> Result<(), String> {
    for (file, line) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{} {} 1", inside.0, outside.0)),
        ("gid_map", format!("{} {} 1", inside.1, outside.1)),
    ] {
        let path = format!("/proc/self/{file}");
        fs::write(&path, line).map_err(|error| blame(&format!("write {path}"), &error))?;
    }
    Ok(())
}

/// The `main` of the process that becomes the user's command. It returns only if the command cannot
/// be run, with env(1)'s status for the reason.
pub fn become_command() -> ExitCode {
    log::set_quiet();
    let words: Vec<OsString> = std::env::args_os().skip(2).collect();
    let [ids, resolvers, program, arguments @ ..] = words.as_slice() else {
        return ExitCode::FAILURE;
    };
    if let Err(why) = settle(&ids.to_string_lossy(), &resolvers.to_string_lossy()) {
        log::say(format_args!(
            "fernvpn: cannot prepare the private network for a command: {why}"
        ));
        return ExitCode::from(125);
    }
    let error = Command::new(program).args(arguments).exec();
    log::say(format_args!(
        "fernvpn: cannot run {}: {}",
        program.to_string_lossy(),
        reason(&error)
    ));
    ExitCode::from(if error.kind() == ErrorKind::NotFound {
        127
    } else {
        126
    })
}

fn settle(ids: &str, resolvers: &str) -> io::Result<()> {
    let ids = ids
        .split_once(':')
        .and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    let user = ids.map_or(0, |(user, _)| user).to_string();
    sys::leave_namespaces(sys::CLONE_NEWNS)?;
    for path in MASKED.iter().map(|path| path.replace("USER", &user)) {
        match fs::metadata(&path) {
            Ok(what) if what.is_dir() => command::run(&["mount", "-t", "tmpfs", "fernvpn", &path])?,
            Ok(_) => command::run(&["mount", "--bind", "/dev/null", &path])?,
            Err(_) => {}
        }
    }
    if !resolvers.is_empty() {
        lay_over_etc(resolvers)
            .map_err(|error| tried("cannot lay the tunnel's resolv.conf over /etc", &error))?;
    }
    // This lets ping(8) work without raw sockets. It only concerns this network.
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0");
    let Some(ids) = ids else { return Ok(()) };
    sys::leave_namespaces(sys::CLONE_NEWUSER)
        .map_err(|error| blame("unshare", &error))
        .and_then(|()| map_ids(ids, (0, 0)))
        .map_err(io::Error::other)
}

/// Covers /etc with a folder that has the same entries and another resolv.conf. A file mounted over
/// the host's own would vanish when the host replaces that by a rename.
fn lay_over_etc(resolvers: &str) -> io::Result<()> {
    let (etc, new) = (Path::new("/etc"), Path::new("/tmp"));
    command::run(&["mount", "-t", "tmpfs", "-o", "mode=755", "fernvpn", "/tmp"])?;
    for entry in fs::read_dir(etc)? {
        let entry = entry?;
        let place = new.join(entry.file_name());
        let kind = entry.file_type()?;
        if entry.file_name() == "resolv.conf" {
            continue;
        }
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, place)?;
        } else if kind.is_dir() {
            fs::create_dir(&place)?;
            sys::bind_mount(&entry.path(), &place).or_else(|_| fs::remove_dir(place))?;
        } else {
            File::create(&place)?;
            sys::bind_mount(&entry.path(), &place).or_else(|_| fs::remove_file(place))?;
        }
    }
    let file = new.join("resolv.conf");
    fs::write(&file, resolvers)?;
    fs::set_permissions(file, Permissions::from_mode(0o644))?;
    sys::move_mount(new, etc)
}

/// Why a step failed, and the setting that causes it, if that is known.
fn blame(step: &str, error: &io::Error) -> String {
    let why = forbidding_setting("/proc/sys").unwrap_or_else(|| {
        "no known setting forbids it; in a container, its seccomp profile or capabilities may"
            .to_owned()
    });
    format!("{step}: {}: {why}", reason(error))
}

/// The first setting that forbids namespaces to users, and how to allow them.
fn forbidding_setting(root: &str) -> Option<String> {
    [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
        ("user.max_net_namespaces", "0", "10000"),
        ("user.max_mnt_namespaces", "0", "10000"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ]
    .into_iter()
    .find(|(name, forbids, _)| {
        let path = format!("{root}/{}", name.replace('.', "/"));
        fs::read_to_string(path).is_ok_and(|value| value.trim() == *forbids)
    })
    .map(|(name, forbids, permits)| {
        format!(
            "the setting {name}={forbids} forbids it. \
             Try: `sudo sysctl {name}={permits}`, or run as root, or use --no-tun"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_is_named() {
        let root = std::env::temp_dir().join(format!("fernvpn-settings-{}", std::process::id()));
        let at = root.to_str().unwrap();
        fs::create_dir_all(root.join("kernel")).unwrap();
        fs::create_dir_all(root.join("user")).unwrap();
        assert_eq!(forbidding_setting(at), None);
        fs::write(
            root.join("kernel/apparmor_restrict_unprivileged_userns"),
            "0\n",
        )
        .unwrap();
        fs::write(root.join("user/max_user_namespaces"), "96365\n").unwrap();
        assert_eq!(forbidding_setting(at), None);
        fs::write(
            root.join("kernel/apparmor_restrict_unprivileged_userns"),
            "1\n",
        )
        .unwrap();
        assert!(
            forbidding_setting(at)
                .unwrap()
                .contains("kernel.apparmor_restrict_unprivileged_userns=1")
        );
        fs::write(root.join("user/max_user_namespaces"), "0\n").unwrap();
        assert!(
            forbidding_setting(at)
                .unwrap()
                .contains("sysctl user.max_user_namespaces=10000")
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_program_that_does_not_hold_is_an_error() {
        let error = Namespace::create("/bin/true", "fern0", false, None).unwrap_err();
        assert!(
            error.to_string().contains("ended before it answered"),
            "{error}"
        );
        assert!(Namespace::create("/none/such", "fern0", false, None).is_err());
    }
}
