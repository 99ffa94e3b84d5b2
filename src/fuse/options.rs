// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The option strings of mount.fuse(8) and of libfuse 2, which callers of llfuse pass.

use std::io;

use nix::mount::MsFlags;

/// What the options ask for, sorted by who obeys them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// For the kernel's fuse file system, as they are.
    pub kernel: Vec<String>,
    /// For the kernel's VFS.
    pub flags: MsFlags,
    /// Shown as the mounted device.
    pub fsname: Option<String>,
    /// Shown as `fuse.SUBTYPE`.
    pub subtype: Option<String>,
    /// Largest write request, in bytes.
    pub max_write: Option<u32>,
    /// How far the kernel reads ahead, in bytes; more than its default of 128 KiB only for root.
    pub max_readahead: Option<u32>,
    /// Most requests that the kernel has under way in the background.
    pub max_background: Option<u16>,
    /// Reads of one file are sent one after the other.
    pub sync_read: bool,
    /// Log every request.
    pub debug: bool,
    /// The kernel drops what it cached of a file when it sees a new time of its last change; where
    /// this is not said, the file system's own default holds.
    pub auto_inval_data: Option<bool>,
    /// A helper takes the mount out of the tree when this process ends, however it ends.
    pub auto_unmount: bool,
    /// Mount over what is not empty, too.
    pub nonempty: bool,
}

impl Options {
    /// Sorts option strings; a string may hold several, separated by commas. A backslash takes its
    /// meaning from the character after it.
    ///
    /// # Errors
    /// `InvalidInput`, naming the option that is not known or has no proper value.
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let mut parsed = Options {
            kernel: Vec::new(),
            // As fusermount has it; whoever wants otherwise says so.
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            fsname: None,
            subtype: None,
            max_write: None,
            max_readahead: None,
            max_background: None,
            sync_read: false,
            debug: false,
            auto_inval_data: None,
            auto_unmount: false,
            nonempty: false,
        };
        for option in options.into_iter().flat_map(split).filter(|o| !o.is_empty()) {
            parsed.take(&option)?;
        }
        Ok(parsed)
    }

    fn take(&mut self, option: &str) -> io::Result<()> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("allow_other" | "default_permissions", None) => self.kernel.push(option.into()),
            ("max_read" | "blksize", Some(value)) => {
                number::<u32>(option, value)?;
                self.kernel.push(option.into());
            }
            ("fsname", Some(value)) => self.fsname = Some(value.into()),
            ("subtype", Some(value)) => self.subtype = Some(value.into()),
            ("max_write", Some(value)) => self.max_write = Some(number(option, value)?),
            ("max_readahead", Some(value)) => self.max_readahead = Some(number(option, value)?),
            ("max_background", Some(value)) => self.max_background = Some(number(option, value)?),
            ("sync_read", None) => self.sync_read = true,
            ("debug", None) => self.debug = true,
            ("auto_inval_data", None) => self.auto_inval_data = Some(true),
            ("no_auto_inval_data", None) => self.auto_inval_data = Some(false),
            ("auto_unmount", None) => self.auto_unmount = true,
            ("nonempty", None) => self.nonempty = true,
            ("ro", None) => self.flags |= MsFlags::MS_RDONLY,
            ("rw", None) => self.flags &= !MsFlags::MS_RDONLY,
            ("nosuid", None) => self.flags |= MsFlags::MS_NOSUID,
            ("suid", None) => self.flags &= !MsFlags::MS_NOSUID,
            ("nodev", None) => self.flags |= MsFlags::MS_NODEV,
            ("dev", None) => self.flags &= !MsFlags::MS_NODEV,
            ("noexec", None) => self.flags |= MsFlags::MS_NOEXEC,
            ("exec", None) => self.flags &= !MsFlags::MS_NOEXEC,
            ("noatime", None) => self.flags |= MsFlags::MS_NOATIME,
            ("atime", None) => self.flags &= !MsFlags::MS_NOATIME,
            ("dirsync", None) => self.flags |= MsFlags::MS_DIRSYNC,
            ("sync", None) => self.flags |= MsFlags::MS_SYNCHRONOUS,
            ("async", None) => self.flags &= !MsFlags::MS_SYNCHRONOUS,
            // Always so here, or of no meaning without libfuse.
            (
                "big_writes"
                | "async_read"
                | "large_read"
                | "atomic_o_trunc"
                | "splice_read"
                | "splice_write"
                | "splice_move"
                | "no_splice_read"
                | "no_splice_write"
                | "no_splice_move"
                | "no_remote_lock"
                | "no_remote_flock"
                | "no_remote_posix_lock",
                None,
            )
            | ("congestion_threshold", Some(_)) => {}
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("unknown mount option '{option}'"),
                ));
            }
        }
        Ok(())
    }

    /// The type that the mount table shows.
    #[must_use]
    pub fn fstype(&self) -> String {
        match &self.subtype {
            Some(subtype) if !subtype.is_empty() => format!("fuse.{subtype}"),
            _ => "fuse".into(),
        }
    }

    /// The device that the mount table shows.
    #[must_use]
    pub fn source(&self) -> String {
        let named = self.fsname.as_ref().or(self.subtype.as_ref()).filter(|s| !s.is_empty());
        named.cloned().unwrap_or_else(|| "/dev/fuse".into())
    }

    /// The options that fusermount takes, as one string.
    #[must_use]
    pub fn for_fusermount(&self) -> String {
        let mut all = self.kernel.clone();
        all.extend(self.fsname.iter().map(|v| format!("fsname={}", escaped(v))));
        let subtype = self.subtype.iter().filter(|v| !v.is_empty());
        all.extend(subtype.map(|v| format!("subtype={}", escaped(v))));
        if self.auto_unmount {
            all.push("auto_unmount".into());
        }
        for (flag, set, unset) in [
            (MsFlags::MS_RDONLY, "ro", "rw"),
            (MsFlags::MS_NOSUID, "nosuid", "suid"),
            (MsFlags::MS_NODEV, "nodev", "dev"),
            (MsFlags::MS_NOEXEC, "noexec", "exec"),
            (MsFlags::MS_NOATIME, "noatime", "atime"),
            (MsFlags::MS_SYNCHRONOUS, "sync", "async"),
        ] {
            all.push(if self.flags.contains(flag) { set } else { unset }.into());
        }
        all.join(",")
    }
}

