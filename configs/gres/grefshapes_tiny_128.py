_base_ = ["../_base_/gres_tiny.py"]
data = dict(root="data/refshapes", dataset="grefshapes")
