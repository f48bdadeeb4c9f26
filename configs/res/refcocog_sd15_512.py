_base_ = ["../_base_/res_sd15.py"]
data = dict(dataset="refcocog", split_by="umd", token_length=77)
