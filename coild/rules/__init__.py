"""What is true of addresses, pools and events, without a clock, a disk or a loop."""

__all__ = ["addresses", "events", "holding", "printable", "projection", "units"]
