# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`arv-mount`: from the command line to a mount, and back to an exit status."""

import errno
import importlib
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from typing import Any, NoReturn

import arvados
import llfuse
from llfuse import _core

from arvados_fuse import *  # noqa: F403  (the names that programs find here)
from arvados_fuse import (
    CollectionDirectory,
    Directory,
    InodeCache,
    MagicDirectory,
    Operations,
    ProjectDirectory,
    SharedDirectory,
    StringFile,
    TagsDirectory,
    TmpCollectionDirectory,
    cluster_checks,
    crunchstat,
    gc_tuning,
    lazy_imports,
    listing,
    logging_setup,
    sdk_hooks,
    signals,
    unsaved,
)
from arvados_fuse._version import __version__
from arvados_fuse.api_client import make_client
from arvados_fuse.api_requests import DEFAULT_TIMEOUT
from arvados_fuse.apierrors import explain, is_not_found
from arvados_fuse.arguments import ArgumentParser
from arvados_fuse.block_cache import BlockCache
from arvados_fuse.open_files import allow_open_files
from arvados_fuse.settings import load_settings
from arvados_fuse.unmount import detach, mountinfo, safer_realpath, unmount
from arvados_fuse.waiting import watch_requests

__all__ = ["ArgumentParser", "Mount", "main"]

#: Largest read that the kernel sends, in bytes.
_MAX_READ = 1024 * 1024
#: How far the kernel reads ahead, in bytes, where we may say so. More is no faster, and a page that is
#: read by mmap(2) brings as much around it.
_READ_AHEAD = 256 * 1024


