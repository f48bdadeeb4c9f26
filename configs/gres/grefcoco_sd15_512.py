_base_ = ["../_base_/gres_sd15.py"]
