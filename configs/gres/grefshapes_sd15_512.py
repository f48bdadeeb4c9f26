_base_ = ["../_base_/gres_sd15.py"]
data = dict(root="data/refshapes", dataset="grefshapes")
