"""Looking for models on the hub."""
