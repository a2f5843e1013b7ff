"""What people look at: the report of runs, and the figures, charts and pictures of a store."""
