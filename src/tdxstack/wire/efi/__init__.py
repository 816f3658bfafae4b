"""Structures of the UEFI and PI specifications: firmware volumes, variables, device paths."""
