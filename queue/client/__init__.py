"""The client's side of docs/sync.md: pairing, delivery, the courier, and the pages that only a client has."""
