"""Bytes to frozen values and back. Pure: the standard library only, no I/O, no clock."""
