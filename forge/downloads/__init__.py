"""Downloads: owned by this server, done by the nodes; and the pages that start them."""
