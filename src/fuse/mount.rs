// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Mounting and unmounting.
//!
//! As root by mount(2); otherwise through the setuid helper fusermount3 (or fusermount), which
//! hands the opened device over a socket (fuse3's util/fusermount.c).

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use nix::unistd::{getgid, getuid};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::options::Options;

/// The helpers that mount for ordinary users, the one preferred first.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// A mount that is nobody's yet: its requests wait until a session serves them.
#[derive(Debug)]
pub struct Mount {
    /// The kernel's end of the conversation.
    pub device: OwnedFd,
    /// Where it is, and which one.
    pub place: Place,
    /// Takes it out of the tree when this process ends.
    pub watcher: Option<Watcher>,
}

/// The helper of the option `auto_unmount`, which waits for the end of this process or of this
/// object, and unmounts then what is still mounted.
#[derive(Debug)]
pub struct Watcher {
    /// The helper reads its other end until nobody holds this one.
    socket: Option<OwnedFd>,
    helper: Child,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.socket.take());
        // In a fork it is no child to wait for, and goes on with the socket of the others.
        let _ = self.helper.wait();
    }
}

/// Where a mount is, and which one it is of those that may be there one after the other.
#[derive(Debug, Clone)]
pub struct Place {
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    /// Minor device number; names the connection in /sys/fs/fuse/connections.
    pub minor: Option<u64>,
    /// The number that the kernel gives to no other mount (since Linux 6.8). A minor device number
    /// is given again as soon as its mount is gone: to the next mount, likely at the same place.
    unique: Option<u64>,
}

/// Mounts a fuse file system at a directory, without starting a thread and without waiting for
/// anybody to serve it.
///
/// # Errors
/// Names the mount point and what is wrong with it, or what is missing for mounting.
pub fn mount_at(path: &Path, options: &Options) -> io::Result<Mount> {
    MountPoint::find(path, options)?.mount(options)
}

/// A file or directory to mount at.
pub struct MountPoint {
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    mode: u32,
}

impl MountPoint {
    /// Looks at a path. That may take as long as the file system answers that it is on.
    ///
    /// # Errors
    /// Names the mount point and what is wrong with it.
    pub fn find(path: &Path, options: &Options) -> io::Result<Self> {
        let real = path.canonicalize().map_err(|e| at(path, e))?;
        let metadata = real.metadata().map_err(|e| at(path, e))?;
        if !options.nonempty {
            refuse_contents(&real, &metadata).map_err(|e| at(path, e))?;
        }
        Ok(MountPoint { path: real, mode: metadata.mode() })
    }

    /// Mounts there.
    ///
    /// # Errors
    /// As [`mount_at`].
    pub fn mount(self, options: &Options) -> io::Result<Mount> {
        mount_real(self.path, self.mode, options)
    }
}

fn mount_real(real: PathBuf, mode: u32, options: &Options) -> io::Result<Mount> {
    let mounted = if options.auto_unmount {
        through_helper(&real, options)
    } else {
        match mount_directly(&real, mode, options) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                through_helper(&real, options)
            }
            result => result.map(|device| (device, None)),
        }
    };
    let (device, watcher) = mounted.map_err(|e| at(&real, e))?;
    let (minor, unique) = (minor_of(&real), unique_id_of(&real));
    Ok(Mount { device, place: Place { path: real, minor, unique }, watcher })
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("mount point {}: {error}", path.display()))
}

/// What would be out of sight while something is mounted over it: entries of a directory, the
/// content of a file. libfuse 2 refuses that unless it is told `nonempty`.
fn refuse_contents(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let empty = if metadata.is_dir() {
        match path.read_dir()?.next() {
            Some(entry) => entry.map(|_| false)?,
            None => true,
        }
    } else {
        metadata.len() == 0
    };
    if empty {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::DirectoryNotEmpty,
        "not empty (mount option nonempty, arv-mount's --nonempty, mounts over it)",
    ))
}

