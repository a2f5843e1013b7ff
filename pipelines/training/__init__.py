"""The start of a training, the match of cache and student, evaluation and the record of a run."""
