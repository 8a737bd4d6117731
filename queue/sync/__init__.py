"""The server's side of docs/sync.md: what paired devices call."""
