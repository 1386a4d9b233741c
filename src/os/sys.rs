//! Which foreign functions does fernvpn call, and why is each call sound?
//!
//! This is the only file with `unsafe`. Everything here is for Linux, and private to `os`. The
//! processors named below share all of these numbers but two. Each function is declared by hand as
//! in the C library's headers, and has one small safe wrapper here. The size of each structure for
//! the kernel is asserted at compile time. If a structure were too short, the kernel would write
//! past its end.
//!
//! The SAFETY comments below use three words. *Slice*: pointer and length come from one live Rust
//! slice. *Descriptor*: it is borrowed, so it is open for the whole call. *Plain*: the call takes
//! and returns only numbers, and touches no memory of ours.
//!
//! This file decides nothing. The other files of this module have the meaning and the messages.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

// include/uapi/linux: if_tun.h, if.h, tcp.h, in.h, sched.h, fs.h, prctl.h, socket.h, resource.h,
// signal.h
pub(super) const IFF_TUN: u16 = 0x0001;
pub(super) const IFF_NO_PI: u16 = 0x1000;
pub(super) const IFF_VNET_HDR: u16 = 0x4000;
pub(super) const TUN_F_CSUM: c_uint = 0x01;
pub(super) const TUN_F_TSO4: c_uint = 0x02;
pub(super) const TUN_F_TSO6: c_uint = 0x04;
pub(super) const TUN_F_USO4: c_uint = 0x20;
pub(super) const TUN_F_USO6: c_uint = 0x40;
/// A request by which a program hands over an `int`: `_IOW(…, int)`.
const IOW_INT: c_ulong = if cfg!(any(target_arch = "powerpc", target_arch = "powerpc64")) {
    0x8004_0000
} else {
    0x4004_0000
};
const TUNSETIFF: c_ulong = IOW_INT | 0x54ca;
const TUNSETOFFLOAD: c_ulong = IOW_INT | 0x54d0;

pub(super) const EINPROGRESS: i32 = 115;
pub(super) const O_NONBLOCK: c_int = 0o4000;
pub(super) const O_NOFOLLOW: c_int = if cfg!(any(
    target_arch = "arm",
    target_arch = "aarch64",
    target_arch = "powerpc",
    target_arch = "powerpc64"
)) {
    0o100_000
} else {
    0o400_000
};
pub(super) const POLLIN: i16 = 0x1;
pub(super) const POLLOUT: i16 = 0x4;

pub(super) const SOL_SOCKET: c_int = 1;
pub(super) const SO_MARK: c_int = 36;
pub(super) const SO_LINGER: c_int = 13;
pub(super) const SO_NETNS_COOKIE: c_int = 71;
pub(super) const SO_RCVBUF: c_int = 8;
pub(super) const IPPROTO_TCP: c_int = 6;
pub(super) const TCP_INFO: c_int = 11;
pub(super) const TCP_CONGESTION: c_int = 13;
pub(super) const TCP_USER_TIMEOUT: c_int = 18;
pub(super) const TCP_NOTSENT_LOWAT: c_int = 25;
pub(super) const TCP_RTO_MIN_US: c_int = 45;
pub(super) const TCP_DELACK_MAX_US: c_int = 46;

pub(super) const SOL_NETLINK: c_int = 270;
pub(super) const NETLINK_GET_STRICT_CHK: c_int = 12;

