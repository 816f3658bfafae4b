"""What a TD runs on: TDX hardware or the software platform, behind the protocols of :mod:`tdxstack.platform.base`.

Some modules of this package also run inside guests; importing it imports nothing.
"""