/// The options in a string, without the backslashes that escape (libfuse's `fuse_opt_parse`).
fn split(options: &str) -> Vec<String> {
    let (mut all, mut option) = (Vec::new(), String::new());
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => all.push(std::mem::take(&mut option)),
            '\\' => option.extend(characters.next()),
            other => option.push(other),
        }
    }
    all.push(option);
    all
}

/// A value as the helper reads it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> io::Result<T> {
    value.parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("mount option '{option}' needs a number"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::Options;
    use nix::mount::MsFlags;

    #[test]
    fn what_arv_mount_and_llfuse_pass_is_understood() {
        let options =
            Options::parse(["allow_other", "big_writes", "max_read=131072", "subtype=test"])
                .unwrap();
        assert_eq!(options.kernel, ["allow_other", "max_read=131072"]);
        assert_eq!(options.fstype(), "fuse.test");
        assert_eq!(options.source(), "test");
        let defaults =
            ["big_writes", "default_permissions", "no_splice_read", "splice_write", "splice_move"];
        assert_eq!(Options::parse(defaults).unwrap().kernel, ["default_permissions"]);
    }

    #[test]
    fn an_unknown_option_is_named() {
        let error = Options::parse(["ro,frobnicate"]).unwrap_err();
        assert!(error.to_string().contains("'frobnicate'"));
        assert!(Options::parse(["max_read=lots"]).is_err());
    }

    #[test]
    fn a_backslash_escapes() {
        let options = Options::parse([r"fsname=a\,b\\c,ro", "subtype=t"]).unwrap();
        assert_eq!(options.source(), r"a,b\c");
        assert!(options.flags.contains(MsFlags::MS_RDONLY));
        assert!(options.for_fusermount().starts_with(r"fsname=a\,b\\c,subtype=t,"));
    }

    #[test]
    fn flags_follow_the_last_word() {
        let options = Options::parse(["ro,rw,suid,fsname=x"]).unwrap();
        assert!(!options.flags.contains(MsFlags::MS_RDONLY));
        assert!(!options.flags.contains(MsFlags::MS_NOSUID));
        assert_eq!(options.source(), "x");
        assert_eq!(options.for_fusermount(), "fsname=x,rw,suid,nodev,exec,atime,async");
    }
}
