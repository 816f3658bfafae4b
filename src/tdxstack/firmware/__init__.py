"""TDVF files: what they hold, secure boot keys and variables in them, and what a change does to the registers."""
