_base_ = ["../../_base_/ground_masks_sd15.py"]
data = dict(dataset="refcocog")
