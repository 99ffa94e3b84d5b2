// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The number that a failed request answers with.

use std::fmt;

/// A Linux errno, 1 to 4095 (`MAX_ERRNO` in the kernel's include/linux/err.h).
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

#[cfg(test)]
mod tests {
    use super::Errno;

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
