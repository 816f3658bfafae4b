"""libvirt: the domain XML of a TD."""
