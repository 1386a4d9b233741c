//! How is a TUN device opened on Linux? This opens `/dev/net/tun`, and an ioctl names the device.

use crate::os::lock::{Lock, Rank, about_to_wait};
use crate::os::tun::Woken;
use crate::os::{reason, sys};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

const DEVICE: &str = "/dev/net/tun";

/// An open TUN device. Reading, writing and waiting take `&self`. Each is one system call, and the
/// kernel keeps packets whole, so several threads may share it.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    offload: bool,
    read_lock: Lock<()>,
    is_created: bool,
}

impl Tun {
    /// Whether this system has such devices. A program that needs one asks this first.
    ///
    /// # Errors
    /// It has none: what to do.
    pub fn check_system() -> io::Result<()> {
        Ok(())
    }

    /// Creates the device `name` (1 to 15 bytes). With `offload`, packets have a virtio header and
    /// may be super-packets of TCP, and of UDP since Linux 6.2.
    pub fn create(name: &str, offload: bool) -> io::Result<Tun> {
        check_name(name)?;
        let (file, name) = open(name, offload)?;
        Ok(Tun {
            file,
            name,
            offload,
            read_lock: Lock::new(Rank::DeviceRead, ()),
            is_created: true,
        })
    }

    /// Creates the device anew after somebody has removed it. The caller restores its addresses and
    /// routes.
    pub fn create_again(&self) -> io::Result<()> {
        if !self.is_created {
            return Err(ErrorKind::Unsupported.into());
        }
        let (file, name) = open(&self.name, self.offload)?;
        if name != self.name {
            return Err(io::Error::other(format!("it is now called {name}")));
        }
        // Other threads use the descriptor now, so it stays open and leads to the new device.
        sys::put_in_place_of(self.file.as_fd(), file.into())
    }

    /// A device that other code has opened: a `Namespace`, or a test with a datagram socket.
    pub fn from_fd(fd: OwnedFd, name: &str, offload: bool) -> io::Result<Tun> {
        sys::set_nonblocking(fd.as_fd())?;
        Ok(Tun {
            file: File::from(fd),
            name: name.to_owned(),
            offload,
            read_lock: Lock::new(Rank::DeviceRead, ()),
            is_created: false,
        })
    }

    /// The name that the kernel gave it. It fills in the number of a name such as `fern%d`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether each packet has a virtio header in front.
    pub fn offload(&self) -> bool {
        self.offload
    }

    /// The lock for reading. Without it, packets that two threads read might change their order.
    pub fn read_lock(&self) -> &Lock<()> {
        &self.read_lock
    }

    /// Reads one packet, or returns `WouldBlock` if none waits. Bytes that do not fit into `buffer`
    /// are lost.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet, gathered from its parts (header, payload). The kernel takes all of it or
    /// none.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(parts)
    }

    /// Waits at most for `timeout` until one of these is ready. The device has a packet, `wake` has
    /// data or its end, or the socket `full`, if any, takes data or has an error.
    pub fn wait(
        &self,
        wake: &impl AsFd,
        full: Option<&TcpStream>,
        timeout: Option<Duration>,
    ) -> io::Result<Woken> {
        about_to_wait("the device");
        // Without a socket, the device is listed twice, and the second entry is ignored.
        let full = full.map_or((self.file.as_fd(), 0), |socket| {
            (socket.as_fd(), sys::POLLOUT)
        });
        let watched = [
            (wake.as_fd(), sys::POLLIN),
            full,
            (self.file.as_fd(), sys::POLLIN),
        ];
        Ok(match sys::wait_for(watched, timeout)? {
            [true, ..] => Woken::ByWake,
            [_, true, _] => Woken::BySocket,
            _ => Woken::ByDevice,
        })
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open(name: &str, offload: bool) -> io::Result<(File, String)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(sys::O_NONBLOCK)
        .open(DEVICE);
    let file = file.map_err(|error| cannot_create(name, &error, open_remedy(&error)))?;
    let header = if offload { sys::IFF_VNET_HDR } else { 0 };
    let flags = sys::IFF_TUN | sys::IFF_NO_PI | header;
    let name = sys::tun_set_interface(file.as_fd(), name, flags)
        .map_err(|error| cannot_create(name, &error, create_remedy(&error)))?;
    if offload {
        let tcp = sys::TUN_F_CSUM | sys::TUN_F_TSO4 | sys::TUN_F_TSO6;
        sys::tun_set_offload(file.as_fd(), tcp | sys::TUN_F_USO4 | sys::TUN_F_USO6)
            .or_else(|_| sys::tun_set_offload(file.as_fd(), tcp))
            .map_err(|error| cannot_create(&name, &error, "it refuses segmentation offload"))?;
    }
    Ok((file, name))
}

