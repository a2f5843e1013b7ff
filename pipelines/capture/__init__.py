"""Views, planning, the probe, running the teacher over a store's blocks, and a store checked against all of them."""
