_base_ = ["../_base_/gres_tiny.py"]
