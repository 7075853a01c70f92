"""Operators' commands. Thin: parse, call, print."""

# As in `coild`, which the plugin does not import: no file that is opened may get the number of a
# standard stream that was closed.
import posix as _posix


def _open_harmless() -> int:
    try:
        return _posix.open("/dev/null", _posix.O_RDWR)
    except OSError:
        # Without devices, as in a bare chroot, a directory: to read or write it fails harmlessly.
        return _posix.open("/", _posix.O_RDONLY)


while (_descriptor := _open_harmless()) <= 2:
    _posix.set_inheritable(_descriptor, True)
_posix.close(_descriptor)
