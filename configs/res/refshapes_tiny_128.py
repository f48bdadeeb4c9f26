_base_ = ["../_base_/res_tiny.py"]
data = dict(root="data/refshapes", dataset="refshapes", overlap="union")
