"""Operators' commands. Thin: parse, call, print."""

# As `coild` does, which the plugin does not import: no file of ours may have the number of a
# standard stream that was closed.
import posix as _posix

while (_descriptor := _posix.open("/dev/null", _posix.O_RDWR)) <= 2:
    _posix.set_inheritable(_descriptor, True)
_posix.close(_descriptor)
