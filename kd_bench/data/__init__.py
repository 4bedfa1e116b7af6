"""Images: one file per kind of source, and augmentation. (Batches: `training/epoch.py`.)"""
