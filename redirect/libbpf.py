"""libbpf through ctypes: open, configure, load and attach objects; read and write maps.

Every failure is a BpfError that names the call, the object and the kernel's own last words. Descriptors are plain ints;
whoever calls owns them.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_F_ALLOW_MULTI = 2
BPF_F_RDONLY = 1 << 3

_LOG_LINES_KEPT = 40


class BpfError(OSError):
    """A refused BPF call; `errno` and a text that says what was tried and what the kernel answered."""


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts (libbpf.h), up to the field that is used here."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
    )


class _GetOptions(ctypes.Structure):
    """struct bpf_obj_get_opts (bpf.h)."""

    _fields_ = (("sz", ctypes.c_size_t), ("file_flags", ctypes.c_uint32), ("path_fd", ctypes.c_int))


_messages: list[str] = []
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def _keep_message(_level: int, text: bytes, arguments: int) -> int:
    buffer = ctypes.create_string_buffer(8192)
    ctypes.CDLL(None).vsnprintf(buffer, ctypes.c_size_t(len(buffer)), text, ctypes.c_void_p(arguments))
    _messages.extend(buffer.value.decode(errors="replace").splitlines())
    del _messages[:-_LOG_LINES_KEPT]
    return 0


_keep_message_callback = _PRINT(_keep_message)


@cache
def library() -> ctypes.CDLL:
    """Load libbpf once. Raises BpfError naming the package when it is missing or older than 1.0."""
    for name in ("libbpf.so.1", "/usr/lib/x86_64-linux-gnu/libbpf.so.1", "/usr/lib/aarch64-linux-gnu/libbpf.so.1"):
        try:
            lib = ctypes.CDLL(name, use_errno=True)
            break
        except OSError:
            continue
    else:
        raise BpfError(errno.ENOENT, "libbpf.so.1 is missing; on Debian: apt-get install libbpf1")
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "bpf_object__open_mem": (pointer, [text, ctypes.c_size_t, pointer]),
        "bpf_object__load": (integer, [pointer]),
        "bpf_object__close": (None, [pointer]),
        "bpf_object__next_map": (pointer, [pointer, pointer]),
        "bpf_object__next_program": (pointer, [pointer, pointer]),
        "bpf_map__name": (text, [pointer]),
        "bpf_map__fd": (integer, [pointer]),
        "bpf_map__reuse_fd": (integer, [pointer, integer]),
        "bpf_map__set_max_entries": (integer, [pointer, ctypes.c_uint32]),
        "bpf_map__max_entries": (ctypes.c_uint32, [pointer]),
        "bpf_map__initial_value": (pointer, [pointer, ctypes.POINTER(ctypes.c_size_t)]),
        "bpf_program__name": (text, [pointer]),
        "bpf_program__fd": (integer, [pointer]),
        "bpf_program__set_autoload": (integer, [pointer, ctypes.c_bool]),
        "bpf_link_create": (integer, [integer, integer, integer, pointer]),
        "bpf_program__expected_attach_type": (integer, [pointer]),
        "bpf_prog_attach": (integer, [integer, integer, integer, ctypes.c_uint]),
        "bpf_obj_pin": (integer, [integer, text]),
        "bpf_obj_get": (integer, [text]),
        "bpf_obj_get_opts": (integer, [text, pointer]),
        "bpf_obj_get_info_by_fd": (integer, [integer, pointer, ctypes.POINTER(ctypes.c_uint32)]),
        "bpf_map_lookup_elem": (integer, [integer, pointer, pointer]),
        "bpf_map_update_elem": (integer, [integer, pointer, pointer, ctypes.c_uint64]),
        "bpf_map_delete_elem": (integer, [integer, pointer]),
        "bpf_map_get_next_key": (integer, [integer, pointer, pointer]),
        "ring_buffer__new": (pointer, [integer, pointer, pointer, pointer]),
        "ring_buffer__consume": (integer, [pointer]),
        "ring_buffer__epoll_fd": (integer, [pointer]),
        "ring_buffer__free": (None, [pointer]),
        "libbpf_set_print": (pointer, [_PRINT]),
        "libbpf_num_possible_cpus": (integer, []),
    }
    for function, (result, arguments) in signatures.items():
        getattr(lib, function).restype = result
        getattr(lib, function).argtypes = arguments
    lib.libbpf_set_print(_keep_message_callback)
    return lib


def _failure(what: str, code: int | None = None) -> BpfError:
    number = code if code else ctypes.get_errno()
    said = "; ".join(line for line in _messages if line.strip())
    return BpfError(number, f"{what}: {os.strerror(number)}" + (f" [{said[-2000:]}]" if said else ""))


class BpfObject:
    """One compiled object: opened, configured, loaded. Closing it leaves pinned things in place."""

    def __init__(self, path: Path) -> None:
        """Read and parse the object file. Raises BpfError; a missing file names the way to build it."""
        self.name = path.name.removesuffix(".bpf.o")
        try:
            self._image = path.read_bytes()
        except FileNotFoundError:
            raise BpfError(errno.ENOENT, f"{path} is missing: it is built by `make -C redirect/bpf`") from None
        _messages.clear()
        options = _OpenOptions(ctypes.sizeof(_OpenOptions), self.name.encode())
        self._handle = library().bpf_object__open_mem(self._image, len(self._image), ctypes.byref(options))
        if not self._handle:
            raise _failure(f"cannot open BPF object {self.name}")

    def _each(self, following: str) -> Iterator[int]:
        step = getattr(library(), following)
        item = step(self._handle, None)
        while item:
            yield item
            item = step(self._handle, item)

    def _maps(self) -> dict[str, int]:
        return {library().bpf_map__name(m).decode(): m for m in self._each("bpf_object__next_map")}

    def _programs(self) -> dict[str, int]:
        return {library().bpf_program__name(p).decode(): p for p in self._each("bpf_object__next_program")}

    @property
    def program_names(self) -> list[str]:
        return list(self._programs())

    def only(self, name: str) -> None:
        """Load this program and no other of the object."""
        for program, handle in self._programs().items():
            library().bpf_program__set_autoload(handle, program == name)

    def configure(self, value: bytes) -> None:
        """Write the object's one constant (`cfg`, the whole of .rodata) before it is loaded. No-op if it has none."""
        for name, handle in self._maps().items():
            if name.endswith(".rodata"):
                size = ctypes.c_size_t()
                place = library().bpf_map__initial_value(handle, ctypes.byref(size))
                if size.value != len(value):
                    raise ValueError(f"{self.name}: .rodata has {size.value} bytes, the settings {len(value)}")
                ctypes.memmove(place, value, len(value))

    def share_maps(self, shared: dict[str, int], sizes: dict[str, int]) -> None:
        """Use the maps already made by another object; give those that are not made yet their size."""
        for name, handle in self._maps().items():
            if "." in name:
                continue
            if name in shared:
                if library().bpf_map__reuse_fd(handle, shared[name]):
                    raise _failure(f"{self.name}: cannot share map {name}")
            elif name in sizes:
                library().bpf_map__set_max_entries(handle, sizes[name])

    def load(self) -> dict[str, int]:
        """Load maps and programs; map names to descriptors, which live as long as this object."""
        _messages.clear()
        code = library().bpf_object__load(self._handle)
        if code:
            raise _failure(f"cannot load BPF object {self.name}", -code)
        _messages.clear()  # what was said of a success explains no later failure
        return {name: library().bpf_map__fd(handle) for name, handle in self._maps().items() if "." not in name}

    def program_fd(self, name: str) -> int:
        return int(library().bpf_program__fd(self._programs()[name]))

    def attach(self, name: str, target_fd: int) -> int:
        """Attach to a cgroup or network namespace by link, beside whoever is there; the link's descriptor."""
        program = self._programs()[name]
        kind = library().bpf_program__expected_attach_type(program)
        link = library().bpf_link_create(library().bpf_program__fd(program), target_fd, kind, None)
        if link < 0:
            raise _failure(f"cannot attach {name}", -link)
        return int(link)

    def attach_for_good(self, name: str, cgroup_fd: int) -> int:
        """Attach to a cgroup beside whoever is there, until the kernel frees the cgroup; the program's descriptor."""
        program = self._programs()[name]
        kind = library().bpf_program__expected_attach_type(program)
        fd = int(library().bpf_program__fd(program))
        code = library().bpf_prog_attach(fd, cgroup_fd, kind, BPF_F_ALLOW_MULTI)
        if code:
            raise _failure(f"cannot attach {name}", -code)
        return fd

    def close(self) -> None:
        if self._handle:
            library().bpf_object__close(self._handle)
            self._handle = None