def __getattr__(name: str) -> Any:
    # Imported when used: a mount in the foreground has no use for it.
    if name == "daemon":
        return importlib.import_module(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def exit(status: Any = None) -> NoReturn:
    """Leave, as `sys.exit` does."""
    raise SystemExit(status)


class Mount:
    """A mount as the command line describes it.

    A context manager: mounted while it is entered. `run()` does what the command line asks for and
    leaves by SystemExit.
    """

    def __init__(
        self, args: Any, logger: logging.Logger = logging.getLogger("arvados.arv-mount")
    ) -> None:
        self.daemon = False
        self.logger = logger
        self.args = args
        self.listen_for_events = False
        self._cluster: Any = None
        self._user: Any = None
        # What is mounted there need not answer.
        mountpoint, resolved = safer_realpath(self.args.mountpoint)
        self.args.mountpoint = mountpoint if resolved else os.path.realpath(self.args.mountpoint)
        if self.args.logfile:
            self.args.logfile = os.path.realpath(self.args.logfile)
        if self.args.disk_cache_dir:
            # A daemon changes its working directory.
            self.args.disk_cache_dir = os.path.realpath(self.args.disk_cache_dir)
        try:
            self._setup_logging()
        except Exception as error:
            self._give_up("cannot set up logging", error)
        if self.args.unmount or self.args.unmount_all:
            # Nothing is mounted, and no cluster is needed.
            return
        allow_open_files(self.args.file_cache, self.logger)
        try:
            if getattr(self.args, "local", None):
                self._start_local_cluster()
            if self.args.enable_write:
                # What cannot be loaded is told now, not when something is to be saved.
                lazy_imports.load("pycurl")
            self._setup_api()
            self._setup_mount()
        except Exception as error:
            self._stop_local_cluster()
            self._give_up("cannot set up the mount", error)
        except BaseException:
            self._stop_local_cluster()
            raise

    def _give_up(self, what: str, error: BaseException) -> NoReturn:
        self.logger.error("%s: %s", what, explain(error), exc_info=self.args.debug)
        exit(1)

    def _start_local_cluster(self) -> None:
        from arvados_fuse.localcluster import LocalCluster

        self.logger.info("starting a local cluster in %s", self.args.local)
        self._cluster = LocalCluster(self.args.local)
        self._cluster.start()
        os.environ.update(self._cluster.env())
        arvados.config.initialize()

    def _stop_local_cluster(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.stop()

    def __enter__(self) -> "Mount":
        try:
            return self._enter()
        except BaseException:
            self._stop_local_cluster()
            raise

    def _enter(self) -> "Mount":
        if self.args.replace:
            unmount(
                path=self.args.mountpoint,
                subtype=self.args.subtype,
                timeout=self.args.unmount_timeout,
            )
        if not getattr(self.args, "nonempty", False):
            self._refuse_what_is_mounted()
        try:
            is_directory = stat.S_ISDIR(os.stat(self.args.mountpoint).st_mode)
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                raise Exception(
                    f"mount point {self.args.mountpoint}: the mount that is there no longer answers "
                    f"({error.strerror}): --replace unmounts it first, --unmount does only that"
                ) from error
            # What is wrong comes out below.
            is_directory = True
        if not is_directory:
            raise Exception(f"mount point {self.args.mountpoint}: not a directory")
        llfuse.init(self.operations, str(self.args.mountpoint), self._fuse_options())
        if self.daemon:
            self._daemonize()
        # From here on there may be threads: none of them would have survived the fork.
        if signals.caught():
            signals.Listener(self._hang_up, self.operations.stacktrace, self._still_unsaved).start()
        if self.args.crunchstat_interval:
            threading.Thread(
                target=crunchstat.statlogger,
                args=(self.args.crunchstat_interval, self.api.keep, self.operations),
                kwargs={"write": logging_setup.write_statistics} if self.daemon else {},
                name="crunchstat",
                daemon=True,
            ).start()
        if self.listen_for_events and not self.args.disable_event_listening:
            self.operations.listen_for_events()
        self._loop_error: BaseException | None = None
        self.llfuse_thread = threading.Thread(target=self._llfuse_main, name="llfuse", daemon=True)
        self.llfuse_thread.start()
        while not self.operations.initlock.wait(timeout=1):
            if not self.llfuse_thread.is_alive():
                if self._loop_error is None:
                    # Unmounted already.
                    break
                raise RuntimeError(f"the FUSE loop did not start: {self._loop_error}")
        return self

    def _refuse_what_is_mounted(self) -> None:
        """Raise Exception where such a mount as this is to be is at the mount point already."""
        # By the mount table: what is mounted need not answer.
        kind = "fuse." + self.args.subtype if self.args.subtype else "fuse"
        if any(m.path == self.args.mountpoint and m.mnttype == kind for m in mountinfo()):
            raise Exception(
                f"mount point {self.args.mountpoint}: not empty, there is a FUSE mount already, or "
                "what is left of one: --replace unmounts it first, --nonempty mounts over it"
            )

    def _daemonize(self) -> None:
        # As an attribute of this module, where a program may have put another one.
        daemon = sys.modules[__name__].daemon
        system_log = None if self.args.logfile else logging_setup.connect_to_system_log()
        if not self.args.logfile and system_log is None:
            self.logger.warning(
                "there is no %s: from here on nothing is logged; --logfile FILE has it logged",
                logging_setup.SYSLOG_SOCKET,
            )
        # Everything that is open stays open, and no descriptor needs to be looked at that is not.
        keep = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
        more: Any = {}
        if signals.caught():
            # What comes meanwhile must not be lost, and the handlers are to stay.
            signals.fork_away()
            more = {"detach_process": False, "signal_map": signals.STOPPING}
        # What is made later (a log file that is begun anew) is no more for others than what is made now.
        umask = os.umask(0o077)
        os.umask(umask)
        daemon.DaemonContext(
            working_directory=os.path.dirname(self.args.mountpoint),
            files_preserve=keep,
            umask=umask,
            **more,
        ).open()
        if system_log is not None:
            logging_setup.send_to(system_log)
        logging_setup.log_what_ends_threads(self.logger)

    def _hang_up(self) -> bool:
        """Do what SIGHUP means; return whether the mount goes on."""
        if self.args.logfile:
            logging_setup.reopen_logs()
            self.logger.info("SIGHUP: the log goes on here")
        elif self.daemon:
            self.logger.info("SIGHUP: there is no log file to open again")
        else:
            # The terminal went away, or somebody wants it to look like that.
            return False
        return True

    def _still_unsaved(self) -> list[str]:
        """Name what is not saved, without waiting for a lock that a save under way may hold."""
        return unsaved.names(self.operations)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if self.operations.events:
            self.operations.events.close(timeout=self.args.unmount_timeout)
        if self.llfuse_thread.is_alive():
            detach(self.args.mountpoint)
            self.llfuse_thread.join(timeout=self.args.unmount_timeout)
        if self.llfuse_thread.is_alive():
            # Files are still open: end the conversation without their users.
            _core.unmount()
            self.llfuse_thread.join(timeout=self.args.unmount_timeout)
        sdk_hooks.shutdown(self.api.keep)
        self.api.keep.block_cache.clear()
        self._stop_local_cluster()
        if self.llfuse_thread.is_alive():
            self.logger.warning(
                "the FUSE loop is still running %s seconds after unmounting; leaving it behind",
                self.args.unmount_timeout,
            )

    def run(self) -> None:
        """Do what the command line asks for."""
        if self.args.unmount or self.args.unmount_all:
            self._run_unmount()
        elif self.args.exec_args:
            self._run_exec()
        else:
            self._run_standalone()

    def _run_unmount(self) -> None:
        unmount(
            path=self.args.mountpoint,
            subtype=self.args.subtype,
            timeout=self.args.unmount_timeout,
            recursive=self.args.unmount_all,
        )

    def _fuse_options(self) -> list[str]:
        """Return the mount options; see mount.fuse(8)."""
        options = [name for name in ("allow_other", "debug") if getattr(self.args, name)]
        options += ["big_writes", f"max_read={_MAX_READ}", f"max_readahead={_READ_AHEAD}"]
        if getattr(self.args, "nonempty", False):
            options.append("nonempty")
        if self.args.subtype:
            options.append("subtype=" + self.args.subtype)
        return options

    def _setup_logging(self) -> None:
        if self.args.logfile:
            logging_setup.log_to_file(self.args.logfile)
        else:
            logging_setup.log_to_stderr()
        if self.args.debug:
            arvados.logger.setLevel(logging.DEBUG)
            for name in ("arvados.keep", "arvados.api", "arvados.collection"):
                logging.getLogger(name).setLevel(logging.DEBUG)
            self.logger.debug("arv-mount debugging enabled")
        watch_requests()
        self.logger.info("%s %s started", sys.argv[0], __version__)
        self.logger.info("enable write is %s", self.args.enable_write)

    def _setup_api(self) -> None:
        settings = load_settings()
        for name in ("ARVADOS_API_HOST", "ARVADOS_API_TOKEN"):
            if not settings.get(name):
                raise Exception(
                    f"{name} is not set: set ARVADOS_API_HOST and ARVADOS_API_TOKEN in the "
                    "environment or in ~/.config/arvados/settings.conf, or try --local"
                )
        cache_dir = self.args.disk_cache_dir
        if self.args.disk_cache and cache_dir and not os.path.isdir(cache_dir):
            raise Exception(f"--disk-cache-dir {cache_dir} is not a directory: make it first")
        if write_buffer := getattr(self.args, "write_buffer", None):
            _core.set_write_buffer(write_buffer)
        _core.set_save_after(getattr(self.args, "save_after", 0.0))
        # A cache size of 0 has the SDK choose, by whether the cache is on disk.
        block_cache = BlockCache(
            cache_max=self.args.file_cache,
            disk_cache=self.args.disk_cache,
            disk_cache_dir=self.args.disk_cache_dir,
        )
        self.api = make_client(
            time_limit=getattr(self.args, "api_timeout", DEFAULT_TIMEOUT),
            apiconfig=settings,
            api_params={"num_retries": self.args.retries},
            keep_params={"block_cache": block_cache, "num_retries": self.args.retries},
            version="v1",
        )
        # Better to hear now that the cluster does not answer, or not to this token.
        self._user = listing.record(self.api.users().current().execute(), "the user")

    def _setup_mount(self) -> None:
        self.operations = Operations(
            os.getuid(),
            os.getgid(),
            api_client=self.api,
            encoding=self.args.encoding,
            inode_cache=InodeCache(cap=self.args.directory_cache),
            num_retries=self.args.retries,
            enable_write=self.args.enable_write,
            fsns=self.args.fsns,
        )
        user = self._user or self.api.users().current().execute(num_retries=self.args.retries)
        cluster_checks.check_filters(self.api, self.args.filters)
        storage_classes = self._storage_classes()
        cluster_checks.check_storage_classes(self.api, storage_classes)
        root = self._single_root(user, storage_classes)
        if root is not None:
            self.operations.inodes.add_entry(root)
            self.listen_for_events = root.want_event_subscribe()
        else:
            self._add_layout(user, storage_classes)

    def _storage_classes(self) -> list[str] | None:
        if self.args.storage_classes is None:
            return None
        classes = self.args.storage_classes.replace(" ", "").split(",")
        self.logger.info("storage classes for new collections: %s", ", ".join(classes))
        return classes

    def _dir_args(self, parent_inode: int) -> Any:
        return [
            parent_inode,
            self.operations.inodes,
            self.api,
            self.args.retries,
            self.args.enable_write,
            self.args.filters,
        ]

    def _single_root(self, user: dict, storage_classes: list[str] | None) -> Any:
        """Return the directory that is the whole mount, or None for a layout of several."""
        args = self.args
        if args.collection is not None:
            # Better to hear now that it cannot be read.
            self._get("collection", self.api.collections(), args.collection)
            args.mode = "collection"
        elif args.project is not None:
            args.mode = "project"
        custom = (
            args.mount_by_id
            or args.mount_by_pdh
            or args.mount_by_tag
            or args.mount_home
            or args.mount_shared
            or args.mount_tmp
        )
        if custom:
            if args.mode is not None:
                sys.exit(f"Cannot combine '{args.mode}' mode with custom --mount-* options.")
            return None
        if args.mode is None:
            args.mode = "all"
        common: Any = self._dir_args(llfuse.ROOT_INODE)
        poll: Any = {"poll_time": args.refresh_time}
        more: Any = {"storage_classes": storage_classes, **poll}
        if args.mode == "collection":
            return CollectionDirectory(*common, args.collection, **poll)
        if args.mode == "project":
            project = self._get("project", self.api.groups(), args.project)
            return ProjectDirectory(*common, project, **more)
        if args.mode in ("by_id", "by_pdh"):
            return MagicDirectory(*common, args.mode == "by_pdh", **more)
        if args.mode == "by_tag":
            return TagsDirectory(*common, **poll)
        if args.mode == "shared":
            return SharedDirectory(*common, user, **more)
        if args.mode == "home":
            return ProjectDirectory(*common, user, **more)
        return None

    def _get(self, what: str, resource: Any, uuid: str) -> dict:
        try:
            return resource.get(uuid=uuid).execute(num_retries=self.args.retries)
        except Exception as error:
            if not is_not_found(error):
                raise
            raise Exception(
                f"--{what} {uuid}: the cluster at {arvados.config.get('ARVADOS_API_HOST')} has no "
                f"such {what}, or none that this token may read"
            ) from error

    def _add_layout(self, user: dict, storage_classes: list[str] | None) -> None:
        args = self.args
        readme = args.mode == "all"
        if readme:
            args.mount_by_id, args.mount_by_tag = ["by_id"], ["by_tag"]
            args.mount_home, args.mount_shared = ["home"], ["shared"]
        top = self.operations.inodes.add_entry(
            Directory(llfuse.ROOT_INODE, self.operations.inodes, args.enable_write, args.filters)
        )
        common = self._dir_args(top.inode)
        poll: Any = {"poll_time": args.refresh_time}
        more: Any = {"storage_classes": storage_classes, **poll}
        for name in args.mount_by_id:
            self._add_mount(top, name, MagicDirectory(*common, pdh_only=False, **more))
        for name in args.mount_by_pdh:
            self._add_mount(top, name, MagicDirectory(*common, pdh_only=True, **poll))
        for name in args.mount_by_tag:
            self._add_mount(top, name, TagsDirectory(*common, **poll))
        for name in args.mount_home:
            self._add_mount(top, name, ProjectDirectory(*common, project_object=user, **more))
        for name in args.mount_shared:
            self._add_mount(top, name, SharedDirectory(*common, exclude=user, **more))
        for name in args.mount_tmp:
            scratch = TmpCollectionDirectory(*common, storage_classes=storage_classes)
            self._add_mount(top, name, scratch)
        if readme:
            text = self._readme_text(arvados.config.get("ARVADOS_API_HOST"), user["email"])
            # Not by _add_mount: a file has no events to listen for.
            top._entries["README"] = self.operations.inodes.add_entry(
                StringFile(top.inode, text, time.time())
            )

    def _add_mount(self, tld: Any, name: str, ent: Any) -> None:
        if name in ("", ".", "..") or "/" in name:
            sys.exit(f"Mount point '{name}' is not supported. Give a name without slashes.")
        if name in tld._entries:
            sys.exit(f"Mount point '{name}' is given twice. Give each --mount-* a name of its own.")
        tld._entries[name] = self.operations.inodes.add_entry(ent)
        self.listen_for_events = self.listen_for_events or ent.want_event_subscribe()

    def _readme_text(self, api_host: str, user_email: str) -> str:
        return f"""
This is what the Arvados installation at '{api_host}' shows to user
'{user_email}', as files and directories:

  by_id/     Collections and projects by uuid or portable data hash (see by_id/README).
  by_tag/    Collections by the tags they carry.
  home/      Your home project.
  shared/    Projects that others share with you.

"""

    def _run_exec(self) -> None:
        status = 255
        signals.command_follows()
        try:
            with self:
                status = self._exec()
                signals.set_exit_status(status)
        except Exception as error:
            self._give_up("cannot mount", error)
        self._leave(status or self._unsaved_status())

    def _exec(self) -> int:
        try:
            with signals.forwarding() as forward:
                number = signals.asked_to_end()
                if number is not None:
                    return 128 + number
                child = subprocess.Popen(self.args.exec_args)
                forward(child)
                status = child.wait()
        except Exception as error:
            self.logger.error("cannot run %s: %s", self.args.exec_args, explain(error))
            # As a shell has it: no such command, or none that can be run.
            return 127 if isinstance(error, FileNotFoundError) else 126
        # As a shell has it, where a signal ended the command.
        return status if status >= 0 else 128 - status

    def _run_standalone(self) -> None:
        self.daemon = not self.args.foreground
        gc_tuning.spare()
        # Whatever thread writes, what others gave back is there for it.
        _core.set_malloc_arenas(1)
        try:
            with self:
                self.llfuse_thread.join(timeout=None)
        except Exception as error:
            self._give_up("cannot mount", error)
        self._leave(self._unsaved_status())

    def _leave(self, status: int) -> NoReturn:
        signals.set_exit_status(status)
        exit(status)

    def _unsaved_status(self) -> int:
        return 1 if self.operations.unsaved else 0

    def _llfuse_main(self) -> None:
        try:
            llfuse.main(workers=10)
        except BaseException as error:
            self._loop_error = error
            self.logger.error("the FUSE loop ended: %s", error)
            llfuse.close()
            return
        self.operations.begin_shutdown()
        llfuse.close()


def main() -> None:
    """Run `arv-mount`."""
    signals.catch()
    args = ArgumentParser().parse_args()
    sdk_hooks.seal()
    try:
        Mount(args).run()
    except KeyboardInterrupt:
        exit(130)
    except SystemExit:
        raise
    except Exception as error:
        if args.debug:
            raise
        sys.exit(f"arv-mount: {explain(error)}")


if __name__ == "__main__":
    main()
