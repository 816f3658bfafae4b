"""Bring the stack onto hosts: install on this machine, and on many by Ansible."""