fn mount_directly(path: &Path, mode: u32, options: &Options) -> io::Result<OwnedFd> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/fuse")
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => io::Error::other(
                "/dev/fuse does not exist: load the kernel module fuse (modprobe fuse), or give the container the device",
            ),
            _ => e,
        })?;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={}",
        device.as_raw_fd(),
        mode & libc::S_IFMT,
        getuid(),
        getgid()
    );
    for option in &options.kernel {
        data.push(',');
        data.push_str(option);
    }
    mount(
        Some(options.source().as_str()),
        path,
        Some(options.fstype().as_str()),
        options.flags,
        Some(data.as_str()),
    )?;
    Ok(OwnedFd::from(device))
}

fn through_helper(path: &Path, options: &Options) -> io::Result<(OwnedFd, Option<Watcher>)> {
    for helper in HELPERS {
        // Without SOCK_CLOEXEC: the helper inherits its end.
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
        fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let child = Command::new(helper)
            .arg("-o")
            .arg(options.for_fusermount())
            .arg("--")
            .arg(path)
            .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // What a terminal sends to everybody in the foreground must not end it half-way, with
            // the mount made and its descriptor lost.
            .process_group(0)
            .spawn();
        let mut child = match child {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            child => child?,
        };
        drop(theirs);
        let device = receive_fd(&ours);
        if let Ok(Some(device)) = device {
            fcntl(&device, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            if options.auto_unmount {
                return Ok((device, Some(Watcher { socket: Some(ours), helper: child })));
            }
            child.wait()?;
            return Ok((device, None));
        }
        let output = child.wait_with_output()?;
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "not permitted to call mount(2), and neither fusermount3 nor fusermount is installed (Debian's package fuse3 has them)",
    ))
}

fn receive_fd(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0_u8; 1];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(i32);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty())?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
            #[allow(unsafe_code)]
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    Ok(None)
}

/// The minor device number of the mount at a path, from the mount table: stat(2) would ask the
/// file system, which nobody serves yet.
fn minor_of(path: &Path) -> Option<u64> {
    mounts().ok()?.into_iter().rev().find(|(_, at)| at == path).map(|(minor, _)| minor)
}

/// The kernel's number for the mount at a path, where it gives one that is not used again.
fn unique_id_of(path: &Path) -> Option<u64> {
    // As in linux/stat.h.
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    // No other attribute, and none that is not known already: nobody may be there to answer.
    let mask = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, mask).ok()?;
    (found.stx_mask & STATX_MNT_ID_UNIQUE != 0).then_some(found.stx_mnt_id)
}

/// Minor device number and mount point of every fuse mount that this process sees.
fn mounts() -> io::Result<Vec<(u64, PathBuf)>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let kind =
                fields.iter().position(|f| *f == "-").and_then(|dash| fields.get(dash + 1))?;
            let (major, minor) = fields.get(2)?.split_once(':')?;
            let fuse = *kind == "fuse" || kind.starts_with("fuse.");
            (fuse && major == "0")
                .then(|| Some((minor.parse().ok()?, unescape(fields.get(4)?))))
                .flatten()
        })
        .collect())
}

/// Undoes the octal escapes of the mount table (space, tab, newline, backslash).
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = (bytes[i] == b'\\')
            .then(|| field.get(i + 1..i + 4).and_then(|octal| u8::from_str_radix(octal, 8).ok()))
            .flatten();
        if let Some(byte) = code {
            plain.push(byte);
            i += 4;
        } else {
            plain.push(bytes[i]);
            i += 1;
        }
    }
    std::ffi::OsString::from_vec(plain).into()
}