pub(super) const CLONE_NEWNS: c_int = 0x0002_0000;
pub(super) const CLONE_NEWUSER: c_int = 0x1000_0000;
pub(super) const CLONE_NEWNET: c_int = 0x4000_0000;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_NETLINK: u16 = 16;
const SOCK_RAW: c_int = 3;
const SOCK_STREAM: c_int = 1;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
const MSG_DONTWAIT: c_int = 0x40;
const MSG_EOR: c_int = 0x80;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_CMSG_CLOEXEC: c_int = 0x4000_0000;
const SCM_RIGHTS: c_int = 1;
const SHUT_RDWR: c_int = 2;
const F_GETFL: c_int = 3;
const F_SETFL: c_int = 4;
const MS_BIND: c_ulong = 1 << 12;
const MS_MOVE: c_ulong = 1 << 13;
const MS_REC: c_ulong = 1 << 14;
const MS_PRIVATE: c_ulong = 1 << 18;
const PR_SET_DUMPABLE: c_int = 4;
const PR_SET_NO_NEW_PRIVS: c_int = 38;
/// Two sets of 32 capabilities each.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// Numbers 0 to 31 of `CAP_*`, one bit each.
pub(super) const CAP_NET_ADMIN: u32 = 1 << 12;
const RLIMIT_NOFILE: c_uint = 7;
const SIG_BLOCK: c_int = 0;
const SIG_UNBLOCK: c_int = 1;
const SI_KERNEL: c_int = 0x80;

// On others (mips, sparc, alpha, parisc) options of sockets, errors and limits have other numbers.
#[cfg(not(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "arm",
    target_arch = "aarch64",
    target_arch = "riscv32",
    target_arch = "riscv64",
    target_arch = "loongarch64",
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "s390x",
)))]
compile_error!(
    "src/os/sys.rs does not have Linux's numbers for this processor (target_arch). \
     Try: RUSTFLAGS='--cfg fernvpn_portable', which works without a TUN device"
);

/// Bytes of a pointer, a `long` and a `size_t`, by which the layouts differ.
const WORD: usize = size_of::<usize>();

/// `struct ifreq`, of which a TUN device uses the name and the flags. The longest that a union in
/// it has is `struct ifmap`: two `long`, and 8 bytes.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: u16,
    unused: [u8; IFREQ_UNUSED],
}
const IFREQ_UNUSED: usize = 2 * WORD + 6;
const _: () = assert!(size_of::<IfReq>() == if WORD == 8 { 40 } else { 32 });

/// `struct pollfd`.
#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}
const _: () = assert!(size_of::<PollFd>() == 8);

/// `struct iovec`.
#[repr(C)]
struct IoVec {
    base: *mut c_void,
    length: usize,
}
const _: () = assert!(size_of::<IoVec>() == 2 * WORD);

/// `struct msghdr`. musl has two 32-bit fields and padding in places, which are the same bytes.
#[repr(C)]
struct MsgHdr {
    name: *mut c_void,
    name_length: c_uint,
    vectors: *mut IoVec,
    vector_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}
const _: () = assert!(size_of::<MsgHdr>() == 7 * WORD);

/// `struct cmsghdr` with room for exactly one descriptor.
#[repr(C)]
struct FdMessage {
    length: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
}
const _: () = assert!(size_of::<FdMessage>() == if WORD == 8 { 24 } else { 16 });
/// `CMSG_LEN(sizeof(int))`. The kernel gets it on receipt as well. A second descriptor would fit
/// into the padding and leak, and so it is never installed.
const FD_MESSAGE_LENGTH: usize = WORD + 12;

/// `sigset_t`: 1024 bits in both C libraries, of which the kernel uses the first 64.
#[repr(C)]
struct SignalSet([c_ulong; SIGNAL_WORDS]);
const SIGNAL_WORDS: usize = 128 / WORD;
const _: () = assert!(size_of::<SignalSet>() == 128);

