_base_ = ["../_base_/res_sd15.py"]
data = dict(dataset="own", overlap="union")