impl Place {
    /// Takes the mount out of the tree, if it is still there; users that have files open keep them.
    pub fn detach(&self) {
        let path = &self.path;
        if !self.is_mounted() {
            return;
        }
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(nix::errno::Errno::EPERM) => {
                for helper in HELPERS {
                    let run =
                        Command::new(helper).args(["-u", "-q", "-z", "--"]).arg(path).status();
                    if run.is_ok() {
                        return;
                    }
                }
                log::warn!("cannot unmount {}: not permitted, and no fusermount", path.display());
            }
            Err(error) => log::warn!("cannot unmount {}: {error}", path.display()),
        }
    }

    /// Has the kernel read so many bytes ahead of sequential readers, where it would less and where
    /// this process may say so: it is for root. The kernel's own default is 128 KiB, and what both
    /// sides agree on when a session begins can only lower that.
    pub fn raise_read_ahead(&self, bytes: u32) {
        let Some(minor) = self.minor else { return };
        let setting = format!("/sys/class/bdi/0:{minor}/read_ahead_kb");
        let raise = || {
            let now = std::fs::read_to_string(&setting)?;
            let wanted = bytes / 1024;
            if now.trim().parse::<u32>().is_ok_and(|now| now < wanted) {
                std::fs::write(&setting, wanted.to_string())?;
            }
            Ok::<_, io::Error>(())
        };
        if let Err(error) = raise() {
            log::debug!("{setting} stays as it is: {error}");
        }
    }

    /// Whether the mount is still in the tree, as far as can be told.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        let listed = match (mounts(), self.minor) {
            (Ok(mounts), Some(minor)) => {
                mounts.iter().any(|(m, at)| *m == minor && *at == self.path)
            }
            (Ok(mounts), None) => mounts.iter().any(|(_, at)| *at == self.path),
            (Err(_), _) => true,
        };
        // Only then: what else is at the path may be a file system that does not answer.
        listed && (self.unique.is_none() || unique_id_of(&self.path) == self.unique)
    }
}

/// Ends the conversation with the kernel: whoever waits for an answer gets ECONNABORTED.
///
/// # Errors
/// Where the control file system is not to be had.
pub fn abort(minor: u64) -> io::Result<()> {
    let control = Path::new("/sys/fs/fuse/connections");
    match write_abort(control, minor) {
        // Not mounted here, as in many containers: whoever may mount has a look of its own.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let own = std::env::temp_dir().join(format!("fusectl-{}", std::process::id()));
            std::fs::create_dir(&own)?;
            let aborted =
                mount(Some("fusectl"), &own, Some("fusectl"), MsFlags::empty(), None::<&str>)
                    .map_err(io::Error::from)
                    .and_then(|()| {
                        let aborted = write_abort(&own, minor);
                        let _ = umount2(&own, MntFlags::MNT_DETACH);
                        aborted
                    });
            let _ = std::fs::remove_dir(&own);
            aborted
        }
        result => result,
    }
}

fn write_abort(control: &Path, minor: u64) -> io::Result<()> {
    let file = control.join(minor.to_string()).join("abort");
    File::options().write(true).open(file)?.write_all(b"1")
}

#[cfg(test)]
mod tests {
    use super::{mount_at, refuse_contents, unescape};
    use crate::fuse::options::Options;
    use std::path::Path;

    #[test]
    fn mount_table_escapes() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/plain\\04"), Path::new("/plain\\04"));
    }

    #[test]
    fn what_is_not_empty_is_refused() {
        let place = std::env::temp_dir().join(format!("nonempty-{}", std::process::id()));
        std::fs::create_dir(&place).unwrap();
        let refused = |path: &Path| refuse_contents(path, &path.metadata().unwrap()).is_err();
        assert!(!refused(&place));
        let file = place.join("f");
        std::fs::write(&file, "").unwrap();
        assert!(refused(&place) && !refused(&file));
        std::fs::write(&file, "x").unwrap();
        assert!(refused(&file));
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn a_missing_mount_point_is_named() {
        let options = Options::parse([]).unwrap();
        let error = mount_at(Path::new("/nonexistent/mnt"), &options).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/mnt"), "{error}");
    }
}
