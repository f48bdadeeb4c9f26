_base_ = ["../_base_/ground_sd15.py"]
data = dict(root="data/refshapes", dataset="refshapes", overlap="union")
