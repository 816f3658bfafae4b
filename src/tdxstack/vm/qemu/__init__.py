"""QEMU: its command line and its monitor."""
