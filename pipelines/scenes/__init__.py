"""The built-in synthetic aerial scenes."""