/// These are the kernel's rules (`dev_valid_name`), and only printable characters. nft's rules
/// cannot name a device with a quotation mark.
fn check_name(name: &str) -> io::Result<()> {
    let fine = |byte: u8| byte.is_ascii_graphic() && !b"/:\"".contains(&byte);
    if (1..=15).contains(&name.len()) && name.bytes().all(fine) && name != "." && name != ".." {
        return Ok(());
    }
    let text = format!(
        "{name:?} cannot name a network device. \
         A name has 1 to 15 letters or digits, no blank, `/`, `:` or `\"`"
    );
    Err(io::Error::new(ErrorKind::InvalidInput, text))
}

fn cannot_create(name: &str, error: &io::Error, remedy: &str) -> io::Error {
    let text = format!(
        "cannot create the TUN device {name}: {}: {remedy}",
        reason(error)
    );
    io::Error::new(error.kind(), text)
}

/// Why `/dev/net/tun` cannot be opened.
fn open_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => {
            "there is no /dev/net/tun. Try: `modprobe tun`, in a container pass the device in, \
             or use --no-tun"
        }
        ErrorKind::PermissionDenied => {
            "this user may not open /dev/net/tun. Try: `chmod 666 /dev/net/tun`, which is usual \
             and safe, or use --no-tun"
        }
        _ => "opening /dev/net/tun failed. Try: `modprobe tun`, or use --no-tun",
    }
}

/// Why the open file cannot become a device.
fn create_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            "it needs CAP_NET_ADMIN. Try: run as root, or use --private or --no-tun"
        }
        ErrorKind::ResourceBusy => {
            "the device exists and is in use. Try: stop the other fernvpn, or choose another --tun"
        }
        ErrorKind::InvalidInput => {
            "a device of this name and another kind exists. Try: another --tun"
        }
        _ => "the kernel refused. Try: --no-tun, which works without a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::wake::Wake;
    use std::net::TcpListener;
    use std::os::unix::net::UnixDatagram;

    fn pair() -> (Tun, UnixDatagram) {
        let (near, far) = UnixDatagram::pair().unwrap();
        (Tun::from_fd(near.into(), "test0", false).unwrap(), far)
    }

    #[test]
    fn packets_stay_whole_both_ways() {
        let (tun, kernel) = pair();
        let mut buffer = [0; 100];
        assert_eq!(
            tun.read_now(&mut buffer).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        kernel.send(b"one").unwrap();
        kernel.send(b"another").unwrap();
        assert_eq!(tun.read_now(&mut buffer).unwrap(), 3);
        assert_eq!(tun.read_now(&mut buffer).unwrap(), 7);
        assert_eq!(
            tun.write(&[IoSlice::new(b"head"), IoSlice::new(b"er")])
                .unwrap(),
            6
        );
        assert_eq!(kernel.recv(&mut buffer).unwrap(), 6);
        assert_eq!(&buffer[..6], b"header");
    }

    #[test]
    fn a_wait_tells_what_has_ended_it() {
        let (tun, kernel) = pair();
        let wake = Wake::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(
            tun.wait(&wake, None, Some(Duration::from_millis(10)))
                .unwrap(),
            Woken::ByDevice
        );
        assert_eq!(
            tun.wait(&wake, Some(&socket), None).unwrap(),
            Woken::BySocket
        );
        kernel.send(b"packet").unwrap();
        assert_eq!(tun.wait(&wake, None, None).unwrap(), Woken::ByDevice);
        assert_eq!(
            tun.wait(&wake, Some(&socket), None).unwrap(),
            Woken::BySocket
        );
        std::thread::scope(|scope| {
            tun.read_now(&mut [0; 10]).unwrap();
            let reader = scope.spawn(|| tun.wait(&wake, None, None).unwrap());
            std::thread::sleep(Duration::from_millis(10));
            wake.ring();
            assert_eq!(reader.join().unwrap(), Woken::ByWake);
        });
        kernel.send(b"packet").unwrap();
        assert_eq!(
            tun.wait(&wake, Some(&socket), None).unwrap(),
            Woken::ByWake,
            "rung is rung"
        );
    }

    #[test]
    fn names_are_checked_before_the_kernel_sees_them() {
        for name in [
            "",
            "sixteen-bytes-16",
            "a/b",
            "a b",
            "a:b",
            ".",
            "..",
            "a\0",
            "f\u{e9}r",
            "a\n",
            "a\"b",
        ] {
            assert_eq!(
                Tun::create(name, false).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
        }
        for name in ["f", "fifteen-bytes15", "fern%d", "a.b"] {
            assert!(check_name(name).is_ok());
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = |number| io::Error::from_raw_os_error(number);
        assert!(open_remedy(&error(2)).contains("modprobe tun"));
        assert!(create_remedy(&error(1)).contains("CAP_NET_ADMIN"));
        let busy = error(16);
        let text = cannot_create("fern0", &busy, create_remedy(&busy)).to_string();
        assert!(
            text.starts_with("cannot create the TUN device fern0: ") && text.contains("in use"),
            "{text}"
        );
    }
}
