"""A node IPAM daemon: pod addresses over REST, served from a durable journal."""

# Before anything of ours is opened: a file under the number of a standard stream that was closed
# would be written to by code that complains there, a child process too.
import posix as _posix


def _open_harmless() -> int:
    try:
        return _posix.open("/dev/null", _posix.O_RDWR)
    except OSError:
        # Without devices, as in a bare chroot: to read or write a directory fails, and harms none.
        return _posix.open("/", _posix.O_RDONLY)


while (_descriptor := _open_harmless()) <= 2:
    _posix.set_inheritable(_descriptor, True)
_posix.close(_descriptor)

#: What tools may import; so it is in each room: names, or modules as a whole, which cost nothing
#: until they are asked for.
__all__ = ["__version__", "vocabulary"]
__version__ = "0.1.0"
