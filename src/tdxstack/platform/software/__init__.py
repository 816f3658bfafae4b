"""The software TDX platform: stands in for the CPU, the TDX module and the quoting enclave. It protects nothing.

Everything that it makes carries the word ``software`` and chains to a root of its own, which no verifier trusts
unless told to by name. Importing this package imports nothing: its ``guest`` part runs inside guests.
"""
