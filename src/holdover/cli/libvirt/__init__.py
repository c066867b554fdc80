"""`holdover libvirt`."""
