"""The patchline service: frames in over ZeroMQ, one verdict per part out."""
