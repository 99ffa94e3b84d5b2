// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The number that a failed request answers with, and the table of why the core fails.

use std::fmt;

/// A Linux errno, 1 to 4095 (`MAX_ERRNO` in the kernel's include/linux/err.h).
///
/// ```
/// use arvados_fuse::fs::Errno;
///
/// assert_eq!(Errno::ENOENT.to_string(), "ENOENT");
/// assert_eq!(Errno::from(std::io::Error::from_raw_os_error(2)), Errno::ENOENT);
/// // The kernel would refuse it, and whoever asked would wait for ever.
/// assert_eq!(Errno::from_raw(0), Errno::EIO);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! names {
    ($($name:ident),* $(,)?) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "` of errno(3).")]
                pub const $name: Errno = Errno(libc::$name);
            )*

            /// The symbolic name of the numbers that this crate itself answers with.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                $(if self == Errno::$name { return Some(stringify!($name)); })*
                None
            }
        }
    };
}

names!(
    EACCES,
    EBADF,
    EEXIST,
    EFBIG,
    EINVAL,
    EIO,
    EISDIR,
    EILSEQ,
    ENAMETOOLONG,
    ENODATA,
    ENOENT,
    ENOSPC,
    ENOSYS,
    ENOTCONN,
    ENOTDIR,
    ENOTEMPTY,
    ENOTSUP,
    EPERM,
    ERANGE,
    EROFS,
    ETIMEDOUT,
    EXDEV,
    ENXIO,
);

impl Errno {
    /// The highest number that the kernel takes in an error reply.
    pub const MAX: i32 = 4095;

    /// `number` as an errno. Anything that the kernel would refuse (zero, negative, above
    /// [`Errno::MAX`]) becomes `EIO`: an error reply that is refused would leave its caller
    /// waiting for ever.
    #[must_use]
    pub fn from_raw(number: i32) -> Self {
        if (1..=Self::MAX).contains(&number) { Errno(number) } else { Errno::EIO }
    }

    /// The number itself.
    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl std::error::Error for Errno {}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

macro_rules! refusals {
    ($($(#[doc = $text:literal])* $name:ident = $errno:ident),* $(,)?) => {
        /// Why the file system itself fails a request: the one table of its errnos.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal { $($(#[doc = $text])* $name),* }

        impl Refusal {
            /// Every one.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name),*];

            /// What the request is answered with.
            #[must_use]
            pub const fn errno(self) -> Errno {
                match self { $(Refusal::$name => Errno::$errno),* }
            }
        }
    };
}

refusals! {
    /// No inode has that number, or no entry that name.
    NotFound = ENOENT,
    /// It is there, but what it needs (its number, its directory, its collection) is gone.
    Lost = EIO,
    /// The blocks of a file could not be read: what the servers did is in the log.
    Unreadable = EIO,
    /// No handle is open by that number.
    BadHandle = EBADF,
    /// A directory, where only a file will do.
    IsDirectory = EISDIR,
    /// Something else, where only a directory will do.
    NotDirectory = ENOTDIR,
    /// Something of that name is there.
    Exists = EEXIST,
    /// A directory that is not empty, where only an empty one will do.
    NotEmpty = ENOTEMPTY,
    /// A directory cannot move into itself.
    IntoItself = EINVAL,
    /// Only a rename within a collection that is changed here can exchange names.
    NoExchange = EINVAL,
    /// A range of a file cannot be copied over itself.
    Overlapping = EINVAL,
    /// No data, or no hole, is from that offset on.
    NotFurther = ENXIO,
    /// Of two collections, or otherwise not to be had without reading and writing.
    CrossCollection = EXDEV,
    /// A length or an offset that no file can have.
    TooLarge = EFBIG,
    /// What was written could not be stored: what the servers did is in the log.
    Unwritable = EIO,
    /// A name of more than 255 bytes.
    NameTooLong = ENAMETOOLONG,
    /// A name that the mount's encoding cannot express.
    NotText = EILSEQ,
    /// The collection has names that no file system can show.
    OddNames = EINVAL,
    /// Nothing can be changed through this mount.
    ReadOnly = EROFS,
    /// This file or directory cannot be changed so.
    NotPermitted = EPERM,
    /// Keep has nothing of the kind.
    NotSupported = ENOTSUP,
    /// A request that is not answered at all; the kernel does not ask again.
    NotImplemented = ENOSYS,
}

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Self {
        refusal.errno()
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, Refusal};

    #[test]
    fn every_refusal_has_the_errno_that_programs_know() {
        use Refusal::*;
        let expected = |refusal| match refusal {
            NotFound => libc::ENOENT,
            Lost | Unreadable | Unwritable => libc::EIO,
            BadHandle => libc::EBADF,
            IsDirectory => libc::EISDIR,
            NotDirectory => libc::ENOTDIR,
            Exists => libc::EEXIST,
            NotEmpty => libc::ENOTEMPTY,
            IntoItself | NoExchange | Overlapping | OddNames => libc::EINVAL,
            NotFurther => libc::ENXIO,
            CrossCollection => libc::EXDEV,
            TooLarge => libc::EFBIG,
            NameTooLong => libc::ENAMETOOLONG,
            NotText => libc::EILSEQ,
            ReadOnly => libc::EROFS,
            NotPermitted => libc::EPERM,
            NotSupported => libc::ENOTSUP,
            NotImplemented => libc::ENOSYS,
        };
        assert_eq!(Refusal::ALL.len(), 22);
        for refusal in Refusal::ALL {
            assert_eq!(refusal.errno().raw(), expected(*refusal), "{refusal:?}");
        }
    }

    #[test]
    fn numbers_that_the_kernel_refuses_become_eio() {
        for number in [0, -1, i32::MIN, 4096, i32::MAX] {
            assert_eq!(Errno::from_raw(number), Errno::EIO);
        }
        assert_eq!(Errno::from_raw(2), Errno::ENOENT);
        assert_eq!(Errno::from_raw(4095).raw(), 4095);
    }

    #[test]
    fn names_are_symbolic_where_known() {
        assert_eq!(Errno::EROFS.to_string(), "EROFS");
        assert_eq!(Errno::from_raw(4000).to_string(), "errno 4000");
    }
}
