# RefTR's Flickr30k Entities recipe without pre-training; its authors train on train and val
# together (data.train_split = ["train", "val"]).
_base_ = ["../_base_/ground_sd15.py"]
task = "phrase"
data = dict(dataset="flickr30k")
optim = dict(schedule="cosine", warmup_epochs=5, lr_batch=64)
schedule = dict(epochs=60, batch_size=16)
