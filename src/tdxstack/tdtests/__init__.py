"""The tests of the stack itself, on real machines: white paper section 3.5.3 and table 6, as a pytest plugin."""
