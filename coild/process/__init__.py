"""The daemon as a process of its system: sockets, signals, log, clock, service manager."""
