_base_ = ["../_base_/res_tiny.py"]
data = dict(dataset="own", overlap="union")
