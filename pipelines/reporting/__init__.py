"""Pages, charts, pictures and figures for people."""
