"""What the daemon runs by: flags, environment and file, checked."""

__all__ = ["config", "layers", "parser"]
