"""The teacher cache: regions, plan, on-disk format, writer and reader. NumPy, Zarr and TensorStore only."""

__version__ = "0.1.0"
