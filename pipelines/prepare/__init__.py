"""Images and labels on disk -> what a config trains on."""
