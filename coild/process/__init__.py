"""The daemon as a process of its system: sockets, signals, log, clock, service manager."""

__all__ = ["address_file", "bars", "clock", "clock_watch", "open_files"]
