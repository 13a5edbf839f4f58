"""Real data in, tasks out: sources, splits, normalisation, augmentation."""

from tsn_toolkit.data.augment import augment
from tsn_toolkit.data.loading import data_hash, load_data
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.data.splits import load_task, make_tasks, task_names, whole_data

__all__ = ["augment", "data_hash", "load_data", "load_task", "make_tasks", "normalise", "task_names", "whole_data"]
