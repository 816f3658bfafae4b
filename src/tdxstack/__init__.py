"""tdxstack: from a bare Linux machine to an attested Intel TDX trust domain, and keeping it."""

__version__ = "0.1.0"
