"""Data sets as tensors with stable example ids: the named ones and a user's own."""

from unmask.data.dataset import DataSet
from unmask.data.registry import DATA_SETS, available, load_data

__all__ = ["DATA_SETS", "DataSet", "available", "load_data"]
