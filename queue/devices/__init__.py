"""Paired devices, as their owners meet them: the list, pairing, renaming and revoking."""
