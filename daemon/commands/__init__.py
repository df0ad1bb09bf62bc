"""The bodies of the `patchline` commands, one file each."""
