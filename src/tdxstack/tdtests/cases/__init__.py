"""The cases, one module for each line of the white paper's table 6 and for each further area."""