def pin(fd: int, path: Path) -> None:
    """Give a program, link or map a name on bpffs, so that it outlives this process."""
    if library().bpf_obj_pin(fd, os.fsencode(path)):
        raise _failure(f"cannot pin {path}")


def open_pin(path: Path, *, read_only: bool = False) -> int:
    """A new descriptor of a pinned object."""
    options = _GetOptions(ctypes.sizeof(_GetOptions), BPF_F_RDONLY if read_only else 0, 0)
    fd = library().bpf_obj_get_opts(os.fsencode(path), ctypes.byref(options))
    if fd < 0:
        raise _failure(f"cannot open pin {path}", -fd)
    return int(fd)


def object_info(fd: int, size: int = 256) -> bytes:
    """struct bpf_{prog,map,link}_info (uapi/linux/bpf.h) as raw bytes, as long as the kernel filled it."""
    buffer = ctypes.create_string_buffer(size)
    length = ctypes.c_uint32(size)
    code = library().bpf_obj_get_info_by_fd(fd, buffer, ctypes.byref(length))
    if code:
        raise _failure("cannot read a BPF object's information", -code)
    return buffer.raw[: length.value]


class Map:
    """A map by descriptor, keys and values as bytes of exactly the map's sizes."""

    def __init__(self, fd: int, value_size: int, name: str = "map", key_size: int = 4) -> None:
        self.fd = fd
        self.value_size = value_size
        self.key_size = key_size
        self.name = name
        self._value = ctypes.create_string_buffer(value_size)
        self._lookup = library().bpf_map_lookup_elem

    def get(self, key: bytes) -> bytes | None:
        """The value, or None if there is no such key. Raises BpfError for any other refusal."""
        code = self._lookup(self.fd, key, self._value)
        if code == 0:
            return self._value.raw
        if -code == errno.ENOENT:
            return None
        raise _failure(f"cannot read map {self.name}", -code)

    def put(self, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
        code = library().bpf_map_update_elem(self.fd, key, value, flags)
        if code:
            raise _failure(f"cannot write map {self.name}", -code)

    def delete(self, key: bytes) -> bool:
        """False if it was not there."""
        code = library().bpf_map_delete_elem(self.fd, key)
        if code and -code != errno.ENOENT:
            raise _failure(f"cannot remove from map {self.name}", -code)
        return not code

    def keys(self) -> list[bytes]:
        """All keys of a map that nobody else changes meanwhile."""
        found: list[bytes] = []
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        while not library().bpf_map_get_next_key(self.fd, key, following):
            key = following.raw
            found.append(key)
        return found


_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class RingBuffer:
    """The events of a ring, handed over as bytes when `fd` becomes readable."""

    def __init__(self, map_fd: int) -> None:
        self._events: list[bytes] = []
        self._callback = _SAMPLE(self._keep)  # the kernel side calls it: it must not be collected
        self._handle = library().ring_buffer__new(map_fd, self._callback, None, None)
        if not self._handle:
            raise _failure("cannot map the event ring")
        self.fd = int(library().ring_buffer__epoll_fd(self._handle))

    def _keep(self, _context: int, data: int, size: int) -> int:
        self._events.append(ctypes.string_at(data, size))
        return 0

    def read(self) -> list[bytes]:
        library().ring_buffer__consume(self._handle)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        if self._handle:
            library().ring_buffer__free(self._handle)
            self._handle = None


def possible_cpus() -> int:
    return int(library().libbpf_num_possible_cpus())


def mount_bpffs(target: Path) -> int:
    """mount(2) of a bpffs; 0 or the error number."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(target), b"bpf", ctypes.c_ulong(0), b"mode=0700") == 0:
        return 0
    return ctypes.get_errno()


def filesystem_magic(path: Path) -> int:
    """f_type of statfs(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)
    if libc.statfs(os.fsencode(path), buffer):
        number = ctypes.get_errno()
        raise OSError(number, f"statfs {path}: {os.strerror(number)}")
    return int.from_bytes(buffer.raw[:8], "little") & 0xFFFFFFFF
