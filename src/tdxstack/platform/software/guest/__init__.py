"""What a software platform puts into a guest in place of the TDX guest driver: devices, file systems, tables.

Unmodified clients find in a software TD what they find in a TD on hardware. Everything here is the standard library
alone; see ``docs/reference/guest.md`` for what is emulated, and how.
"""
