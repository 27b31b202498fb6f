"""The ways in: in the same process, and over sockets."""
