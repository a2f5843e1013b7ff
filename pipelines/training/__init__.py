"""One training: its start, the match of student and cache, its evaluation, and the record that it leaves."""
