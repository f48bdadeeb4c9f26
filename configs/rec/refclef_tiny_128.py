_base_ = ["../_base_/ground_tiny.py"]
data = dict(dataset="refclef")