/// `siginfo_t`, of which the third number says who sent the signal.
#[repr(C, align(8))]
struct SignalInfo([c_int; 32]);
const _: () = assert!(size_of::<SignalInfo>() == 128);

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}
const _: () = assert!(size_of::<CapabilityHeader>() == 8);

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySet {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
const _: () = assert!(size_of::<[CapabilitySet; 2]>() == 24);

/// `struct rlimit64`.
#[repr(C)]
struct RLimit {
    soft: u64,
    hard: u64,
}
const _: () = assert!(size_of::<RLimit>() == 16);

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const c_void, length: c_uint) -> c_int;
    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int;
    fn connect(fd: c_int, address: *const c_void, length: c_uint) -> c_int;
    fn shutdown(fd: c_int, how: c_int) -> c_int;
    fn recv(fd: c_int, buffer: *mut c_void, length: usize, flags: c_int) -> isize;
    fn send(fd: c_int, buffer: *const c_void, length: usize, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, message: *mut MsgHdr, flags: c_int) -> isize;
    fn sendmsg(fd: c_int, message: *const MsgHdr, flags: c_int) -> isize;
    fn setsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        length: c_uint,
    ) -> c_int;
    fn getsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        length: *mut c_uint,
    ) -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn setns(fd: c_int, kind: c_int) -> c_int;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn chdir(path: *const c_char) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn capget(header: *mut CapabilityHeader, sets: *mut [CapabilitySet; 2]) -> c_int;
    fn capset(header: *mut CapabilityHeader, sets: *const [CapabilitySet; 2]) -> c_int;
    fn geteuid() -> c_uint;
    fn getegid() -> c_uint;
    fn umask(mask: c_uint) -> c_uint;
    // The plain names of a 32-bit glibc mean 32-bit limits; musl has 64 bits everywhere.
    #[cfg_attr(
        all(target_env = "gnu", target_pointer_width = "32"),
        link_name = "getrlimit64"
    )]
    fn getrlimit(resource: c_uint, limit: *mut RLimit) -> c_int;
    #[cfg_attr(
        all(target_env = "gnu", target_pointer_width = "32"),
        link_name = "setrlimit64"
    )]
    fn setrlimit(resource: c_uint, limit: *const RLimit) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwaitinfo(set: *const SignalSet, info: *mut SignalInfo) -> c_int;
}

// ---- TUN device

