"""A node IPAM daemon: pod addresses over REST, served from a durable journal."""

# Before anything of ours is opened: a file under the number of a standard stream that was closed
# would be written to by whoever complains there, a child too.
import posix as _posix

while (_descriptor := _posix.open("/dev/null", _posix.O_RDWR)) <= 2:
    _posix.set_inheritable(_descriptor, True)
_posix.close(_descriptor)

__version__ = "0.1.0"
