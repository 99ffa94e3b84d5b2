// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What is timed.

macro_rules! operations {
    (requests: $($request:ident $name:literal),* ; others: $($other:ident $other_name:literal),*) => {
        /// What is timed, by the name that the metric labels it with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Op { $($request,)* $($other),* }

        impl Op {
            /// Every operation, in the order of their numbers.
            pub const ALL: &'static [Op] = &[$(Op::$request,)* $(Op::$other),*];

            /// Those requests of the kernel that Python has a handler for, of their name.
            pub const REQUESTS: &'static [Op] = &[$(Op::$request),*];

            /// The name of the handler and of the metric's label.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Op::$request => $name,)* $(Op::$other => $other_name),* }
            }
        }
    };
}

operations!(
    requests:
    Access "access", Create "create", Destroy "destroy", Flush "flush", Forget "forget",
    Fsync "fsync", Fsyncdir "fsyncdir", Getattr "getattr", Getxattr "getxattr", Init "init",
    Link "link", Listxattr "listxattr", Lookup "lookup", Mkdir "mkdir", Mknod "mknod",
    Open "open", Opendir "opendir", Read "read", Readdir "readdir", Readlink "readlink",
    Release "release", Releasedir "releasedir", Removexattr "removexattr", Rename "rename",
    Rmdir "rmdir", Setattr "setattr", Setxattr "setxattr", Statfs "statfs", Symlink "symlink",
    Unlink "unlink", Write "write";
    others:
    CopyFileRange "copy_file_range", Fallocate "fallocate", Lseek "lseek", OnEvent "on_event"
);

impl Op {
    /// The operation of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Op> {
        Op::ALL.iter().copied().find(|op| op.name() == name)
    }
}