/// TUNSETIFF: makes `tun` (an open `/dev/net/tun`) the device `name`. Returns the name that the
/// kernel gave it. A `name` of more than 15 bytes is refused, because the sixteenth byte must stay
/// zero.
pub(super) fn tun_set_interface(tun: BorrowedFd<'_>, name: &str, flags: u16) -> io::Result<String> {
    let mut request = IfReq {
        name: [0; 16],
        flags,
        unused: [0; IFREQ_UNUSED],
    };
    let room = request.name.len() - 1;
    let target = request.name[..room]
        .get_mut(..name.len())
        .ok_or(ErrorKind::InvalidInput)?;
    target.copy_from_slice(name.as_bytes());
    // SAFETY: descriptor; `request` is a whole `struct ifreq` (size asserted), alive and
    // exclusively ours.
    check(unsafe { ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    let end = request
        .name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(room);
    Ok(String::from_utf8_lossy(&request.name[..end]).into_owned())
}

/// TUNSETOFFLOAD: sets which super-packets the kernel may hand over unsegmented.
pub(super) fn tun_set_offload(tun: BorrowedFd<'_>, features: c_uint) -> io::Result<()> {
    // SAFETY: descriptor, plain: this request carries its flags as a number, not as a pointer.
    check(unsafe { ioctl(tun.as_raw_fd(), TUNSETOFFLOAD, c_ulong::from(features)) }).map(drop)
}

pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: descriptor, plain.
    let flags = check(unsafe { fcntl(fd.as_raw_fd(), F_GETFL) })?;
    // SAFETY: descriptor, plain.
    check(unsafe { fcntl(fd.as_raw_fd(), F_SETFL, flags | O_NONBLOCK) }).map(drop)
}

// ---- waiting

/// Waits until one of these descriptors is ready, at its end or in error, and returns which. (The
/// next read or write then reports an end or error.) All are false when `timeout` has passed.
/// `None` waits for ever. Signals do not shorten the wait.
pub(super) fn wait_for<const N: usize>(
    watched: [(BorrowedFd<'_>, i16); N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    // A deadline that the clock cannot represent is no deadline.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut fds = watched.map(|(fd, events)| PollFd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    });
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // The time is rounded up, because a wait of 0 for the last half millisecond would spin.
        let timeout_ms = left.map_or(-1, |left| {
            c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
        });
        // SAFETY: slice, of `struct pollfd` (size asserted); the descriptors in it are borrowed
        // until we return.
        match check(unsafe { poll(fds.as_mut_ptr(), N as c_ulong, timeout_ms) }) {
            // These are 24 days, and the caller asked for more.
            Ok(0) if timeout_ms == c_int::MAX => continue,
            Ok(_) => return Ok(fds.map(|fd| fd.revents != 0)),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
    }
}

// ---- sockets

/// A TCP socket for the family of `address`, not connected, closed on exec.
pub(super) fn tcp_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    // SAFETY: plain.
    let fd = check(unsafe { socket(c_int::from(family), SOCK_STREAM | SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just given us `fd`, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn connect_to(fd: BorrowedFd<'_>, address: &SocketAddr) -> io::Result<()> {
    //    struct sockaddr_in:  family u16 | port u16 BE | address 4 | zero 8              16 bytes
    //    struct sockaddr_in6: family u16 | port u16 BE | flow 4 | address 16 | scope 4   28 bytes
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(AF_INET.to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(AF_INET6.to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    let length = if address.is_ipv4() { 16 } else { 28 };
    debug_assert_eq!(bytes.len(), length as usize);
    // SAFETY: descriptor, slice; the kernel copies `length` bytes and asks for no alignment.
    check(unsafe { connect(fd.as_raw_fd(), bytes.as_ptr().cast(), length) }).map(drop)
}

/// A netlink socket of this protocol that hears what the kernel tells these groups (one bit each).
pub(super) fn netlink_socket(protocol: c_int, groups: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain.
    let fd = check(unsafe { socket(c_int::from(AF_NETLINK), SOCK_RAW | SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel has just given us `fd`, and nobody else knows of it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // struct sockaddr_nl: family u16 | zero u16 | port u32 (0: the kernel chooses) | groups u32
    let mut address = [0u8; 12];
    address[..2].copy_from_slice(&AF_NETLINK.to_ne_bytes());
    address[8..].copy_from_slice(&groups.to_ne_bytes());
    // SAFETY: descriptor, slice; the kernel copies 12 bytes and asks for no alignment.
    check(unsafe { bind(socket.as_raw_fd(), address.as_ptr().cast(), 12) })?;
    Ok(socket)
}

/// Makes the descriptor `fd` refer to the file of `new`, in one step. A thread that waits for `fd`
/// at that moment goes on with the old file.
pub(super) fn put_in_place_of(fd: BorrowedFd<'_>, new: OwnedFd) -> io::Result<()> {
    const O_CLOEXEC: c_int = SOCK_CLOEXEC;
    // SAFETY: descriptor, plain. `fd` stays open, and its owner's.
    check(unsafe { dup3(new.as_raw_fd(), fd.as_raw_fd(), O_CLOEXEC) }).map(drop)
}

/// shutdown(2) of both directions. On a listening socket, it wakes the thread that is blocked in
/// accept, and ends later calls.
pub(super) fn shut_down(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: descriptor, plain.
    check(unsafe { shutdown(fd.as_raw_fd(), SHUT_RDWR) }).map(drop)
}

/// Reads what has arrived without waiting, whatever the socket's own blocking mode is.
pub(super) fn receive_now(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: descriptor, slice, exclusively borrowed.
    count(unsafe {
        recv(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            MSG_DONTWAIT,
        )
    })
}

/// Writes as much as the socket takes without waiting, and without SIGPIPE.
pub(super) fn send_now(fd: BorrowedFd<'_>, bytes: &[u8], alone: bool) -> io::Result<usize> {
    let end = if alone { MSG_EOR } else { 0 };
    // SAFETY: descriptor, slice.
    count(unsafe {
        send(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            MSG_DONTWAIT | MSG_NOSIGNAL | end,
        )
    })
}

pub(super) fn set_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: u32,
) -> io::Result<()> {
    set_option_bytes(fd, level, name, &value.to_ne_bytes())
}

pub(super) fn set_option_bytes(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &[u8],
) -> io::Result<()> {
    let length = c_uint::try_from(value.len()).map_err(|_| ErrorKind::InvalidInput)?;
    // SAFETY: descriptor, slice; the kernel copies the value and asks for no alignment.
    check(unsafe { setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), length) })
        .map(drop)
}

/// Reads the bytes of an option's value: as many as the kernel has, at most `N`.
pub(super) fn option_bytes<const N: usize>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
) -> io::Result<Vec<u8>> {
    let mut value = [0u8; N];
    let mut length = c_uint::try_from(N).map_err(|_| ErrorKind::InvalidInput)?;
    // SAFETY: descriptor; `length` says how many bytes `value` has, and the kernel writes no more
    // than that.
    check(unsafe {
        getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(value.iter().copied().take(length as usize).collect())
}

// ---- one descriptor across a Unix socket

/// Sends `bytes` (at least one) and with them a copy of `fd`.
pub(super) fn send_with_fd(
    stream: &UnixStream,
    bytes: &[u8],
    fd: BorrowedFd<'_>,
) -> io::Result<usize> {
    let mut control = FdMessage {
        length: FD_MESSAGE_LENGTH,
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        fd: fd.as_raw_fd(),
    };
    // The kernel only reads through this pointer; `iovec` is the same type for both directions.
    let mut vector = IoVec {
        base: bytes.as_ptr().cast_mut().cast(),
        length: bytes.len(),
    };
    let message = message_of(&mut vector, &mut control, size_of::<FdMessage>());
    // SAFETY: descriptor; `message` points to `vector`, `control` and the slice, all alive in this
    // frame.
    count(unsafe { sendmsg(stream.as_raw_fd(), &raw const message, MSG_NOSIGNAL) })
}

/// Receives bytes, and the descriptor that came with them, if one did. It is closed on exec. Waits
/// as long as the stream's read timeout says. 0 bytes mean that the other side is gone.
pub(super) fn receive_with_fd(
    stream: &UnixStream,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = FdMessage {
        length: 0,
        level: 0,
        kind: 0,
        fd: -1,
    };
    let mut vector = IoVec {
        base: buffer.as_mut_ptr().cast(),
        length: buffer.len(),
    };
    let mut message = message_of(&mut vector, &mut control, FD_MESSAGE_LENGTH);
    // SAFETY: descriptor; `message` points to `vector`, `control` and the buffer, all alive and
    // exclusively ours.
    let length = count(unsafe { recvmsg(stream.as_raw_fd(), &raw mut message, MSG_CMSG_CLOEXEC) })?;
    let arrived = message.control_length >= FD_MESSAGE_LENGTH
        && (control.length, control.level, control.kind)
            == (FD_MESSAGE_LENGTH, SOL_SOCKET, SCM_RIGHTS);
    // SAFETY: the kernel has just installed this descriptor for us (`arrived`), and nobody else
    // knows of it.
    let fd = (arrived && control.fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(control.fd) });
    Ok((length, fd))
}

/// The pointers stay valid as long as the two arguments do. Callers keep both in their own frame.
fn message_of(vector: &mut IoVec, control: &mut FdMessage, control_length: usize) -> MsgHdr {
    MsgHdr {
        name: std::ptr::null_mut(),
        name_length: 0,
        vectors: vector,
        vector_count: 1,
        control: (&raw mut *control).cast(),
        control_length,
        flags: 0,
    }
}

// ---- namespaces

/// Leaves the namespaces named by `flags` for new ones. For a process with one thread.
pub(super) fn leave_namespaces(flags: c_int) -> io::Result<()> {
    // SAFETY: plain.
    check(unsafe { unshare(flags) }).map(drop)
}

/// Moves this process into an existing namespace.
pub(super) fn enter_namespace(namespace: BorrowedFd<'_>, kind: c_int) -> io::Result<()> {
    // SAFETY: descriptor, plain.
    check(unsafe { setns(namespace.as_raw_fd(), kind) }).map(drop)
}

/// Makes every mount private to the mount namespace this process is in.
pub(super) fn make_mounts_private() -> io::Result<()> {
    change_mount(c"none", c"/", MS_REC | MS_PRIVATE)
}

/// Shows `source`, with what is mounted below it, at `target` as well.
pub(super) fn bind_mount(source: &Path, target: &Path) -> io::Result<()> {
    change_mount(&c_path(source)?, &c_path(target)?, MS_REC | MS_BIND)
}

/// Moves the mount at `source` to `target`.
pub(super) fn move_mount(source: &Path, target: &Path) -> io::Result<()> {
    change_mount(&c_path(source)?, &c_path(target)?, MS_MOVE)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn change_mount(source: &CStr, target: &CStr, flags: c_ulong) -> io::Result<()> {
    let (source, target, none) = (source.as_ptr(), target.as_ptr(), std::ptr::null());
    // SAFETY: two strings that end in zero and live as long as the call. With these flags, the
    // kernel ignores the kind, and there is no data.
    check(unsafe { mount(source, target, std::ptr::null(), flags, none) }).map(drop)
}

/// Makes `command` enter `namespaces` (descriptor and kind, in this order), go back to the folder
/// `directory`, and receive signals again. All of this happens between fork and exec. There it has
/// one thread, as a user namespace demands.
pub(super) fn enter_before_exec(
    command: &mut Command,
    namespaces: Vec<(OwnedFd, c_int)>,
    directory: CString,
    signals: &'static [c_int],
) {
    let enter = move || {
        for (namespace, kind) in &namespaces {
            enter_namespace(namespace.as_fd(), *kind)?;
        }
        change_directory(&directory).or_else(|_| change_directory(c"/"))?;
        change_signal_mask(SIG_UNBLOCK, signals)
    };
    // SAFETY: after fork in a program with threads only async-signal-safe functions may run, since
    // another thread may have held any lock. The closure makes four kinds of system call on memory
    // prepared before the fork; it neither allocates nor locks, and `io::Error::last_os_error` is a
    // plain number.
    unsafe { command.pre_exec(enter) };
}

fn change_directory(path: &CStr) -> io::Result<()> {
    // SAFETY: a string that ends in zero, alive for the call.
    check(unsafe { chdir(path.as_ptr()) }).map(drop)
}

// ---- process

/// The effective user and group.
pub(super) fn effective_ids() -> (u32, u32) {
    // SAFETY: plain, and these two cannot fail.
    unsafe { (geteuid(), getegid()) }
}

pub(super) fn set_dumpable(dumpable: bool) -> io::Result<()> {
    // SAFETY: plain.
    check(unsafe { prctl(PR_SET_DUMPABLE, c_ulong::from(dumpable)) }).map(drop)
}

/// Calls `make` so that its files are for their owner alone from the first moment. Files that other
/// threads make meanwhile are so as well.
pub(super) fn for_owner_only<T>(make: impl FnOnce() -> T) -> T {
    // SAFETY: plain, and cannot fail.
    let before = unsafe { umask(0o177) };
    let made = make();
    // SAFETY: as above.
    unsafe { umask(before) };
    made
}

/// Of its capabilities, this thread keeps those in `kept`. No program that it starts gets more
/// rights than it has. Threads that start later are the same.
pub(super) fn keep_capabilities(kept: u32) -> io::Result<()> {
    let (on, none) = (c_ulong::from(true), c_ulong::from(false));
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut sets = [CapabilitySet::default(); 2];
    // SAFETY: `prctl` takes numbers alone. `header` and `sets` are whole structs of version 3
    // (sizes asserted), alive and exclusively ours.
    check(unsafe { prctl(PR_SET_NO_NEW_PRIVS, on, none, none, none) })?;
    // SAFETY: as above.
    check(unsafe { capget(&raw mut header, &raw mut sets) })?;
    for (set, kept) in sets.iter_mut().zip([kept, 0]) {
        set.effective &= kept;
        set.permitted &= kept;
        set.inheritable &= kept;
    }
    // SAFETY: as above.
    check(unsafe { capset(&raw mut header, &raw const sets) }).map(drop)
}

/// The soft and the hard limit on open files.
pub(super) fn open_file_limit() -> io::Result<(u64, u64)> {
    let mut limit = RLimit { soft: 0, hard: 0 };
    // SAFETY: `limit` is a whole `struct rlimit` (size asserted), alive and exclusively ours.
    check(unsafe { getrlimit(RLIMIT_NOFILE, &raw mut limit) })?;
    Ok((limit.soft, limit.hard))
}

pub(super) fn set_open_file_limit(soft: u64, hard: u64) -> io::Result<()> {
    let limit = RLimit { soft, hard };
    // SAFETY: `limit` is a whole `struct rlimit` (size asserted) and alive.
    check(unsafe { setrlimit(RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

// ---- signals

pub(super) fn send_signal(pid: i32, signal: c_int) -> io::Result<()> {
    // SAFETY: plain.
    check(unsafe { kill(pid, signal) }).map(drop)
}

/// Blocks these signals in the calling thread and in every thread and program it starts from now
/// on.
pub(super) fn block_signals(signals: &[c_int]) -> io::Result<()> {
    change_signal_mask(SIG_BLOCK, signals)
}

/// Waits for one of these signals, all of which must be blocked. Returns also whether the kernel
/// itself sent it.
pub(super) fn wait_for_signal(signals: &[c_int]) -> io::Result<(c_int, bool)> {
    let (set, mut info) = (signal_set(signals), SignalInfo([0; 32]));
    // SAFETY: `set` and `info` are a whole `sigset_t` and `siginfo_t` (sizes asserted); both live
    // in this frame.
    let signal = check(unsafe { sigwaitinfo(&raw const set, &raw mut info) })?;
    Ok((signal, info.0[2] == SI_KERNEL))
}

fn change_signal_mask(how: c_int, signals: &[c_int]) -> io::Result<()> {
    let set = signal_set(signals);
    // SAFETY: `set` is a whole `sigset_t` (size asserted) and alive; a null pointer asks for no old
    // mask.
    match unsafe { pthread_sigmask(how, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The set of these signals. Signal n is bit n - 1, as in sigaddset(3). Ours are all below 32.
fn signal_set(signals: &[c_int]) -> SignalSet {
    let mut set = SignalSet([0; SIGNAL_WORDS]);
    set.0[0] = signals
        .iter()
        .fold(0, |bits, signal| bits | 1 << (signal - 1));
    set
}

// ---- results

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_descriptor_crosses_and_still_works() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut left, right) = UnixStream::pair().unwrap();
        assert_eq!(send_with_fd(&near, b"here", right.as_fd()).unwrap(), 4);
        drop(right);
        let mut buffer = [0; 16];
        let (length, fd) = receive_with_fd(&far, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"here");
        let mut copy = UnixStream::from(fd.unwrap());
        left.write_all(b"through the copy").unwrap();
        drop(left);
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the copy");
    }

    #[test]
    fn bytes_without_a_descriptor_bring_none() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"alone").unwrap();
        let mut buffer = [0; 16];
        let (length, fd) = receive_with_fd(&far, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fd.is_none()), (&b"alone"[..], true));
        drop(near);
        assert!(matches!(receive_with_fd(&far, &mut buffer), Ok((0, None))));
    }

    #[test]
    fn waiting_tells_which_and_ends_in_time() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (_quiet, silent) = UnixStream::pair().unwrap();
        let begin = Instant::now();
        let short = Some(Duration::from_micros(20_500));
        assert_eq!(wait_for([(far.as_fd(), POLLIN)], short).unwrap(), [false]);
        assert!(begin.elapsed() >= Duration::from_micros(20_500));
        near.write_all(b"x").unwrap();
        let both = [(silent.as_fd(), POLLIN), (far.as_fd(), POLLIN)];
        assert_eq!(wait_for(both, None).unwrap(), [false, true]);
        assert_eq!(wait_for(both, Some(Duration::MAX)).unwrap(), [false, true]);
    }

    #[test]
    fn limits_and_ids_are_read() {
        let (soft, hard) = open_file_limit().unwrap();
        assert!(soft > 0 && soft <= hard);
        set_open_file_limit(soft, hard).unwrap();
        let _ = effective_ids();
    }
}
