_base_ = ["../_base_/res_tiny.py"]
data = dict(dataset="refcocog", split_by="umd", token_length=77)
