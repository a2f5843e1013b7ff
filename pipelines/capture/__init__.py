"""Views, planning, the probe, and running the teacher over a store's blocks."""
