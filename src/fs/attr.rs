// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The numbers that the kernel and the file system exchange about an inode, as types of their own.

use std::time::{Duration, SystemTime};

/// An inode number. 1 is the root of the mount (`FUSE_ROOT_ID` in the kernel's fuse.h); 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount.
    pub const ROOT: Ino = Ino(1);
}

impl std::fmt::Display for Ino {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A file handle: the number that an open file or directory is called by until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

impl std::fmt::Display for Fh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The process on whose behalf the kernel asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id of the caller.
    pub uid: u32,
    /// Group id of the caller.
    pub gid: u32,
    /// Process id of the caller; 0 where it is in another pid namespace.
    pub pid: u32,
    /// The caller's umask, where the request carries one (create, mkdir, mknod); otherwise 0.
    pub umask: u32,
}

/// Nanoseconds since 1970-01-01T00:00:00Z; negative before.
///
/// ```
/// use arvados_fuse::fs::Timestamp;
/// use std::time::Duration;
///
/// let changed = Timestamp::from_secs_f64(1.5);
/// assert_eq!(changed, Timestamp(1_500_000_000));
/// let stale = changed.saturating_add(Duration::from_secs(60));
/// assert_eq!(stale.saturating_since(changed), Duration::from_secs(60));
/// assert_eq!(changed.saturating_since(stale), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i128);

impl Timestamp {
    /// The present, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Timestamp(i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)),
            Err(before) => {
                let nanos = before.duration().as_nanos();
                Timestamp(i128::try_from(nanos).map_or(i128::MIN, |n| -n))
            }
        }
    }

    /// From seconds since the epoch, to the nearest nanosecond. NaN and infinities become the epoch.
    #[must_use]
    pub fn from_secs_f64(seconds: f64) -> Self {
        if !seconds.is_finite() {
            return Timestamp(0);
        }
        // Parted first: as one product, the fraction would be lost to the size of the whole.
        let (whole, fraction) = (seconds.floor(), seconds - seconds.floor());
        #[allow(clippy::cast_possible_truncation)]
        Timestamp(whole as i128 * 1_000_000_000 + (fraction * 1e9).round() as i128)
    }

    /// Seconds since the epoch. What came from [`Timestamp::from_secs_f64`] comes back the same, for
    /// any time whose float has no digits below a nanosecond.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn as_secs_f64(self) -> f64 {
        let whole = self.0.div_euclid(1_000_000_000);
        whole as f64 + self.0.rem_euclid(1_000_000_000) as f64 / 1e9
    }

    /// Date and time in UTC to the second, in the basic form of ISO 8601.
    ///
    /// ```
    /// # use arvados_fuse::fs::Timestamp;
    /// assert_eq!(Timestamp::from_secs_f64(1_709_210_096.5).utc_basic(), "20240229T123456Z");
    /// ```
    #[must_use]
    pub fn utc_basic(self) -> String {
        let seconds = self.0.div_euclid(1_000_000_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years begin in March here, so that the day that some have more is their last.
        let day = days + 719_468;
        let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let of_month = of_year - (153 * month + 2) / 5 + 1;
        let (month, year) = (if month < 10 { month + 3 } else { month - 9 }, year + 400 * era);
        let year = if month <= 2 { year + 1 } else { year };
        let (hour, minute) = (second / 3600, second / 60 % 60);
        format!("{year:04}{month:02}{of_month:02}T{hour:02}{minute:02}{:02}Z", second % 60)
    }

    /// Later by a period; at the end of time where it would be past that.
    #[must_use]
    pub fn saturating_add(self, period: Duration) -> Self {
        let nanos = i128::try_from(period.as_nanos()).unwrap_or(i128::MAX);
        Timestamp(self.0.saturating_add(nanos))
    }

    /// The period from `earlier` until this time; none where it is not earlier.
    #[must_use]
    pub fn saturating_since(self, earlier: Timestamp) -> Duration {
        let nanos = u64::try_from(self.0.saturating_sub(earlier.0).max(0)).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos)
    }
}

/// What stat(2) tells of an inode, and for how long the kernel may believe it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Generation of the inode number; with the number unique over the life of the mount.
    pub generation: u64,
    /// How long the kernel may keep the name that led here.
    pub entry_timeout: Duration,
    /// How long the kernel may keep these attributes.
    pub attr_timeout: Duration,
    /// File type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for device files; Linux's encoding.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Preferred size of a read or write, in bytes.
    pub blksize: u32,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the contents or attributes.
    pub ctime: Timestamp,
}

impl Attr {
    /// True where the mode says that this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// The changes that a setattr request asks for; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetAttr {
    /// New file type and permission bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New time of last access ("now" is already resolved).
    pub atime: Option<Timestamp>,
    /// New time of last change ("now" is already resolved).
    pub mtime: Option<Timestamp>,
    /// New time of last attribute change.
    pub ctime: Option<Timestamp>,
}

/// What statvfs(3) tells; sizes in units of `frsize`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Preferred size of a read or write, in bytes.
    pub bsize: u32,
    /// Unit of the block counts, in bytes.
    pub frsize: u32,
    /// Size of the file system.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks that an unprivileged user may take.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Longest file name, in bytes.
    pub namemax: u32,
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn seconds_as_floats_come_back_the_same() {
        for seconds in
            [0.0, 1.5, -1.25, 1_795_651_200.123_456_7, 1_700_000_000.000_000_2, 60.0, -0.5]
        {
            let there_and_back = Timestamp::from_secs_f64(seconds).as_secs_f64();
            assert_eq!(there_and_back.to_bits(), seconds.to_bits(), "{seconds}");
        }
        assert_eq!(Timestamp::from_secs_f64(-1.25), Timestamp(-1_250_000_000));
        assert_eq!(Timestamp::from_secs_f64(f64::NAN), Timestamp(0));
        assert_eq!(Timestamp::from_secs_f64(f64::INFINITY), Timestamp(0));
    }
}
