"""A FUSE file system of attributes: directories and small files whose content is made when they are read.

It behaves as the kernel's own attribute file systems (configfs, sysfs) do towards what they do not allow: new files
EACCES; device nodes, links, renames, removal of attributes EPERM; an open for an access that the mode grants to
nobody EACCES, for root also.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from tdxstack.platform.software.guest import fuse
from tdxstack.platform.software.guest.fuse import Attributes, Opcode, Request, SetAttr

_WRITABLE = 0o222
_READABLE = 0o444


def refuse(number: int) -> OSError:
    """An error that the caller's system call is to end with."""
    return OSError(number, os.strerror(number))


class OpenFile(Protocol):
    """What one open(2) of an attribute gave."""

    def read(self, offset: int, size: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> int: ...

    def flush(self) -> None:
        """A descriptor of this open file was closed; others may be left."""
        ...


class Node:
    """A directory or attribute with its mode and owner. ``number`` is given when it becomes part of a file system."""

    def __init__(self, mode: int, size: int = 0) -> None:
        self.mode = mode
        self.size = size
        self.uid = self.gid = 0
        self.number = 0
        self.made = int(time.time())

    def attributes(self) -> Attributes:
        links = 2 if stat.S_ISDIR(self.mode) else 1
        return Attributes(self.number, self.mode, self.size, self.uid, self.gid, links, self.made)


class Attribute(Node):
    """A file; ``opener`` makes what one open(2) of it works on."""

    def __init__(self, permissions: int, size: int, opener: Callable[[], OpenFile]) -> None:
        super().__init__(stat.S_IFREG | permissions, size)
        self._opener = opener

    def open(self, flags: int) -> OpenFile:
        """Open it.

        Raises:
            OSError: EACCES if the mode grants this access to nobody.
        """
        access = flags & os.O_ACCMODE
        if access in (os.O_WRONLY, os.O_RDWR) and not self.mode & _WRITABLE:
            raise refuse(errno.EACCES)
        if access in (os.O_RDONLY, os.O_RDWR) and not self.mode & _READABLE:
            raise refuse(errno.EACCES)
        return self._opener()


class Directory(Node):
    """A directory. With ``make`` and ``drop`` it can have subdirectories made and removed in it."""

    def __init__(
        self,
        children: Mapping[str, Node] | None = None,
        *,
        make: Callable[[str], Directory] | None = None,
        drop: Callable[[Directory], None] | None = None,
    ) -> None:
        super().__init__(stat.S_IFDIR | 0o755)
        self.children: dict[str, Node] = dict(children or {})
        self.make = make
        self.drop = drop


class AttributeFileSystem:
    """Answers the kernel's requests for one mounted tree. Called by one thread."""

    def __init__(self, root: Directory) -> None:
        self._nodes: dict[int, Node] = {}
        self._files: dict[int, OpenFile] = {}
        self._last_node = self._last_handle = 0
        self._adopt(root)
        self._actions: dict[int, Callable[[Request], bytes]] = {
            Opcode.INIT: lambda request: fuse.init_body(request.version()),
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: lambda request: fuse.attributes_body(self._node(request).attributes()),
            Opcode.SETATTR: self._setattr,
            Opcode.MKDIR: self._mkdir,
            Opcode.RMDIR: self._rmdir,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.FLUSH: self._flush,
            Opcode.RELEASE: self._release,
            Opcode.OPENDIR: lambda request: fuse.open_body(0),
            Opcode.READDIR: self._readdir,
            Opcode.STATFS: lambda request: fuse.statfs_body(),
        }

    def handle(self, request: Request) -> bytes:
        """The body of the answer to ``request``.

        Raises:
            OSError: what the caller is to see.
        """
        action = self._actions.get(request.opcode)
        if action is not None:
            return action(request)
        if request.opcode in _NOTHING_TO_DO:
            return b""
        raise refuse(_REFUSALS.get(request.opcode, errno.ENOSYS))

    def _adopt(self, node: Node) -> None:
        self._last_node += 1
        node.number = self._last_node
        self._nodes[node.number] = node
        if isinstance(node, Directory):
            for child in node.children.values():
                self._adopt(child)

    def _forget(self, node: Node) -> None:
        self._nodes.pop(node.number, None)
        if isinstance(node, Directory):
            for child in node.children.values():
                self._forget(child)

    def _node(self, request: Request) -> Node:
        node = self._nodes.get(request.node)
        if node is None:
            raise refuse(errno.ENOENT)
        return node

    def _directory(self, request: Request) -> Directory:
        node = self._node(request)
        if not isinstance(node, Directory):
            raise refuse(errno.ENOTDIR)
        return node

    def _lookup(self, request: Request) -> bytes:
        child = self._directory(request).children.get(request.names()[0])
        if child is None:
            raise refuse(errno.ENOENT)
        return fuse.entry_body(child.attributes())

    def _setattr(self, request: Request) -> bytes:
        """chmod and chown hold until unmount; a new size is taken and means nothing, as in configfs and sysfs."""
        node = self._node(request)
        valid, mode, uid, gid = request.attributes()
        if valid & SetAttr.MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & SetAttr.UID:
            node.uid = uid
        if valid & SetAttr.GID:
            node.gid = gid
        return fuse.attributes_body(node.attributes())

    def _mkdir(self, request: Request) -> bytes:
        parent, name = self._directory(request), request.directory_name()
        if parent.make is None:
            raise refuse(errno.EPERM)
        if name in parent.children:
            raise refuse(errno.EEXIST)
        child = parent.make(name)
        self._adopt(child)
        parent.children[name] = child
        return fuse.entry_body(child.attributes())

    def _rmdir(self, request: Request) -> bytes:
        parent, name = self._directory(request), request.names()[0]
        child = parent.children.get(name)
        if child is None:
            raise refuse(errno.ENOENT)
        if parent.drop is None or not isinstance(child, Directory):
            raise refuse(errno.EPERM)
        parent.drop(child)
        del parent.children[name]
        self._forget(child)
        return b""

    def _open(self, request: Request) -> bytes:
        node = self._node(request)
        if not isinstance(node, Attribute):
            raise refuse(errno.EISDIR)
        opened = node.open(request.open_flags())
        self._last_handle += 1
        self._files[self._last_handle] = opened
        return fuse.open_body(self._last_handle, fuse.FOPEN_DIRECT_IO)

    def _file(self, handle: int) -> OpenFile:
        opened = self._files.get(handle)
        if opened is None:
            raise refuse(errno.EBADF)
        return opened

    def _read(self, request: Request) -> bytes:
        handle, offset, size = request.read_range()
        return self._file(handle).read(offset, size)

    def _write(self, request: Request) -> bytes:
        handle, offset, data = request.write_data()
        return fuse.write_body(self._file(handle).write(offset, data))

    def _flush(self, request: Request) -> bytes:
        self._file(request.handle()).flush()
        return b""

    def _release(self, request: Request) -> bytes:
        opened = self._files.pop(request.handle(), None)
        if opened is not None:
            opened.flush()
        return b""

    def _readdir(self, request: Request) -> bytes:
        directory = self._directory(request)
        _, offset, size = request.read_range()
        entries = [(directory.number, ".", directory.mode), (directory.number, "..", directory.mode)]
        entries += [(child.number, name, child.mode) for name, child in directory.children.items()]
        return fuse.directory_body(entries, offset, size)


_NOTHING_TO_DO = frozenset((Opcode.DESTROY, Opcode.RELEASEDIR, *fuse.SILENT))
_REFUSALS: Mapping[int, int] = {
    Opcode.CREATE: errno.EACCES,
    Opcode.MKNOD: errno.EPERM,
    Opcode.SYMLINK: errno.EPERM,
    Opcode.LINK: errno.EPERM,
    Opcode.UNLINK: errno.EPERM,
    Opcode.RENAME: errno.EPERM,
    Opcode.RENAME2: errno.EPERM,
    Opcode.FSYNC: errno.EINVAL,
    Opcode.IOCTL: errno.ENOTTY,
}
